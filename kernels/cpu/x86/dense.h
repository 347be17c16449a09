// dense: plain matrices in FP32. Included after generic.h and columns256.h or columns512.h.
#pragma once

#include "kernels/cpu/layout.h"
#include "kernels/store.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

template <DenseType TYPE>
QP_INLINE Floats load_dense(const void* rows, int64_t at) {
    if constexpr (TYPE == DenseType::f32) return load_floats(static_cast<const float*>(rows) + at);
    if constexpr (TYPE == DenseType::f16) return load_halves(static_cast<const uint16_t*>(rows) + at);
    return load_bfloats(static_cast<const uint16_t*>(rows) + at);
}

// ROWS rows by COLUMNS columns in registers.
template <DenseType TYPE, int ROWS, int COLUMNS>
QP_INLINE void dense_block(const DenseView& w, const float* x, int64_t ldx, int32_t n, float* out, int64_t ld,
                           Store store) {
    Floats sum[ROWS][COLUMNS];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) sum[r][c] = zero_floats();
    }
    int32_t k = 0;
    for (; k + 16 <= w.k; k += 16) {
        Floats weight[COLUMNS];
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) weight[c] = load_dense<TYPE>(w.rows, int64_t(n + c) * w.k + k);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            const Floats value = load_floats(x + r * ldx + k);
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; ++c) sum[r][c] = add(sum[r][c], mul(value, weight[c]));
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) {
        alignas(64) float tail[16] = {};  // a last part of under 16: sums of zeros change nothing
        for (int32_t j = 0; k + j < w.k; ++j) {
            const int64_t at = int64_t(n + c) * w.k + k + j;
            if constexpr (TYPE == DenseType::f32) {
                tail[j] = static_cast<const float*>(w.rows)[at];
            } else if constexpr (TYPE == DenseType::f16) {
                tail[j] = half_value(static_cast<const uint16_t*>(w.rows)[at]);
            } else {
                tail[j] = as_float(uint32_t(static_cast<const uint16_t*>(w.rows)[at]) << 16);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            if (k < w.k) {
                alignas(64) float value[16] = {};
                for (int32_t j = 0; k + j < w.k; ++j) value[j] = x[r * ldx + k + j];
                sum[r][c] = add(sum[r][c], mul(load_floats(value), load_floats(tail)));
            }
            const float folded = fold(sum[r][c]), y = w.bias ? folded + w.bias[n + c] : folded;
            float* to = out + r * ld + n + c;
            *to = store == Store::add ? *to + y : y;
        }
    }
}

template <DenseType TYPE>
void dense_tile(const DenseView& w, const float* x, int64_t ldx, int32_t rows, int32_t n0, int32_t n1, float* out,
                int64_t ld, Store store) {
    int32_t r = 0;
    for (; r + dense_rows <= rows; r += dense_rows) {
        int32_t n = n0;
        for (; n + dense_columns <= n1; n += dense_columns)
            dense_block<TYPE, dense_rows, dense_columns>(w, x + r * ldx, ldx, n, out + r * ld, ld, store);
        for (; n < n1; ++n) dense_block<TYPE, dense_rows, 1>(w, x + r * ldx, ldx, n, out + r * ld, ld, store);
    }
    for (; r < rows; ++r) {
        int32_t n = n0;
        for (; n + 4 <= n1; n += 4) dense_block<TYPE, 1, 4>(w, x + r * ldx, ldx, n, out + r * ld, ld, store);
        for (; n < n1; ++n) dense_block<TYPE, 1, 1>(w, x + r * ldx, ldx, n, out + r * ld, ld, store);
    }
}

void dense(const DenseView& w, const float* x, int64_t ldx, int32_t rows, int32_t n0, int32_t n1, float* out,
           int64_t ld, Store store) {
    // 16 columns at a time for all rows: their weights stay in the cache.
    for (int32_t n = n0; n < n1; n += tile_columns) {
        const int32_t end = n1 - n < tile_columns ? n1 : n + tile_columns;
        switch (w.type) {
            case DenseType::f32:
                dense_tile<DenseType::f32>(w, x, ldx, rows, n, end, out, ld, store);
                break;
            case DenseType::f16:
                dense_tile<DenseType::f16>(w, x, ldx, rows, n, end, out, ld, store);
                break;
            default:
                dense_tile<DenseType::bf16>(w, x, ldx, rows, n, end, out, ld, store);
                break;
        }
    }
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
