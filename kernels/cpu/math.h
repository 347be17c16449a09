// exp, tanh, erf, sin, cos and log without libm, so that they are the same on every machine. Static functions of plain
// operations: a vectorised compilation gives the same bits (no contraction, no reassociation).
#pragma once

#include <stdint.h>

#include "kernels/version.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

inline float as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline uint32_t as_bits(float value) { return __builtin_bit_cast(uint32_t, value); }
inline double as_double(uint64_t bits) { return __builtin_bit_cast(double, bits); }
inline uint64_t as_bits(double value) { return __builtin_bit_cast(uint64_t, value); }

// e^x in FP32, within 2 units in the last place; 0 below -104, infinity above 89. Cody-Waite reduction and the degree-7
// polynomial of Cephes' expf (Moshier).
[[maybe_unused]] inline float exp_f32(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    const float magic = 0x1.8p23f;
    const float shifted = x * 1.44269504088896341f + magic;
    const float n = shifted - magic;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    // 2^n in two factors: n reaches -150 and 128.
    const int32_t exponent = int32_t(as_bits(shifted)) - int32_t(as_bits(magic));
    const int32_t half = exponent >> 1;
    return p * as_float(uint32_t(half + 127) << 23) * as_float(uint32_t(exponent - half + 127) << 23);
}

[[maybe_unused]] inline float silu_f32(float x) { return x / (1.0f + exp_f32(-x)); }

// tanh(x) within 3 units in the last place: the odd polynomial of Cephes' tanhf (Moshier) below 0.625, from e^2x above.
[[maybe_unused]] inline float tanh_f32(float x) {
    const float z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    const float small = p * z * x + x;
    const float magnitude = as_float(as_bits(x) & 0x7fffffffu);
    const float large = 1.0f - 2.0f / (exp_f32(2.0f * magnitude) + 1.0f);
    const float signed_large = as_float(as_bits(large) | (as_bits(x) & 0x80000000u));
    return magnitude < 0.625f ? small : signed_large;
}

// x * Phi(x), absolute error below 5e-7: erfc by the Chebyshev fit of Numerical Recipes (section 6.2, "erfcc"),
// relative error 1.2e-7.
[[maybe_unused]] inline float gelu_f32(float x) {
    const float z = as_float(as_bits(x) & 0x7fffffffu) * 0.70710678118654752f;
    const float t = 1.0f / (1.0f + 0.5f * z);
    float p = 0.17087277f;
    p = p * t + -0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t + -1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t + -0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t + -1.26551223f;
    const float tail = 0.5f * t * exp_f32(p - z * z);  // Phi(-|x|)
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

// x/2 * (1 + tanh(u)) = x / (1 + e^-2u).
[[maybe_unused]] inline float gelu_tanh_f32(float x) {
    const float u = 0.79788456080286536f * (x + 0.044715f * (x * x * x));
    return x / (1.0f + exp_f32(-2.0f * u));
}

[[maybe_unused]] inline float quick_gelu_f32(float x) { return x / (1.0f + exp_f32(-1.702f * x)); }

// e^x, relative error below 1e-15 for |x| below 700: Cody-Waite reduction and the series up to r^13 / 13!.
[[maybe_unused]] inline double exp_f64(double x) {
    x = x > 700.0 ? 700.0 : x;
    x = x < -700.0 ? -700.0 : x;
    const double magic = 0x1.8p52;
    const double shifted = x * 1.44269504088896340736 + magic;
    const double n = shifted - magic;
    double r = x - n * 6.93147180369123816490e-01;
    r = r - n * 1.90821492927058770002e-10;
    double p = 1.0;
    for (int32_t k = 13; k > 0; --k) p = p * r / double(k) + 1.0;
    const int64_t exponent = int64_t(as_bits(shifted)) - int64_t(as_bits(magic));
    return p * as_double(uint64_t(exponent + 1023) << 52);
}

// sin and cos of an angle below 2^31, absolute error below 1e-7 there and 1e-15 below 2^20: reduction by pi/2 in three
// parts, kernels of fdlibm.
[[maybe_unused]] inline void sin_cos(double angle, double* sine, double* cosine) {
    const double magic = 0x1.8p52;
    const double shifted = angle * 6.36619772367581382433e-01 + magic;
    const double n = shifted - magic;
    double r = angle - n * 1.57079632673412561417e+00;
    r = r - n * 6.07710050630396597660e-11;
    r = r - n * 2.02226624879595063154e-21;
    const double z = r * r;
    double s = 1.58969099521155010221e-10;
    s = s * z + -2.50507602534068634195e-08;
    s = s * z + 2.75573137070700676789e-06;
    s = s * z + -1.98412698298579493134e-04;
    s = s * z + 8.33333333332248946124e-03;
    s = s * z + -1.66666666666666324348e-01;
    s = r + r * (z * s);
    double c = -1.13596475577881948265e-11;
    c = c * z + 2.08757232129817482790e-09;
    c = c * z + -2.75573143513906633035e-07;
    c = c * z + 2.48015872894767294178e-05;
    c = c * z + -1.38888888888741095749e-03;
    c = c * z + 4.16666666666666019037e-02;
    c = 1.0 - (0.5 * z - z * z * c);
    const uint64_t quadrant = as_bits(shifted) & 3u;
    const double a = quadrant & 1u ? c : s, b = quadrant & 1u ? s : c;
    *sine = quadrant & 2u ? -a : a;
    *cosine = (quadrant + 1u) & 2u ? -b : b;
}

// ln(x) for normal positive x, relative error below 1e-15: fdlibm's series in s = (m - 1) / (m + 1).
[[maybe_unused]] inline double log_f64(double x) {
    if (!(x > 0) || !(x < __builtin_inf())) return x > 0 ? x : x == 0 ? -__builtin_inf() : __builtin_nan("");
    const uint64_t bits = as_bits(x);
    int64_t exponent = int64_t(bits >> 52) - 1023;
    double m = as_double((bits & 0xfffffffffffffull) | 0x3ff0000000000000ull);
    if (m > 1.41421356237309504880) {
        m *= 0.5;
        ++exponent;
    }
    const double f = m - 1.0, s = f / (2.0 + f), z = s * s;
    double p = 1.479819860511658591e-01;
    p = p * z + 1.531383769920937332e-01;
    p = p * z + 1.818357216161805012e-01;
    p = p * z + 2.222219843214978396e-01;
    p = p * z + 2.857142874366239149e-01;
    p = p * z + 3.999999999940941908e-01;
    p = p * z + 6.666666666666735130e-01;
    p = p * z;
    const double hfsq = 0.5 * f * f;
    return double(exponent) * 6.93147180369123816490e-01 -
           ((hfsq - (s * (hfsq + p) + double(exponent) * 1.90821492927058770002e-10)) - f);
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
