// FP16 by the processor (F16C), for the instruction sets of x86-64.
//
// All of x86/: static functions only, no std:: and no other inline functions, for what is compiled for one instruction
// set must not be linked into a machine without it.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/cpu/table.h"

#define QP_INLINE static inline __attribute__((always_inline))

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

// The value of one FP16's bits.
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
