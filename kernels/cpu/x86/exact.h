// product_exact: a chunk is decoded to the format's FP16 values, then multiplied in FP32. Included after columns256.h
// or columns512.h.
#pragma once

#include "kernels/cpu/x86/tiles.h"
#include "kernels/cpu/x86/unpack.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

// weights (32 rows, 16 columns).
template <int BITS>
void decode_chunk(const uint8_t* codes, Ints zero, Floats scale, float* weights) {
    const Ints low = all_ints(255);
    const auto store = [&](int row, Ints code) __attribute__((always_inline)) {
        store_floats(weights + 16 * row, round_to_half(mul(scale, to_floats(sub(code, zero)))));
    };
    for_quads<BITS>(
        codes, [&](int q, Ints quad) __attribute__((always_inline)) {
            store(4 * q, bits_and(quad, low));
            store(4 * q + 1, bits_and(shift_right<16>(quad), low));
            store(4 * q + 2, bits_and(shift_right<8>(quad), low));
            store(4 * q + 3, shift_right<24>(quad));
        });
}

// One row of a decoded chunk: four running sums (4, 16 columns), by row modulo 4.
QP_INLINE void exact_row(const float* weights, const float* value, float* sums) {
    Floats lane[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) lane[j] = load_floats(sums + 16 * j);
    for (int k = 0; k < chunk_rows; k += 4) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
            lane[j] = add(lane[j], mul(broadcast_float(value + k + j), load_floats(weights + 16 * (k + j))));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) store_floats(sums + 16 * j, lane[j]);
}

template <int BITS>
void exact_section(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t rows,
                   int32_t chunk, float* sums) {
    alignas(64) float weights[chunk_rows * 16];
    for (int32_t g = 0; g < tile.n_groups; ++g) {
        const Ints zero = group_zeros(tile, g);
        const Floats scale = load_halves(tile.scales + 16 * g);
        for (int32_t end = chunk + tile.groups[g].chunks; chunk < end; ++chunk, codes += BITS * chunk_bytes_per_bit) {
            decode_chunk<BITS>(codes, zero, scale, weights);
            for (int32_t r = 0; r < rows; ++r)
                exact_row(weights, x.value + (int64_t(chunk) * x.rows + row0 + r) * chunk_rows, sums + 64 * r);
        }
    }
}

void product_exact(const QuantView& w, const ActView& x, int32_t rows, int32_t tile0, int32_t tile1, float* out,
                   int64_t ld, Store store) {
    alignas(64) float sums[row_block * 64];
    for (int32_t row0 = 0; row0 < rows; row0 += row_block) {
        const int32_t n = rows - row0 < row_block ? rows - row0 : row_block;
        for (int32_t tile = tile0; tile < tile1; ++tile) {
            for (int32_t i = 0; i < n * 64; ++i) sums[i] = 0;
            for_sections(w, tile, [&](auto width, const uint8_t* codes, const TileGroups& groups, int32_t chunk) {
                exact_section<decltype(width)::bits>(codes, groups, x, row0, n, chunk, sums);
            });
            for (int32_t r = 0; r < n; ++r) {
                float* lane = sums + 64 * r;
                float total[16];
                for (int32_t c = 0; c < 16; ++c) total[c] = (lane[c] + lane[16 + c]) + (lane[32 + c] + lane[48 + c]);
                store_tile(w, tile, total, out + int64_t(row0 + r) * ld, store);
            }
        }
    }
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
