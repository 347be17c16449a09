// A packed matrix beside its weights as the reference decoder gives them: FP16 values.
#pragma once

#include <algorithm>
#include <vector>

#include "packed_matrix.h"

namespace quantplug::test {

struct DeviceMatrix : PackedMatrix {
    DeviceMatrix(TestQueue& queue, const QuantData& data) : PackedMatrix(queue, data.source) {
        const size_t k = size_t(view.k), n = size_t(view.n);
        std::vector<uint16_t> sorted(k * n);
        require_ok(decode_f16(data.source, 0, view.k, sorted.data()));
        weights.resize(k * n);
        for (size_t row = 0; row < k; ++row) {
            const size_t input = data.source.perm.empty() ? row : size_t(data.source.perm[row]);
            for (size_t c = 0; c < n; ++c) weights[input * n + c] = f16_to_f32(sorted[row * n + c]);
        }
    }
    DeviceMatrix(TestQueue& queue, const DenseData& data)
        : PackedMatrix(queue, data.source), exact(data.source.dtype == DType::f16) {
        for (const double v : exact_weights(data)) weights.push_back(float(v));
    }

    float at(int32_t input, int32_t column) const { return weights[size_t(input) * size_t(view.n) + size_t(column)]; }
    int32_t gather(int32_t row) const { return host.gather[row]; }
    /// How far a decoded weight may be from its value: quantised and FP16 ones are exact; others are rounded to FP16
    /// after division by a power of two that brings the column's largest to 0.5 .. 1, and the decoded value to FP16
    /// once more.
    float tolerance(int32_t input, int32_t column) const {
        if (exact) return 0;
        float largest = 0;
        for (int32_t i = 0; i < view.k; ++i) largest = std::max(largest, std::fabs(at(i, column)));
        return std::fabs(at(input, column)) * 0x1p-11f + largest * 0x1p-24f + 0x1p-25f;
    }

    bool exact = true;
    std::vector<float> weights;  // (K, N), inputs in their own order
};

}  // namespace quantplug::test
