// Matrices as a backend's reader yields them; formats end here.
//
// A linear layer computes y = x W + bias with W (K, N) = (in_features, out_features).
// A quantised W is, in *sorted* row order r with perm[r] = input row:
//   W[perm[r], n] = RN16(scale[g(r), n] * (code[r, n] - zero[g(r), n]))      zero = 2^(bits-1) where none are stored
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/status.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

enum class DType : uint8_t { f32, f16, bf16 };

/// A run of consecutive sorted rows with one bit width, one scale and one zero point per column.
struct QuantGroup {
    int32_t bits;  // 2, 3, 4, 5, 6, 7, 8; 7 is packed as 8
    int32_t rows;  // > 0, any number: a packer pads a group to whole chunks
    bool operator==(const QuantGroup&) const = default;
};

/// What decides the size of a packed matrix; known from file headers alone.
struct MatrixShape {
    int32_t in_features = 0, out_features = 0;  // K, N
    std::vector<QuantGroup> groups;             // empty: a dense matrix of `dtype`
    DType dtype = DType::f16;
    bool has_zeros = false, has_perm = false, has_bias = false;
};

/// A quantised matrix: codes are streamed, the rest is small and held.
struct QuantSource {
    int32_t in_features = 0, out_features = 0;  // K, N (columns that pad N in the file are already dropped)
    std::vector<QuantGroup> groups;             // in sorted row order, rows sum to K
    std::vector<int32_t> perm;                  // (K) perm[sorted row] = input row; empty = identity
    /// Codes of sorted rows row0 .. row0+rows-1, (rows, N), one byte each. Called in ascending order of row0, never
    /// across two groups.
    std::function<Status(int32_t row0, int32_t rows, uint8_t* codes)> read_codes;
    std::vector<uint16_t> scales;  // (groups, N) FP16 bits; FP32/BF16 files are rounded first
    std::vector<uint8_t> zeros;    // (groups, N), or empty = 2^(bits-1)
    std::vector<float> bias;       // (N), or empty

    MatrixShape shape() const {
        return {in_features, out_features, groups, DType::f16, !zeros.empty(), !perm.empty(), !bias.empty()};
    }
};

/// A plain matrix, kept and multiplied as stored.
struct DenseSource {
    int32_t in_features = 0, out_features = 0;  // K, N; stored (N, K) as checkpoints do
    DType dtype = DType::f16;
    /// Rows row0 .. row0+rows-1 of the (N, K) matrix into `out`, rows * K values of `dtype`.
    std::function<Status(int32_t row0, int32_t rows, void* out)> read_rows;
    std::vector<float> bias;  // (N), or empty

    MatrixShape shape() const { return {in_features, out_features, {}, dtype, false, false, !bias.empty()}; }
};

/// Refuses groups that do not cover K, widths other than 2..8, sizes of scales/zeros/bias that do not fit, a perm that
/// is none, and scales that are NaN or infinite. INVALID_ARGUMENT, the message names the value.
QP_KERNELS_API Status validate(const QuantSource& source);

/// The reference decoder: sorted rows row0 .. row0+rows-1 as FP16 bits, `out` (rows, N). Bit for bit what the formats
/// define.
QP_KERNELS_API Status decode_f16(const QuantSource& source, int32_t row0, int32_t rows, uint16_t* out);

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
