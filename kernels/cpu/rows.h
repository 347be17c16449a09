// Norms, rotary embedding and activations of single rows, compiled by every instruction set from this one source.
// Included by generic.h; its rules hold.
#pragma once

#include "kernels/cpu/math.h"
#include "kernels/cpu/table.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

// The one reduction tree: lane i holds the sum over elements i, i+16, i+32 ...; then halves are folded, 8, 4, 2, 1.
inline float fold16(const float* lane) {
    float l8[8], l4[4];
    for (int32_t i = 0; i < 8; ++i) l8[i] = lane[i] + lane[i + 8];
    for (int32_t i = 0; i < 4; ++i) l4[i] = l8[i] + l8[i + 4];
    return (l4[0] + l4[2]) + (l4[1] + l4[3]);
}

// The sum of value(i), i < n, through that tree.
template <class Value>
inline float sum16(int32_t n, Value value) {
    float lane[16] = {};
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int32_t j = 0; j < 16; ++j) lane[j] += value(i + j);
    }
    for (int32_t j = 0; i + j < n; ++j) lane[j] += value(i + j);
    return fold16(lane);
}

inline float dot16(const float* a, const float* b, int32_t n) {
    return sum16(n, [a, b](int32_t i) { return a[i] * b[i]; });
}

void rms_norm(const float* x, const float* weight, int32_t n, float eps, float* out) {
    const float mean = dot16(x, x, n) / float(n);
    const float factor = 1.0f / __builtin_sqrtf(mean + eps);
    for (int32_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, int32_t n, float eps, float* out) {
    const float mean = sum16(n, [x](int32_t i) { return x[i]; }) / float(n);
    const float variance = sum16(n, [x, mean](int32_t i) { return (x[i] - mean) * (x[i] - mean); }) / float(n);
    const float factor = 1.0f / __builtin_sqrtf(variance + eps);
    for (int32_t i = 0; i < n; ++i) out[i] = (x[i] - mean) * factor;
    if (weight) {
        for (int32_t i = 0; i < n; ++i) out[i] = out[i] * weight[i];
    }
    if (bias) {
        for (int32_t i = 0; i < n; ++i) out[i] = out[i] + bias[i];
    }
}

void rotate(float* x, const float* cosine, const float* sine, int32_t half, bool interleaved) {
    if (interleaved) {
        for (int32_t t = 0; t < half; ++t) {
            const float a = x[2 * t], b = x[2 * t + 1];
            x[2 * t] = a * cosine[t] - b * sine[t];
            x[2 * t + 1] = b * cosine[t] + a * sine[t];
        }
        return;
    }
    for (int32_t t = 0; t < half; ++t) {
        const float a = x[t], b = x[t + half];
        x[t] = a * cosine[t] - b * sine[t];
        x[t + half] = b * cosine[t] + a * sine[t];
    }
}

template <class Function>
inline void gated_by(Function function, float* gate, const float* up, int32_t n) {
    if (up) {
        for (int32_t i = 0; i < n; ++i) gate[i] = function(gate[i]) * up[i];
    } else {
        for (int32_t i = 0; i < n; ++i) gate[i] = function(gate[i]);
    }
}

void gated(Activation activation, float* gate, const float* up, int32_t n) {
    switch (activation) {
        case Activation::silu:
            return gated_by([](float x) { return silu_f32(x); }, gate, up, n);
        case Activation::gelu:
            return gated_by([](float x) { return gelu_f32(x); }, gate, up, n);
        case Activation::gelu_tanh:
            return gated_by([](float x) { return gelu_tanh_f32(x); }, gate, up, n);
        case Activation::quick_gelu:
            return gated_by([](float x) { return quick_gelu_f32(x); }, gate, up, n);
        case Activation::relu:
            return gated_by([](float x) { return x < 0.0f ? 0.0f : x; }, gate, up, n);
        case Activation::relu2:
            return gated_by([](float x) { return x < 0.0f ? 0.0f : x * x; }, gate, up, n);
    }
}

void cap(float* x, int32_t n, float scale, float softcap) {
    for (int32_t i = 0; i < n; ++i) x[i] = x[i] * scale;
    if (softcap != 0.0f) {
        for (int32_t i = 0; i < n; ++i) x[i] = tanh_f32(x[i] / softcap) * softcap;
    }
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
