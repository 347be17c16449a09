// What a CUDA card can do at most.
#include "kernels/limits.h"

#include <algorithm>
#include <vector>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/runtime.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

namespace {

constexpr int32_t n_runs = 9;

// Far beyond any L2, and no more than a quarter of what is free.
uint64_t copy_bytes(uint64_t free_bytes) { return std::min(uint64_t(1) << 30, free_bytes / 8) / 4096 * 4096; }

struct Timers {
    cuda::StreamHandle stream = nullptr;
    cuda::EventHandle begin = nullptr, end = nullptr;

    Status make() {
        Status status = cuda::create_stream(&stream);
        if (status.ok()) status = cuda::create_event(&begin);
        if (status.ok()) status = cuda::create_event(&end);
        return status;
    }
    ~Timers() {
        if (end) cuda::destroy_event(end);
        if (begin) cuda::destroy_event(begin);
        if (stream) cuda::destroy_stream(stream);
    }
};

}  // namespace

Status measure_cuda_copy(int32_t ordinal, double* gb_per_s) {
    int32_t n = 0;
    if (Status status = cuda::count_devices(&n); !status.ok()) return status;
    const cuda::UseDevice use(ordinal);
    if (!use.status().ok()) return use.status();
    uint64_t free_bytes = 0, total = 0;
    if (Status status = cuda::memory_info(&free_bytes, &total); !status.ok()) return status;
    const uint64_t bytes = copy_bytes(free_bytes);
    cuda::Block from, to;
    if (Status status = cuda::Block::make(bytes, cuda::Block::device, &from); !status.ok()) return status;
    if (Status status = cuda::Block::make(bytes, cuda::Block::device, &to); !status.ok()) return status;
    Timers timers;
    if (Status status = timers.make(); !status.ok()) return status;
    if (Status status = cuda::fill(timers.stream, from.data(), 0x5a, bytes); !status.ok()) return status;
    std::vector<double> rates;
    for (int32_t run = 0; run < n_runs; ++run) {
        Status status = cuda::record(timers.begin, timers.stream);
        if (status.ok()) status = cuda::copy_on_device(timers.stream, to.data(), from.data(), bytes);
        if (status.ok()) status = cuda::record(timers.end, timers.stream);
        if (status.ok()) status = cuda::wait_event(timers.end);
        float ms = 0;
        if (status.ok()) status = cuda::elapsed_ms(timers.begin, timers.end, &ms);
        if (!status.ok()) return status;
        if (run > 0) rates.push_back(2e-6 * double(bytes) / std::max(double(ms), 1e-6));  // read and written
    }
    std::nth_element(rates.begin(), rates.begin() + n_runs / 2, rates.end());
    *gb_per_s = rates[n_runs / 2];
    return {};
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
