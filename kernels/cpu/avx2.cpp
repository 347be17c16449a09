// AVX2 + F16C. Sums, orders and roundings are portable.cpp's: same bits.
//
// standard: x and weights as 16-bit lanes, vpmaddwd: a plane's word gives rows (4q, 4q+1) and (4q+2, 4q+3) of its
// column, so that one broadcast of two activations meets 8 columns. 1, 2 or 4 rows take the weights straight from the
// unpacking; other numbers share a chunk unpacked to the stack.
//
// Static functions only, no std:: and no other inline functions: what is compiled here must not be linked into a
// machine without AVX2.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/table.h"

#define QP_INLINE static inline __attribute__((always_inline))

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

// Binary16 bits of one value by the processor.
QP_INLINE float half_value(uint16_t bits) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))); }

void from_half(const uint16_t* x, int32_t n, float* out) {
    int32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
    for (; i < n; ++i) out[i] = half_value(x[i]);
}

// Values beyond FP16's range are stored as its largest, 65504: one outlier must not make a whole head NaN.
void to_half(const float* x, int32_t n, uint16_t* out) {
    const __m256 most = _mm256_set1_ps(65504.0f), least = _mm256_set1_ps(-65504.0f);
    int32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 clamped = _mm256_max_ps(least, _mm256_min_ps(most, _mm256_loadu_ps(x + i)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT));
    }
    for (; i < n; ++i) {
        const float clamped = x[i] > 65504.0f ? 65504.0f : x[i] < -65504.0f ? -65504.0f : x[i];
        out[i] = uint16_t(_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(clamped), _MM_FROUND_TO_NEAREST_INT), 0));
    }
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels

#include "kernels/cpu/generic.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

constexpr int32_t row_block = 64;  // rows that share one unpacking; their sums live on the stack
constexpr int32_t pairs = chunk_rows / 2;

QP_INLINE __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

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

QP_INLINE __m256 scales8(const uint16_t* scales) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
}
QP_INLINE __m256i zeros8(const uint8_t* zeros) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
}

// ---------------------------------------------------------------- unpacking

// The bytes of quad q, one code each, of 8 columns (`half`: which 8).
template <int BITS>
QP_INLINE __m256i quad_bytes(const uint8_t* planes, int q, int half) {
    const uint8_t* base = planes + 32 * half;
    if constexpr (BITS == 8) {
        return load(base + 64 * q);
    } else if constexpr (BITS >= 4) {
        __m256i v = load(base + 64 * (q / 2));
        v = _mm256_and_si256(q % 2 ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
        if constexpr (BITS == 5) {
            const __m256i h = load(base + 64 * 4);
            v = _mm256_or_si256(v, _mm256_and_si256(q <= 4 ? _mm256_slli_epi16(h, 4 - q) : _mm256_srli_epi16(h, q - 4),
                                                    _mm256_set1_epi8(16)));
        }
        if constexpr (BITS == 6) {
            const __m256i h = load(base + 64 * (4 + q / 4));
            const int shift = 2 * (q % 4);
            v = _mm256_or_si256(
                v, _mm256_and_si256(shift <= 4 ? _mm256_slli_epi16(h, 4 - shift) : _mm256_srli_epi16(h, shift - 4),
                                    _mm256_set1_epi8(48)));
        }
        return v;
    } else {
        __m256i v = load(base + 64 * (q / 4));
        const int shift = 2 * (q % 4);
        v = _mm256_and_si256(shift ? _mm256_srli_epi16(v, shift) : v, _mm256_set1_epi8(3));
        if constexpr (BITS == 3) {
            const __m256i h = load(base + 64 * 2);
            v = _mm256_or_si256(v, _mm256_and_si256(q <= 2 ? _mm256_slli_epi16(h, 2 - q) : _mm256_srli_epi16(h, q - 2),
                                                    _mm256_set1_epi8(4)));
        }
        return v;
    }
}

// visit(pair, columns 0-7, columns 8-15): the codes of rows 2*pair, 2*pair+1 as 16-bit lanes, for the 16 pairs of a
// chunk.
template <int BITS, class Visit>
QP_INLINE void for_pairs(const uint8_t* planes, Visit visit) {
    if constexpr (BITS == 2 || BITS == 4) {  // straight to 16-bit lanes, without bytes between
        constexpr int per_byte = 8 / BITS;
        const __m256i mask = _mm256_set1_epi16((1 << BITS) - 1);
#pragma GCC unroll 4
        for (int plane = 0; plane < BITS; ++plane) {
            const __m256i a = load(planes + 64 * plane), b = load(planes + 64 * plane + 32);
#pragma GCC unroll 4
            for (int field = 0; field < per_byte; ++field) {
                const int pair = 2 * (plane * per_byte + field), even = BITS * field, odd = 8 + BITS * field;
                visit(pair, _mm256_and_si256(even ? _mm256_srli_epi16(a, even) : a, mask),
                      _mm256_and_si256(even ? _mm256_srli_epi16(b, even) : b, mask));
                if (odd + BITS == 16) {
                    visit(pair + 1, _mm256_srli_epi16(a, odd), _mm256_srli_epi16(b, odd));
                } else {
                    visit(pair + 1, _mm256_and_si256(_mm256_srli_epi16(a, odd), mask),
                          _mm256_and_si256(_mm256_srli_epi16(b, odd), mask));
                }
            }
        }
    } else {
        const __m256i mask = _mm256_set1_epi16(255);
#pragma GCC unroll 8
        for (int q = 0; q < 8; ++q) {
            const __m256i a = quad_bytes<BITS>(planes, q, 0), b = quad_bytes<BITS>(planes, q, 1);
            visit(2 * q, _mm256_and_si256(a, mask), _mm256_and_si256(b, mask));
            visit(2 * q + 1, _mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
        }
    }
}

// ---------------------------------------------------------------- standard

// float(isum - zero * sum) * scale, added to a group's sum.
QP_INLINE __m256 add_chunk(__m256 sums, __m256i isum, __m256i zero, int32_t sum, float scale) {
    const __m256i centred = _mm256_sub_epi32(isum, _mm256_mullo_epi32(zero, _mm256_set1_epi32(sum)));
    return _mm256_add_ps(sums, _mm256_mul_ps(_mm256_cvtepi32_ps(centred), _mm256_set1_ps(scale)));
}

struct TileGroups {
    const uint16_t* scales;  // of the section's first group, 16 a group
    const uint8_t* zeros;    // or null
    const Group* groups;
    int32_t n_groups;
};

// One section of a tile for ROWS rows; total (ROWS, 16) goes on.
template <int BITS, int ROWS>
void few_rows(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t chunk,
              float* total) {
    for (int32_t g = 0; g < tile.n_groups; ++g) {
        const __m256i zero0 = tile.zeros ? zeros8(tile.zeros + 16 * g) : _mm256_set1_epi32(tile.groups[g].zero);
        const __m256i zero1 = tile.zeros ? zeros8(tile.zeros + 16 * g + 8) : zero0;
        __m256 sums[ROWS][2];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
        for (int32_t end = chunk + tile.groups[g].chunks; chunk < end; ++chunk, codes += BITS * chunk_bytes_per_bit) {
            __m256i isum[ROWS][2];
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) isum[r][0] = isum[r][1] = _mm256_setzero_si256();
            const int16_t* q = x.x + (int64_t(chunk) * x.rows + row0) * chunk_rows;
            for_pairs<BITS>(
                codes, [&](int pair, __m256i w0, __m256i w1) __attribute__((always_inline)) {
#pragma GCC unroll 4
                    for (int r = 0; r < ROWS; ++r) {
                        const __m256i two = broadcast_pair(q + r * chunk_rows + 2 * pair);
                        add_pairs(isum[r][0], w0, two);
                        add_pairs(isum[r][1], w1, two);
                    }
                });
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) {
                const int64_t at = int64_t(chunk) * x.rows + row0 + r;
                sums[r][0] = add_chunk(sums[r][0], isum[r][0], zero0, x.sum[at], x.scale[at]);
                sums[r][1] = add_chunk(sums[r][1], isum[r][1], zero1, x.sum[at], x.scale[at]);
            }
        }
        const __m256 scale0 = scales8(tile.scales + 16 * g), scale1 = scales8(tile.scales + 16 * g + 8);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            float* to = total + 16 * r;
            _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), _mm256_mul_ps(sums[r][0], scale0)));
            _mm256_storeu_ps(to + 8, _mm256_add_ps(_mm256_loadu_ps(to + 8), _mm256_mul_ps(sums[r][1], scale1)));
        }
    }
}

// ROWS rows of one unpacked chunk, weights code - zero (pairs, 2, 8 columns); sums (ROWS, 16) of the group go on.
template <int ROWS>
QP_INLINE void unpacked_rows(const __m256i (*weights)[2], const int16_t* q, const float* scales, float* sums) {
    __m256i isum[ROWS][2];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) isum[r][0] = isum[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 16
    for (int pair = 0; pair < pairs; ++pair) {
        const __m256i w0 = weights[pair][0], w1 = weights[pair][1];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            const __m256i two = broadcast_pair(q + r * chunk_rows + 2 * pair);
            add_pairs(isum[r][0], w0, two);
            add_pairs(isum[r][1], w1, two);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
        const __m256 scale = _mm256_broadcast_ss(scales + r);
        float* to = sums + 16 * r;
        _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), _mm256_mul_ps(_mm256_cvtepi32_ps(isum[r][0]), scale)));
        _mm256_storeu_ps(to + 8,
                         _mm256_add_ps(_mm256_loadu_ps(to + 8), _mm256_mul_ps(_mm256_cvtepi32_ps(isum[r][1]), scale)));
    }
}

__attribute__((noinline)) void unpacked_block(const __m256i (*weights)[2], const int16_t* q, const float* scales,
                                              int32_t rows, float* sums) {
    int32_t r = 0;
    for (; r + 4 <= rows; r += 4) unpacked_rows<4>(weights, q + r * chunk_rows, scales + r, sums + 16 * r);
    for (; r < rows; ++r) unpacked_rows<1>(weights, q + r * chunk_rows, scales + r, sums + 16 * r);
}

// The same for many rows: a chunk is unpacked once for all, its zero points taken off there.
template <int BITS>
void many_rows(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t rows,
               int32_t chunk, float* total) {
    float sums[row_block * 16];
    __m256i weights[pairs][2];
    for (int32_t g = 0; g < tile.n_groups; ++g) {
        __m256i zero0 = tile.zeros ? zeros8(tile.zeros + 16 * g) : _mm256_set1_epi32(tile.groups[g].zero);
        __m256i zero1 = tile.zeros ? zeros8(tile.zeros + 16 * g + 8) : zero0;
        zero0 = _mm256_or_si256(zero0, _mm256_slli_epi32(zero0, 16));
        zero1 = _mm256_or_si256(zero1, _mm256_slli_epi32(zero1, 16));
        for (int32_t i = 0; i < rows * 16; ++i) sums[i] = 0;
        for (int32_t end = chunk + tile.groups[g].chunks; chunk < end; ++chunk, codes += BITS * chunk_bytes_per_bit) {
            for_pairs<BITS>(
                codes, [&](int pair, __m256i w0, __m256i w1) __attribute__((always_inline)) {
                    weights[pair][0] = _mm256_sub_epi16(w0, zero0);
                    weights[pair][1] = _mm256_sub_epi16(w1, zero1);
                });
            const int64_t at = int64_t(chunk) * x.rows + row0;
            unpacked_block(weights, x.x + at * chunk_rows, x.scale + at, rows, sums);
        }
        const __m256 scale0 = scales8(tile.scales + 16 * g), scale1 = scales8(tile.scales + 16 * g + 8);
        for (int32_t r = 0; r < rows; ++r) {
            float *to = total + 16 * r, *from = sums + 16 * r;
            _mm256_storeu_ps(to, _mm256_add_ps(_mm256_loadu_ps(to), _mm256_mul_ps(_mm256_loadu_ps(from), scale0)));
            _mm256_storeu_ps(to + 8,
                             _mm256_add_ps(_mm256_loadu_ps(to + 8), _mm256_mul_ps(_mm256_loadu_ps(from + 8), scale1)));
        }
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

QP_INLINE void store_tile(const QuantView& w, int32_t tile, const float* sums, float* out, Store store) {
    const int32_t column0 = tile * tile_columns;
    const int32_t n = w.n - column0 < tile_columns ? w.n - column0 : tile_columns;
    for (int32_t c = 0; c < n; ++c) {
        const float y = w.bias ? sums[c] + w.bias[column0 + c] : sums[c];
        out[column0 + c] = store == Store::add ? out[column0 + c] + y : y;
    }
}

void product(const QuantView& w, const ActView& x, int32_t rows, int32_t tile0, int32_t tile1, float* out, int64_t ld,
             Store store) {
    float total[row_block * 16];
    for (int32_t row0 = 0; row0 < rows; row0 += row_block) {
        const int32_t n = rows - row0 < row_block ? rows - row0 : row_block;
        for (int32_t tile = tile0; tile < tile1; ++tile) {
            for (int32_t i = 0; i < n * 16; ++i) total[i] = 0;
            for (int32_t s = 0; s < w.n_sections; ++s) {
                const Section& section = w.sections[s];
                const uint8_t* codes = w.codes + uint64_t(tile) * w.tile_bytes + section.offset;
                const int64_t at = (int64_t(tile) * w.n_groups + section.group0) * tile_columns;
                const TileGroups groups = {w.scales + at, w.zeros ? w.zeros + at : nullptr, w.groups + section.group0,
                                           section.n_groups};
                switch (section.bits) {
                    case 2:
                        section_rows<2>(codes, groups, x, row0, n, section.chunk0, total);
                        break;
                    case 3:
                        section_rows<3>(codes, groups, x, row0, n, section.chunk0, total);
                        break;
                    case 4:
                        section_rows<4>(codes, groups, x, row0, n, section.chunk0, total);
                        break;
                    case 5:
                        section_rows<5>(codes, groups, x, row0, n, section.chunk0, total);
                        break;
                    case 6:
                        section_rows<6>(codes, groups, x, row0, n, section.chunk0, total);
                        break;
                    default:
                        section_rows<8>(codes, groups, x, row0, n, section.chunk0, total);
                        break;
                }
            }
            for (int32_t r = 0; r < n; ++r) store_tile(w, tile, total + 16 * r, out + int64_t(row0 + r) * ld, store);
        }
    }
}

// ---------------------------------------------------------------- exact

// A chunk as the format's FP16 values: weights (32 rows, 16 columns).
template <int BITS>
void decode_chunk(const uint8_t* codes, __m256i zero0, __m256i zero1, __m256 scale0, __m256 scale1, float* weights) {
    const auto value = [](__m256i code, __m256i zero, __m256 scale) __attribute__((always_inline)) {
        const __m256 exact = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_sub_epi32(code, zero)));
        return _mm256_cvtph_ps(_mm256_cvtps_ph(exact, _MM_FROUND_TO_NEAREST_INT));
    };
    const __m256i low = _mm256_set1_epi32(0xffff);
    for_pairs<BITS>(
        codes, [&](int pair, __m256i w0, __m256i w1) __attribute__((always_inline)) {
            float* to = weights + 32 * pair;
            _mm256_storeu_ps(to, value(_mm256_and_si256(w0, low), zero0, scale0));
            _mm256_storeu_ps(to + 8, value(_mm256_and_si256(w1, low), zero1, scale1));
            _mm256_storeu_ps(to + 16, value(_mm256_srli_epi32(w0, 16), zero0, scale0));
            _mm256_storeu_ps(to + 24, value(_mm256_srli_epi32(w1, 16), zero1, scale1));
        });
}

// One row of a decoded chunk: four running sums (4, 16 columns), by row modulo 4.
QP_INLINE void exact_row(const float* weights, const float* value, float* sums) {
    __m256 lane[4][2];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        lane[j][0] = _mm256_loadu_ps(sums + 16 * j);
        lane[j][1] = _mm256_loadu_ps(sums + 16 * j + 8);
    }
    for (int k = 0; k < chunk_rows; k += 4) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const __m256 x = _mm256_broadcast_ss(value + k + j);
            lane[j][0] = _mm256_add_ps(lane[j][0], _mm256_mul_ps(x, _mm256_loadu_ps(weights + 16 * (k + j))));
            lane[j][1] = _mm256_add_ps(lane[j][1], _mm256_mul_ps(x, _mm256_loadu_ps(weights + 16 * (k + j) + 8)));
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        _mm256_storeu_ps(sums + 16 * j, lane[j][0]);
        _mm256_storeu_ps(sums + 16 * j + 8, lane[j][1]);
    }
}

template <int BITS>
void exact_section(const uint8_t* codes, const TileGroups& tile, const ActView& x, int32_t row0, int32_t rows,
                   int32_t chunk, float* sums) {
    alignas(32) float weights[chunk_rows * 16];
    for (int32_t g = 0; g < tile.n_groups; ++g) {
        const __m256i zero0 = tile.zeros ? zeros8(tile.zeros + 16 * g) : _mm256_set1_epi32(tile.groups[g].zero);
        const __m256i zero1 = tile.zeros ? zeros8(tile.zeros + 16 * g + 8) : zero0;
        const __m256 scale0 = scales8(tile.scales + 16 * g), scale1 = scales8(tile.scales + 16 * g + 8);
        for (int32_t end = chunk + tile.groups[g].chunks; chunk < end; ++chunk, codes += BITS * chunk_bytes_per_bit) {
            decode_chunk<BITS>(codes, zero0, zero1, scale0, scale1, weights);
            for (int32_t r = 0; r < rows; ++r)
                exact_row(weights, x.value + (int64_t(chunk) * x.rows + row0 + r) * chunk_rows, sums + 64 * r);
        }
    }
}

void product_exact(const QuantView& w, const ActView& x, int32_t rows, int32_t tile0, int32_t tile1, float* out,
                   int64_t ld, Store store) {
    alignas(32) float sums[row_block * 64];
    for (int32_t row0 = 0; row0 < rows; row0 += row_block) {
        const int32_t n = rows - row0 < row_block ? rows - row0 : row_block;
        for (int32_t tile = tile0; tile < tile1; ++tile) {
            for (int32_t i = 0; i < n * 64; ++i) sums[i] = 0;
            for (int32_t s = 0; s < w.n_sections; ++s) {
                const Section& section = w.sections[s];
                const uint8_t* codes = w.codes + uint64_t(tile) * w.tile_bytes + section.offset;
                const int64_t at = (int64_t(tile) * w.n_groups + section.group0) * tile_columns;
                const TileGroups groups = {w.scales + at, w.zeros ? w.zeros + at : nullptr, w.groups + section.group0,
                                           section.n_groups};
                switch (section.bits) {
                    case 2:
                        exact_section<2>(codes, groups, x, row0, n, section.chunk0, sums);
                        break;
                    case 3:
                        exact_section<3>(codes, groups, x, row0, n, section.chunk0, sums);
                        break;
                    case 4:
                        exact_section<4>(codes, groups, x, row0, n, section.chunk0, sums);
                        break;
                    case 5:
                        exact_section<5>(codes, groups, x, row0, n, section.chunk0, sums);
                        break;
                    case 6:
                        exact_section<6>(codes, groups, x, row0, n, section.chunk0, sums);
                        break;
                    default:
                        exact_section<8>(codes, groups, x, row0, n, section.chunk0, sums);
                        break;
                }
            }
            for (int32_t r = 0; r < n; ++r) {
                float* lane = sums + 64 * r;
                float total[16];
                for (int32_t c = 0; c < 16; ++c) total[c] = (lane[c] + lane[16 + c]) + (lane[32 + c] + lane[48 + c]);
                store_tile(w, tile, total, out + int64_t(row0 + r) * ld, store);
            }
        }
    }
}

// ---------------------------------------------------------------- dense

template <DenseType TYPE>
QP_INLINE __m256 dense8(const void* rows, int64_t at) {
    if constexpr (TYPE == DenseType::f32) {
        return _mm256_loadu_ps(static_cast<const float*>(rows) + at);
    } else {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const uint16_t*>(rows) + at));
        if constexpr (TYPE == DenseType::f16) return _mm256_cvtph_ps(bits);
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
}

// The one tree of fold16.
QP_INLINE float fold(__m256 low, __m256 high) {
    const __m256 l8 = _mm256_add_ps(low, high);
    const __m128 l4 = _mm_add_ps(_mm256_castps256_ps128(l8), _mm256_extractf128_ps(l8, 1));
    const __m128 l2 = _mm_add_ps(l4, _mm_movehl_ps(l4, l4));
    return _mm_cvtss_f32(_mm_add_ss(l2, _mm_shuffle_ps(l2, l2, 1)));
}

// ROWS rows by COLUMNS columns in registers.
template <DenseType TYPE, int ROWS, int COLUMNS>
QP_INLINE void dense_block(const DenseView& w, const float* x, int64_t ldx, int32_t n, float* out, int64_t ld,
                           Store store) {
    __m256 sum[ROWS][COLUMNS][2];
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) sum[r][c][0] = sum[r][c][1] = _mm256_setzero_ps();
    }
    int32_t k = 0;
    for (; k + 16 <= w.k; k += 16) {
        __m256 weight[COLUMNS][2];
#pragma GCC unroll 4
        for (int c = 0; c < COLUMNS; ++c) {
            weight[c][0] = dense8<TYPE>(w.rows, int64_t(n + c) * w.k + k);
            weight[c][1] = dense8<TYPE>(w.rows, int64_t(n + c) * w.k + k + 8);
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
            const __m256 x0 = _mm256_loadu_ps(x + r * ldx + k), x1 = _mm256_loadu_ps(x + r * ldx + k + 8);
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS; ++c) {
                sum[r][c][0] = _mm256_add_ps(sum[r][c][0], _mm256_mul_ps(x0, weight[c][0]));
                sum[r][c][1] = _mm256_add_ps(sum[r][c][1], _mm256_mul_ps(x1, weight[c][1]));
            }
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) {
        alignas(32) float tail[16] = {};  // a last part of under 16: sums of zeros change nothing
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
                alignas(32) float value[16] = {};
                for (int32_t j = 0; k + j < w.k; ++j) value[j] = x[r * ldx + k + j];
                sum[r][c][0] = _mm256_add_ps(sum[r][c][0], _mm256_mul_ps(_mm256_load_ps(value), _mm256_load_ps(tail)));
                sum[r][c][1] =
                    _mm256_add_ps(sum[r][c][1], _mm256_mul_ps(_mm256_load_ps(value + 8), _mm256_load_ps(tail + 8)));
            }
            const float folded = fold(sum[r][c][0], sum[r][c][1]), y = w.bias ? folded + w.bias[n + c] : folded;
            float* to = out + r * ld + n + c;
            *to = store == Store::add ? *to + y : y;
        }
    }
}

template <DenseType TYPE>
void dense_columns(const DenseView& w, const float* x, int64_t ldx, int32_t rows, int32_t n0, int32_t n1, float* out,
                   int64_t ld, Store store) {
    int32_t r = 0;
    for (; r + 3 <= rows; r += 3) {
        int32_t n = n0;
        for (; n + 2 <= n1; n += 2) dense_block<TYPE, 3, 2>(w, x + r * ldx, ldx, n, out + r * ld, ld, store);
        if (n < n1) dense_block<TYPE, 3, 1>(w, x + r * ldx, ldx, n, out + r * ld, ld, store);
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
                dense_columns<DenseType::f32>(w, x, ldx, rows, n, end, out, ld, store);
                break;
            case DenseType::f16:
                dense_columns<DenseType::f16>(w, x, ldx, rows, n, end, out, ld, store);
                break;
            default:
                dense_columns<DenseType::bf16>(w, x, ldx, rows, n, end, out, ld, store);
                break;
        }
    }
}

}  // namespace

const Table& avx2_table() {
    static constexpr Table table = {"avx2", quantize, sort_values, product,   product_exact, dense,  rms_norm,
                                    rotate, silu_mul, to_half,     from_half, attend,        log_sum};
    return table;
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
