// AVX2 + F16C. Sums, orders and roundings are portable.cpp's: same bits.
//
// standard: x and weights as 16-bit lanes, vpmaddwd: a plane's word gives rows (4q, 4q+1) and (4q+2, 4q+3) of its
// column, so that one broadcast of two activations meets 8 columns. 1, 2 or 4 rows take the weights straight from the
// unpacking; other numbers share a chunk unpacked to the stack.
#include "kernels/cpu/generic.h"
#include "kernels/cpu/x86/columns256.h"
#include "kernels/cpu/x86/dense.h"
#include "kernels/cpu/x86/exact.h"
#include "kernels/cpu/x86/peak.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr int32_t pairs = chunk_rows / 2;

// Two activations of 16 bits in every 32-bit lane.
QP_INLINE __m256i broadcast_pair(const int16_t* x) {
    int32_t two;
    __builtin_memcpy(&two, x, sizeof two);
    return _mm256_set1_epi32(two);
}

// sum += weights * x over pairs. The empty assembly keeps the sum in its register: GCC would turn the chain of
// additions into a tree and spill it.
QP_INLINE void add_pairs(__m256i& sum, __m256i weights, __m256i x) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(weights, x));
    asm("" : "+x"(sum));
}

// visit(pair, weights): the codes of rows 2*pair, 2*pair+1 as 16-bit lanes, for the 16 pairs of a chunk.
template <int BITS, class Visit>
QP_INLINE void for_pairs(const uint8_t* planes, Visit visit) {
    if constexpr (BITS == 2 || BITS == 4) {  // straight to 16-bit lanes, without bytes between
        constexpr int per_byte = 8 / BITS;
        const __m256i mask = _mm256_set1_epi16((1 << BITS) - 1);
        const auto field = [mask](__m256i plane, int shift) __attribute__((always_inline)) {
            const __m256i moved = shift ? _mm256_srli_epi16(plane, shift) : plane;
            return shift + BITS == 16 ? moved : _mm256_and_si256(moved, mask);
        };
#pragma GCC unroll 4
        for (int plane = 0; plane < BITS; ++plane) {
            const Ints words = load_ints(planes + 64 * plane);
#pragma GCC unroll 4
            for (int i = 0; i < per_byte; ++i) {
                const int pair = 2 * (plane * per_byte + i), even = BITS * i, odd = 8 + BITS * i;
                visit(pair, Ints{field(words.a, even), field(words.b, even)});
                visit(pair + 1, Ints{field(words.a, odd), field(words.b, odd)});
            }
        }
    } else {
        const Ints mask = all_ints(0x00ff00ff);
        for_quads<BITS>(
            planes, [&](int q, Ints bytes) __attribute__((always_inline)) {
                visit(2 * q, bits_and(bytes, mask));
                visit(2 * q + 1, Ints{_mm256_srli_epi16(bytes.a, 8), _mm256_srli_epi16(bytes.b, 8)});
            });
    }
}

// float(isum - zero * sum) * scale, added to a group's sum.
QP_INLINE Floats add_chunk(Floats sums, Ints isum, Ints zero, int32_t sum, const float* scale) {
    return add(sums, mul(to_floats(sub(isum, mul(zero, all_ints(sum)))), broadcast_float(scale)));
}

// One section of a tile for ROWS rows; total (ROWS, 16) goes on.
template <int BITS, int ROWS>
void few_rows(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t chunk,
              float* total) {
    for (int32_t g = 0; g < tile.n_groups; ++g) {
        const Ints zero = group_zeros(tile, g);
        Floats sums[ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) sums[r] = zero_floats();
        for (int32_t end = chunk + tile.groups[g].chunks; chunk < end; ++chunk, codes += BITS * chunk_bytes_per_bit) {
            prefetch_chunk<BITS>(codes);
            Ints isum[ROWS];
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) isum[r] = zero_ints();
            const int16_t* q = x.x + (int64_t(chunk) * x.rows + row0) * chunk_rows;
            for_pairs<BITS>(
                codes, [&](int pair, Ints w) __attribute__((always_inline)) {
#pragma GCC unroll 4
                    for (int r = 0; r < ROWS; ++r) {
                        const __m256i two = broadcast_pair(q + r * chunk_rows + 2 * pair);
                        add_pairs(isum[r].a, w.a, two);
                        add_pairs(isum[r].b, w.b, two);
                    }
                });
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) {
                const int64_t at = int64_t(chunk) * x.rows + row0 + r;
                sums[r] = add_chunk(sums[r], isum[r], zero, x.sum[at], x.scale + at);
            }
        }
        const Floats scale = load_halves(tile.scales + 16 * g);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r)
            store_floats(total + 16 * r, add(load_floats(total + 16 * r), mul(sums[r], scale)));
    }
}

// ROWS rows of one unpacked chunk, weights code - zero (pairs, 16 columns); sums (ROWS, 16) of the group go on.
template <int ROWS>
QP_INLINE void unpacked_rows(const Ints* weights, const int16_t* q, const float* scales, float* sums) {
    Ints isum[ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) isum[r] = zero_ints();
#pragma GCC unroll 16
    for (int pair = 0; pair < pairs; ++pair) {
        const Ints w = weights[pair];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            const __m256i two = broadcast_pair(q + r * chunk_rows + 2 * pair);
            add_pairs(isum[r].a, w.a, two);
            add_pairs(isum[r].b, w.b, two);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
        store_floats(sums + 16 * r,
                     add(load_floats(sums + 16 * r), mul(to_floats(isum[r]), broadcast_float(scales + r))));
    }
}

__attribute__((noinline)) void unpacked_block(const Ints* weights, const int16_t* q, const float* scales, int32_t rows,
                                              float* sums) {
    int32_t r = 0;
    for (; r + 4 <= rows; r += 4) unpacked_rows<4>(weights, q + r * chunk_rows, scales + r, sums + 16 * r);
    for (; r < rows; ++r) unpacked_rows<1>(weights, q + r * chunk_rows, scales + r, sums + 16 * r);
}

// The same for many rows: a chunk is unpacked once for all, its zero points taken off there.
template <int BITS>
void many_rows(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t rows,
               int32_t chunk, float* total) {
    float sums[row_block * 16];
    Ints weights[pairs];
    for (int32_t g = 0; g < tile.n_groups; ++g) {
        Ints zero = group_zeros(tile, g);
        zero = insert_bits(zero, shift_left<16>(zero), all_ints(-1));
        for (int32_t i = 0; i < rows * 16; ++i) sums[i] = 0;
        for (int32_t end = chunk + tile.groups[g].chunks; chunk < end; ++chunk, codes += BITS * chunk_bytes_per_bit) {
            for_pairs<BITS>(
                codes, [&](int pair, Ints w) __attribute__((always_inline)) {
                    weights[pair] = {_mm256_sub_epi16(w.a, zero.a), _mm256_sub_epi16(w.b, zero.b)};
                });
            const int64_t at = int64_t(chunk) * x.rows + row0;
            unpacked_block(weights, x.x + at * chunk_rows, x.scale + at, rows, sums);
        }
        const Floats scale = load_halves(tile.scales + 16 * g);
        for (int32_t r = 0; r < rows; ++r)
            store_floats(total + 16 * r, add(load_floats(total + 16 * r), mul(load_floats(sums + 16 * r), scale)));
    }
}

template <int BITS>
void section_rows(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t rows,
                  int32_t chunk, float* total) {
    switch (rows) {
        case 1:
            return few_rows<BITS, 1>(codes, tile, x, row0, chunk, total);
        case 2:
            return few_rows<BITS, 2>(codes, tile, x, row0, chunk, total);
        case 4:
            return few_rows<BITS, 4>(codes, tile, x, row0, chunk, total);
        default:
            return many_rows<BITS>(codes, tile, x, row0, rows, chunk, total);
    }
}

void product(const QuantView& w, const ActView& x, int32_t rows, int32_t tile0, int32_t tile1, float* out, int64_t ld,
             Store store) {
    float total[row_block * 16];
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

}  // namespace

const Table& avx2_table() {
    static constexpr Table table = [] {
        Table t = generic_table("avx2");
        t.product = product;
        t.product_exact = product_exact;
        t.dense = dense;
        t.multiply_add = multiply_add;
        return t;
    }();
    return table;
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
