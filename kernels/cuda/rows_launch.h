// Launchers' side of rows_block.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/rows_block.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t widest_operand_row = 65536;  // 128 KB of shared memory, which sm_75 does not have: 32768 there

/// A multiple of 32 from 128 to 1024: eight values a thread where that is enough. A function of the width alone, and
/// with it the order of a row's sums.
inline uint32_t row_threads(int32_t width) {
    return std::clamp(ceil_div(uint64_t(std::max(width, 0)), 256) * 32, 128u, 1024u);
}
inline size_t staged_bytes(int32_t width) { return size_t(ceil_div(uint64_t(width), 4)) * 8; }

inline bool aligned_to_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
/// Every row's columns that are multiples of four are aligned to 16 bytes.
inline bool wide_rows(const RowsView& rows) { return aligned_to_16(rows.x) && rows.ld % 4 == 0; }

inline Status refuse_rows(const char* kernel, const std::string& why) {
    return Status::error(invalid_argument, std::string("CUDA kernel ") + kernel + ": " + why);
}
/// An operand that the kernels of rows can write: of a row of `width` values, in the order of `matrix`.
inline Status check_operand(const char* kernel, const MatrixView& matrix, const Operand& operand, int32_t width) {
    if (width > widest_operand_row)
        return refuse_rows(kernel, "rows of " + std::to_string(width) + " values; at most " +
                                       std::to_string(widest_operand_row) + " can be an operand");
    if (matrix.k > width || matrix.k_padded % 8 != 0 || operand.ld < matrix.k_padded || operand.ld % 8 != 0)
        return refuse_rows(kernel, "a matrix of " + std::to_string(matrix.k) + " inputs, padded to " +
                                       std::to_string(matrix.k_padded) + ", does not fit rows of " +
                                       std::to_string(width) + " in an operand of " + std::to_string(operand.ld));
    if (!aligned_to_16(operand.x) || !aligned_to_16(matrix.gather))
        return refuse_rows(kernel, "an operand or a gather table that is not aligned to 16 bytes");
    return {};
}

inline RowIn row_in(const RowsView& view) { return {view.x, view.ld, wide_rows(view)}; }
inline RowOut row_out(const RowsView& view) { return {view.x, view.ld, wide_rows(view)}; }
inline OperandOut operand_out(const MatrixView& matrix, const Operand& operand, Saturation* saturation) {
    return {{matrix.gather, matrix.k_padded}, operand.x, operand.ld, std::ldexp(1.0f, -operand.exponent), saturation};
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
