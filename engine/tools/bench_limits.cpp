#include <chrono>
#include <numeric>

#include "engine/tools/bench.h"
#include "kernels/threads/pool.h"

namespace quantplug::engine {

namespace {

constexpr size_t buffer_words = size_t(32) << 20;  // 256 MB, beyond any cache
constexpr double enough_seconds = 0.4;

}  // namespace

BenchLimits bench_limits(int32_t threads) {
    BenchLimits limits;
    std::vector<uint64_t> buffer(buffer_words, 1), sums(static_cast<size_t>(threads));
    const auto read = [&] {
        kernels::run_parallel(threads, [&](int32_t index, int32_t count) {
            const size_t begin = buffer.size() * size_t(index) / size_t(count),
                         end = buffer.size() * size_t(index + 1) / size_t(count);
            uint64_t sum[8] = {};
            for (size_t i = begin; i + 8 <= end; i += 8)
                for (size_t j = 0; j < 8; ++j) sum[j] |= buffer[i + j];
            sums[size_t(index)] = std::accumulate(sum, sum + 8, uint64_t(0));
        });
    };
    const auto clock = [] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
    double best = 0;
    for (const double begin = clock(); clock() - begin < enough_seconds || best == 0;) {
        const double start = clock();
        read();
        best = std::max(best, double(buffer.size() * sizeof(uint64_t)) / (clock() - start));
    }
    limits.read_gb_per_s = best * 1e-9;
    return limits;
}

}  // namespace quantplug::engine
