// Matrices of support.h packed into device memory, and the numbers that their kernels are held against.
#pragma once

#include <cmath>
#include <vector>

#include "device_array.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/views.h"
#include "kernels/half.h"
#include "support.h"

namespace quantplug::test {

/// A packed matrix: the image on the host, and in device memory.
class PackedMatrix {
 public:
    template <class Source>
    PackedMatrix(TestQueue& queue, const Source& source, int32_t n_multiprocessors = 16)
        : plan(cuda::plan_pack(source.shape(), n_multiprocessors)),
          image(packed(source, plan)),
          device_(queue, image),
          view(cuda::placed(plan, device_.data())),
          host(cuda::placed(plan, image.data())) {}

    cuda::PackPlan plan;
    std::vector<uint8_t> image;

 private:
    template <class Source>
    static std::vector<uint8_t> packed(const Source& source, const cuda::PackPlan& plan) {
        std::vector<uint8_t> bytes(plan.total, 0xcd);
        require_ok(cuda::pack_image(source, plan, bytes.data()));
        return bytes;
    }
    DeviceArray<uint8_t> device_;

 public:
    cuda::MatrixView view;  // pointers into device memory
    cuda::MatrixView host;  // into `image`
};

/// Rows of FP16 (rows, k) in input order as the matrix's operand (rows, ld); beyond K': NaN, which nothing may read.
inline std::vector<uint16_t> operand_of(const cuda::MatrixView& host, const std::vector<uint16_t>& x, int32_t rows,
                                        int32_t ld) {
    std::vector<uint16_t> out(size_t(rows) * size_t(ld), 0x7e00);
    for (int32_t r = 0; r < rows; ++r) {
        for (int32_t i = 0; i < host.k_padded; ++i) {
            const int32_t input = host.gather[i];
            out[size_t(r) * size_t(ld) + size_t(i)] =
                input < 0 ? uint16_t(0) : x[size_t(r) * size_t(host.k) + size_t(input)];
        }
    }
    return out;
}

/// W (K, N) in input order, scale * (code - zero) without the rounding to FP16.
inline std::vector<double> exact_weights(const QuantData& data) {
    const QuantSource& source = data.source;
    const size_t n = size_t(source.out_features);
    std::vector<double> w(size_t(source.in_features) * n);
    size_t row = 0;
    for (size_t g = 0; g < source.groups.size(); ++g) {
        for (int32_t i = 0; i < source.groups[g].rows; ++i, ++row) {
            const size_t input = source.perm.empty() ? row : size_t(source.perm[row]);
            for (size_t c = 0; c < n; ++c) {
                const int32_t zero =
                    source.zeros.empty() ? 1 << (source.groups[g].bits - 1) : int32_t(source.zeros[g * n + c]);
                w[input * n + c] =
                    double(f16_to_f32(source.scales[g * n + c])) * double(int32_t(data.codes[row * n + c]) - zero);
            }
        }
    }
    return w;
}

/// W (K, N) of a plain matrix, as stored.
inline std::vector<double> exact_weights(const DenseData& data) {
    const DenseSource& source = data.source;
    const size_t k = size_t(source.in_features), n = size_t(source.out_features);
    std::vector<double> w(k * n);
    for (size_t c = 0; c < n; ++c) {
        for (size_t i = 0; i < k; ++i) {
            float value = 0;
            uint16_t half = 0;
            if (source.dtype == DType::f32) {
                std::memcpy(&value, data.bytes.data() + (c * k + i) * 4, 4);
            } else {
                std::memcpy(&half, data.bytes.data() + (c * k + i) * 2, 2);
                value = source.dtype == DType::f16 ? f16_to_f32(half) : bf16_to_f32(half);
            }
            w[i * n + c] = double(value);
        }
    }
    return w;
}

inline std::vector<uint16_t> random_halves(size_t n, Random& random) {
    std::vector<uint16_t> x(n);
    for (uint16_t& v : x) v = f32_to_f16(gauss(random));
    return x;
}

}  // namespace quantplug::test
