// 16 lanes of 32 bits, one per column of a tile, as two registers of 256 bits. columns512.h has the same names.
#pragma once

#include "kernels/cpu/x86/half.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

struct Floats {
    __m256 a, b;
};
struct Ints {
    __m256i a, b;
};

// Rows and columns of a dense product that stay in 16 registers.
constexpr int dense_rows = 3, dense_columns = 2;

QP_INLINE Floats zero_floats() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
QP_INLINE Floats load_floats(const float* at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + 8)}; }
QP_INLINE void store_floats(float* at, Floats x) {
    _mm256_storeu_ps(at, x.a);
    _mm256_storeu_ps(at + 8, x.b);
}
QP_INLINE Floats broadcast_float(const float* at) {
    const __m256 x = _mm256_broadcast_ss(at);
    return {x, x};
}
QP_INLINE Floats add(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
QP_INLINE Floats mul(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
QP_INLINE Floats round_to_half(Floats x) {
    return {_mm256_cvtph_ps(_mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT)),
            _mm256_cvtph_ps(_mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT))};
}
QP_INLINE __m256 half8(const uint16_t* at) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
QP_INLINE Floats load_halves(const uint16_t* at) { return {half8(at), half8(at + 8)}; }
QP_INLINE __m256 bfloat8(const uint16_t* at) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
QP_INLINE Floats load_bfloats(const uint16_t* at) { return {bfloat8(at), bfloat8(at + 8)}; }
QP_INLINE Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
// The one tree of fold16.
QP_INLINE float fold(Floats x) {
    const __m256 l8 = _mm256_add_ps(x.a, x.b);
    const __m128 l4 = _mm_add_ps(_mm256_castps256_ps128(l8), _mm256_extractf128_ps(l8, 1));
    const __m128 l2 = _mm_add_ps(l4, _mm_movehl_ps(l4, l4));
    return _mm_cvtss_f32(_mm_add_ss(l2, _mm_shuffle_ps(l2, l2, 1)));
}

QP_INLINE Ints zero_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
QP_INLINE Ints all_ints(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
QP_INLINE Ints all_bytes(int x) { return {_mm256_set1_epi8(char(x)), _mm256_set1_epi8(char(x))}; }
QP_INLINE __m256i load256(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
QP_INLINE Ints load_ints(const uint8_t* at) { return {load256(at), load256(at + 32)}; }
// 16 bytes as 32-bit lanes.
QP_INLINE Ints widen_bytes(const uint8_t* at) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + 8)))};
}
QP_INLINE Ints add(Ints x, Ints y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
QP_INLINE Ints sub(Ints x, Ints y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
QP_INLINE Ints mul(Ints x, Ints y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
QP_INLINE Ints bits_and(Ints x, Ints y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
// x | (y & mask)
QP_INLINE Ints insert_bits(Ints x, Ints y, Ints mask) {
    return {_mm256_or_si256(x.a, _mm256_and_si256(y.a, mask.a)), _mm256_or_si256(x.b, _mm256_and_si256(y.b, mask.b))};
}
template <int COUNT>
QP_INLINE Ints shift_left(Ints x) {
    return {_mm256_slli_epi32(x.a, COUNT), _mm256_slli_epi32(x.b, COUNT)};
}
template <int COUNT>
QP_INLINE Ints shift_right(Ints x) {
    return {_mm256_srli_epi32(x.a, COUNT), _mm256_srli_epi32(x.b, COUNT)};
}

// The compiler takes the value for unknown.
QP_INLINE void forget(Ints& x) { asm volatile("" : "+x"(x.a), "+x"(x.b)); }
QP_INLINE void forget(Floats& x) { asm volatile("" : "+x"(x.a), "+x"(x.b)); }

// Independent sums that fill the registers.
constexpr int peak_sums = 5;

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
// Rows of a chunk whose sums stay in registers.
constexpr int register_rows = 4;

QP_INLINE __m256i dot_quad(__m256i sum, __m256i codes, __m256i x) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sum, codes, x);
#else
    return _mm256_dpbusd_epi32(sum, codes, x);  // the same operation in AVX-512's encoding
#endif
}
// sum += x * y over unsigned and signed bytes, and over 16-bit values.
QP_INLINE void multiply_bytes(Ints& sum, Ints x, Ints y) {
    sum = {dot_quad(sum.a, x.a, y.a), dot_quad(sum.b, x.b, y.b)};
}
QP_INLINE void multiply_words(Ints& sum, Ints x, Ints y) {
#if defined(__AVXVNNI__)
    sum = {_mm256_dpwssd_avx_epi32(sum.a, x.a, y.a), _mm256_dpwssd_avx_epi32(sum.b, x.b, y.b)};
#else
    sum = {_mm256_dpwssd_epi32(sum.a, x.a, y.a), _mm256_dpwssd_epi32(sum.b, x.b, y.b)};
#endif
}
// sum += codes (unsigned bytes) * the four signed bytes at x, by columns.
QP_INLINE void add_quad(Ints& sum, Ints codes, const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    const __m256i all = _mm256_set1_epi32(four);
    sum = {dot_quad(sum.a, codes.a, all), dot_quad(sum.b, codes.b, all)};
}
#else
QP_INLINE __m256i madd(__m256i x, __m256i y) { return _mm256_madd_epi16(x, y); }
// sum += x * y over unsigned and signed bytes, and over 16-bit values.
QP_INLINE void multiply_bytes(Ints& sum, Ints x, Ints y) {
    const __m256i ones = _mm256_set1_epi16(1);
    sum = add(sum, {madd(_mm256_maddubs_epi16(x.a, y.a), ones), madd(_mm256_maddubs_epi16(x.b, y.b), ones)});
}
QP_INLINE void multiply_words(Ints& sum, Ints x, Ints y) { sum = add(sum, {madd(x.a, y.a), madd(x.b, y.b)}); }
#endif

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
