// The same names as columns256.h: 16 lanes of 32 bits, one per column of a tile, as one register of 512 bits.
#pragma once

#include "kernels/cpu/x86/half.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

using Floats = __m512;
using Ints = __m512i;

// Rows and columns of a dense product that stay in 32 registers.
constexpr int dense_rows = 4, dense_columns = 4;

QP_INLINE Floats zero_floats() { return _mm512_setzero_ps(); }
QP_INLINE Floats load_floats(const float* at) { return _mm512_loadu_ps(at); }
QP_INLINE void store_floats(float* at, Floats x) { _mm512_storeu_ps(at, x); }
QP_INLINE Floats broadcast_float(const float* at) { return _mm512_set1_ps(*at); }
QP_INLINE Floats add(Floats x, Floats y) { return _mm512_add_ps(x, y); }
QP_INLINE Floats mul(Floats x, Floats y) { return _mm512_mul_ps(x, y); }
QP_INLINE Floats round_to_half(Floats x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
QP_INLINE Floats load_halves(const uint16_t* at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}
QP_INLINE Floats load_bfloats(const uint16_t* at) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
QP_INLINE Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
// The one tree of fold16.
QP_INLINE float fold(Floats x) {
    const __m256 high = _mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(x), 1));
    const __m256 l8 = _mm256_add_ps(_mm512_castps512_ps256(x), high);
    const __m128 l4 = _mm_add_ps(_mm256_castps256_ps128(l8), _mm256_extractf128_ps(l8, 1));
    const __m128 l2 = _mm_add_ps(l4, _mm_movehl_ps(l4, l4));
    return _mm_cvtss_f32(_mm_add_ss(l2, _mm_shuffle_ps(l2, l2, 1)));
}

QP_INLINE Ints zero_ints() { return _mm512_setzero_si512(); }
QP_INLINE Ints all_ints(int32_t x) { return _mm512_set1_epi32(x); }
QP_INLINE Ints all_bytes(int x) { return _mm512_set1_epi8(char(x)); }
QP_INLINE Ints load_ints(const uint8_t* at) { return _mm512_loadu_si512(at); }
// 16 bytes as 32-bit lanes.
QP_INLINE Ints widen_bytes(const uint8_t* at) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
QP_INLINE Ints add(Ints x, Ints y) { return _mm512_add_epi32(x, y); }
QP_INLINE Ints sub(Ints x, Ints y) { return _mm512_sub_epi32(x, y); }
QP_INLINE Ints mul(Ints x, Ints y) { return _mm512_mullo_epi32(x, y); }
QP_INLINE Ints bits_and(Ints x, Ints y) { return _mm512_and_si512(x, y); }
// x | (y & mask)
QP_INLINE Ints insert_bits(Ints x, Ints y, Ints mask) { return _mm512_ternarylogic_epi32(x, y, mask, 0xf8); }
template <int COUNT>
QP_INLINE Ints shift_left(Ints x) {
    return _mm512_slli_epi32(x, COUNT);
}
template <int COUNT>
QP_INLINE Ints shift_right(Ints x) {
    return _mm512_srli_epi32(x, COUNT);
}

// The compiler takes the value for unknown.
QP_INLINE void forget(Ints& x) { asm volatile("" : "+v"(x)); }
QP_INLINE void forget(Floats& x) { asm volatile("" : "+v"(x)); }

// Independent sums that fill the registers.
constexpr int peak_sums = 16;

// sum += x * y over unsigned and signed bytes, and over 16-bit values.
QP_INLINE void multiply_bytes(Ints& sum, Ints x, Ints y) { sum = _mm512_dpbusd_epi32(sum, x, y); }
QP_INLINE void multiply_words(Ints& sum, Ints x, Ints y) { sum = _mm512_dpwssd_epi32(sum, x, y); }

// Rows of a chunk whose sums stay in registers.
constexpr int register_rows = 8;

// sum += codes (unsigned bytes) * the four signed bytes at x, by columns.
QP_INLINE void add_quad(Ints& sum, Ints codes, const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    sum = _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(four));
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
