#include "kernels/limits.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/memory.h"
#include "kernels/threads/pool.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace {

constexpr uint64_t read_bytes = uint64_t(256) << 20;  // beyond any cache
constexpr uint64_t read_ahead = 4096;
constexpr double seconds_each = 0.15;
constexpr int64_t turns = 100000;

double seconds(clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

// The best of several runs: machines are shared. One thread: its own time, not that of its neighbours on the core.
template <class Work>
double best_time(int32_t threads, Work&& work) {
    const clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    double best = 1e30;
    const double begin = seconds(clock);
    for (int i = 0; i < 3 || seconds(clock) - begin < seconds_each; ++i) {
        const double start = seconds(clock);
        work();
        best = std::min(best, seconds(clock) - start);
    }
    return best;
}

using Words [[gnu::vector_size(16)]] = uint64_t;

// All bytes from begin to end, two lines a step.
uint64_t read_all(const uint8_t* begin, const uint8_t* end) {
    Words sums[8] = {};
    for (const uint8_t* at = begin; at + 128 <= end; at += 128) {
        __builtin_prefetch(at + read_ahead);
        __builtin_prefetch(at + read_ahead + 64);
        const auto* words = reinterpret_cast<const Words*>(at);
        for (int i = 0; i < 8; ++i) sums[i] |= words[i];
    }
    for (int i = 1; i < 8; ++i) sums[0] |= sums[i];
    return sums[0][0] | sums[0][1];
}

Status check_threads(int32_t threads) {
    if (threads >= 1 && threads <= 1024) return {};
    return Status::error(invalid_argument, "threads is " + std::to_string(threads) + ", outside 1..1024");
}

}  // namespace

Status measure_read(int32_t threads, double* gb_per_s) {
    if (Status status = check_threads(threads); !status.ok()) return status;
    const cpu::Mapping buffer(read_bytes, true);
    if (!buffer.data()) {
        return Status::error(resource_exhausted, "there is no memory for a buffer of " + std::to_string(read_bytes) +
                                                     " bytes to measure bandwidth with; free memory");
    }
    const auto part = [&](int32_t index, int32_t count) {
        return buffer.data() + read_bytes / 128 * uint64_t(index) / uint64_t(count) * 128;
    };
    run_parallel(threads, [&](int32_t index, int32_t count) {
        // Pages that were never written all read the one page of zeros.
        std::memset(part(index, count), 1, size_t(part(index + 1, count) - part(index, count)));
    });
    const double time = best_time(threads, [&] {
        run_parallel(threads, [&](int32_t index, int32_t count) {
            const uint64_t all = read_all(part(index, count), part(index + 1, count));
            asm volatile("" : : "r"(all));  // the reads happen
        });
    });
    *gb_per_s = double(read_bytes) / time * 1e-9;
    return {};
}

Status measure_limits(int32_t threads, Limits* out) {
    const cpu::Table* table = nullptr;
    if (Status status = cpu::machine_table(&table); !status.ok()) return status;
    if (Status status = measure_read(threads, &out->read_gb_per_s); !status.ok()) return status;
    const auto peak = [&](cpu::Arithmetic kind) {
        double operations = 0;
        const double time = best_time(threads, [&] {
            run_parallel(threads, [&](int32_t index, int32_t) {
                const double done = table->multiply_add(kind, turns);
                if (index == 0) operations = done;
            });
        });
        return operations * threads / time * 1e-9;
    };
    out->int8_gops = peak(cpu::Arithmetic::int8);
    out->int16_gops = peak(cpu::Arithmetic::int16);
    out->fp32_gflops = peak(cpu::Arithmetic::fp32);
    return {};
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
