// Operands in the tests of kernels on rows: a matrix's row order without its weights, seeds of the shim's schedule.
#pragma once

#include <memory>

#include "kernels/cuda/layout.h"
#include "kernels/cuda/rows.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/kernels/support.h"
#if defined(QP_CUDA_SHIM)
#include "kernels/cuda/shim/launch.h"
#endif

namespace quantplug::test {

/// Another order of blocks and threads in the shim; a GPU has an own one each time.
inline void schedule(uint64_t seed) {
#if defined(QP_CUDA_SHIM)
    cuda::shim_settings().seed = seed;
#else
    (void)seed;
#endif
}

/// K' of k inputs in random order, with padding within and behind: `padding` rows in a hundred.
struct RowOrder {
    std::vector<int32_t> gather;
    int32_t k = 0;

    RowOrder(int32_t inputs, Random& random, int32_t padding = 3) : k(inputs) {
        std::vector<int32_t> inputs_in_order(static_cast<size_t>(k));
        std::iota(inputs_in_order.begin(), inputs_in_order.end(), 0);
        std::shuffle(inputs_in_order.begin(), inputs_in_order.end(), random);
        for (const int32_t input : inputs_in_order) {
            while (below(random, 100) < padding) gather.push_back(-1);
            gather.push_back(input);
        }
        gather.resize((gather.size() + 127) / 128 * 128, -1);
    }
    cuda::MatrixView view(const int32_t* device_gather) const {
        cuda::MatrixView out;
        out.gather = device_gather;
        out.k = k;
        out.k_padded = int32_t(gather.size());
        return out;
    }
};

/// What operand[p] must hold, `value` with an FP32 error of at most `error`: rounded to FP16, saturated.
inline bool is_half_of(uint16_t bits, double value, double error) {
    const double largest = 65504, got = double(f16_to_f32(bits));
    if (std::isnan(value)) return std::isnan(got);
    const double want = std::clamp(value, -largest, largest);
    return std::abs(got - want) <= std::abs(want) * 0x1p-11 + 0x1p-25 + error;
}

inline std::vector<float> random_rows(size_t rows, int64_t ld, Random& random, float sigma = 1) {
    std::vector<float> values(rows * size_t(ld));
    for (float& v : values) v = gauss(random, sigma);
    return values;
}

}  // namespace quantplug::test
