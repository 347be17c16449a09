// standard compute with vpdpbusd, which multiplies unsigned by signed bytes and adds four products to a 32-bit lane.
// Included after generic.h and columns256.h or columns512.h.
//
// An activation's 16 bits are two signed bytes, x = 256 high + low, so that a quad of codes meets two instructions and
// sum(x w) = 256 sum(high w) + sum(low w), the integer that the other instruction sets have. A row's chunk in ActView
// is then 32 high and 32 low bytes, in the planes' order of rows.
#pragma once

#include "kernels/cpu/x86/tiles.h"
#include "kernels/cpu/x86/unpack.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr int32_t quads = chunk_rows / 4;

// 32 values of 16 bits, each within a byte, as bytes in the order 0, 2, 1, 3 of every four.
QP_INLINE void store_bytes(int8_t* at, __m256i first, __m256i second) {
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0xd8);
    const __m256i order = _mm256_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15,  //
                                           0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm256_shuffle_epi8(bytes, order));
}

// As quantize, with the chunks split into bytes.
void quantize_bytes(const float* x, const int32_t* gather, int32_t k, int32_t chunks, int32_t rows, int16_t* q,
                    float* scale, int32_t* sum) {
    alignas(32) int16_t code[chunk_rows];
    float values[chunk_rows];
    const __m256i half = _mm256_set1_epi16(128);
    for (int32_t c = 0; c < chunks; ++c) {
        const int64_t at = int64_t(c) * rows;
        sort_chunk(x, gather, k, c, values);
        quantize_chunk(values, code, scale + at, sum + at);
        const __m256i a = _mm256_load_si256(reinterpret_cast<const __m256i*>(code)),
                      b = _mm256_load_si256(reinterpret_cast<const __m256i*>(code + 16));
        const __m256i high_a = _mm256_srai_epi16(_mm256_add_epi16(a, half), 8),
                      high_b = _mm256_srai_epi16(_mm256_add_epi16(b, half), 8);
        auto* bytes = reinterpret_cast<int8_t*>(q + at * chunk_rows);
        store_bytes(bytes, high_a, high_b);
        store_bytes(bytes + chunk_rows, _mm256_sub_epi16(a, _mm256_slli_epi16(high_a, 8)),
                    _mm256_sub_epi16(b, _mm256_slli_epi16(high_b, 8)));
    }
}

// A chunk's running sums of ROWS rows, from -zero * sum(x).
template <int ROWS>
struct ChunkSums {
    Ints high[ROWS], low[ROWS];
};

template <int ROWS>
QP_INLINE ChunkSums<ROWS> begin_chunk(Ints minus_zero, const int32_t* sums) {
    ChunkSums<ROWS> chunk;
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        chunk.high[r] = zero_ints();
        chunk.low[r] = mul(minus_zero, all_ints(sums[r]));
    }
    return chunk;
}

template <int ROWS>
QP_INLINE void add_codes(ChunkSums<ROWS>& chunk, Ints codes, const int8_t* x) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        add_quad(chunk.high[r], codes, x + 2 * chunk_rows * r);
        add_quad(chunk.low[r], codes, x + 2 * chunk_rows * r + chunk_rows);
    }
}

template <int ROWS>
QP_INLINE Floats chunk_value(const ChunkSums<ROWS>& chunk, int r, const float* scale) {
    return mul(to_floats(add(shift_left<8>(chunk.high[r]), chunk.low[r])), broadcast_float(scale));
}

// One section of a tile for ROWS rows, straight from the unpacking; total (ROWS, 16) goes on.
template <int BITS, int ROWS>
void few_rows(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t chunk,
              float* total) {
    for (int32_t g = 0; g < tile.n_groups; ++g) {
        const Ints minus_zero = sub(zero_ints(), group_zeros(tile, g));
        Floats sums[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) sums[r] = zero_floats();
        for (int32_t end = chunk + tile.groups[g].chunks; chunk < end; ++chunk, codes += BITS * chunk_bytes_per_bit) {
            prefetch_chunk<BITS>(codes);
            const int64_t at = int64_t(chunk) * x.rows + row0;
            const auto* bytes = reinterpret_cast<const int8_t*>(x.x + at * chunk_rows);
            ChunkSums<ROWS> isum = begin_chunk<ROWS>(minus_zero, x.sum + at);
            for_quads<BITS>(
                codes, [&](int q, Ints quad) __attribute__((always_inline)) { add_codes(isum, quad, bytes + 4 * q); });
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) sums[r] = add(sums[r], chunk_value(isum, r, x.scale + at + r));
        }
        const Floats scale = load_halves(tile.scales + 16 * g);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
            store_floats(total + 16 * r, add(load_floats(total + 16 * r), mul(sums[r], scale)));
    }
}

// ROWS rows of one unpacked chunk: the high bytes, then the low ones onto their sum. sums (ROWS, 16) of the group go
// on.
template <int ROWS>
QP_INLINE void block_rows(const Ints* codes, Ints minus_zero, const ActView& x, int64_t at, float* sums) {
    const auto* high = reinterpret_cast<const int8_t*>(x.x + at * chunk_rows);
    const int8_t* low = high + chunk_rows;
    Ints isum[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) isum[r] = zero_ints();
#pragma GCC unroll 8
    for (int q = 0; q < quads; ++q) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) add_quad(isum[r], codes[q], high + 2 * chunk_rows * r + 4 * q);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) isum[r] = add(shift_left<8>(isum[r]), mul(minus_zero, all_ints(x.sum[at + r])));
#pragma GCC unroll 8
    for (int q = 0; q < quads; ++q) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) add_quad(isum[r], codes[q], low + 2 * chunk_rows * r + 4 * q);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        const Floats value = mul(to_floats(isum[r]), broadcast_float(x.scale + at + r));
        store_floats(sums + 16 * r, add(load_floats(sums + 16 * r), value));
    }
}

__attribute__((noinline)) void block(const Ints* codes, Ints minus_zero, const ActView& x, int64_t at, int32_t rows,
                                     float* sums) {
    int32_t r = 0;
    if constexpr (register_rows == 8) {
        for (; r + 8 <= rows; r += 8) block_rows<8>(codes, minus_zero, x, at + r, sums + 16 * r);
    }
    for (; r + 4 <= rows; r += 4) block_rows<4>(codes, minus_zero, x, at + r, sums + 16 * r);
    for (; r + 2 <= rows; r += 2) block_rows<2>(codes, minus_zero, x, at + r, sums + 16 * r);
    if (r < rows) block_rows<1>(codes, minus_zero, x, at + r, sums + 16 * r);
}

// The same for many rows: a chunk is unpacked once for all.
template <int BITS>
void many_rows(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t rows,
               int32_t chunk, float* total) {
    alignas(64) float sums[row_block * 16];
    Ints quad_codes[quads];
    for (int32_t g = 0; g < tile.n_groups; ++g) {
        const Ints minus_zero = sub(zero_ints(), group_zeros(tile, g));
        for (int32_t i = 0; i < rows * 16; ++i) sums[i] = 0;
        for (int32_t end = chunk + tile.groups[g].chunks; chunk < end; ++chunk, codes += BITS * chunk_bytes_per_bit) {
            for_quads<BITS>(
                codes, [&](int q, Ints quad) __attribute__((always_inline)) { quad_codes[q] = quad; });
            block(quad_codes, minus_zero, x, int64_t(chunk) * x.rows + row0, rows, sums);
        }
        const Floats scale = load_halves(tile.scales + 16 * g);
        for (int32_t r = 0; r < rows; ++r)
            store_floats(total + 16 * r, add(load_floats(total + 16 * r), mul(load_floats(sums + 16 * r), scale)));
    }
}

template <int BITS>
void section_rows(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t rows,
                  int32_t chunk, float* total) {
    if (rows == 1) return few_rows<BITS, 1>(codes, tile, x, row0, chunk, total);
    if (rows == 2) return few_rows<BITS, 2>(codes, tile, x, row0, chunk, total);
    if constexpr (register_rows == 8) {
        if (rows == 4) return few_rows<BITS, 4>(codes, tile, x, row0, chunk, total);
        if (rows == 8) return few_rows<BITS, 8>(codes, tile, x, row0, chunk, total);
    }
    many_rows<BITS>(codes, tile, x, row0, rows, chunk, total);
}

void product(const QuantView& w, const ActView& x, int32_t rows, int32_t tile0, int32_t tile1, float* out, int64_t ld,
             Store store) {
    alignas(64) float total[row_block * 16];
    for (int32_t row0 = 0; row0 < rows; row0 += row_block) {
        const int32_t n = rows - row0 < row_block ? rows - row0 : row_block;
        for (int32_t tile = tile0; tile < tile1; ++tile) {
            for (int32_t i = 0; i < n * 16; ++i) total[i] = 0;
            for_sections(w, tile, [&](auto width, const uint8_t* codes, const TileGroups& groups, int32_t chunk) {
                section_rows<decltype(width)::bits>(codes, groups, x, row0, n, chunk, total);
            });
            for (int32_t r = 0; r < n; ++r) store_tile(w, tile, total + 16 * r, out + int64_t(row0 + r) * ld, store);
        }
    }
}

constexpr Table vnni_table(const char* name) {
    Table table = generic_table(name);
    table.quantize = quantize_bytes;
    table.product = product;
    table.product_exact = product_exact;
    table.dense = dense;
    table.multiply_add = multiply_add;
    return table;
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
