// Row-wise functions of a Table that every instruction set compiles from this one source. Included by one .cpp per
// instruction set, which defines before it, static and in this namespace:
//   void from_half(const uint16_t* x, int32_t n, float* out);      void to_half(const float* x, int32_t n, uint16_t*
//   out);
// Only static functions and no std:: functions: what is compiled for one instruction set must not be linked into
// another's.
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

inline float dot16(const float* a, const float* b, int32_t n) {
    float lane[16] = {};
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int32_t j = 0; j < 16; ++j) lane[j] += a[i + j] * b[i + j];
    }
    for (int32_t j = 0; i + j < n; ++j) lane[j] += a[i + j] * b[i + j];
    return fold16(lane);
}

// A chunk's code: amax over 32 values, x = round(a * 32385 / amax), ties to even. 32385 = 127.5 * 254, so that x = 254
// hi + lo with both within +-127 where an instruction set multiplies bytes. A chunk with a NaN or an infinity has the
// scale NaN; one below 2^-100 is zero.
inline void quantize_chunk(const float* values, int16_t* q, float* scale, int32_t* sum) {
    uint32_t largest = 0;
    for (int32_t i = 0; i < chunk_rows; ++i) {
        const uint32_t magnitude = as_bits(values[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (largest >= 0x7f800000u || largest < 0x0d800000u) {
        for (int32_t i = 0; i < chunk_rows; ++i) q[i] = 0;
        *scale = largest >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
        *sum = 0;
        return;
    }
    const float amax = as_float(largest), factor = 32385.0f / amax, magic = 0x1.8p23f;
    int32_t total = 0;
    for (int32_t i = 0; i < chunk_rows; ++i) {
        const int32_t x =
            int32_t(as_bits(values[i] * factor + magic)) - int32_t(as_bits(magic));  // values * factor within +-32386
        q[i] = int16_t(x);
        total += x;
    }
    *scale = amax / 32385.0f;
    *sum = total;
}

inline void sort_chunk(const float* x, const int32_t* gather, int32_t k, int32_t chunk, float* values) {
    const int32_t row0 = chunk * chunk_rows;
    if (gather) {
        for (int32_t i = 0; i < chunk_rows; ++i) {
            const int32_t from = gather[row0 + i];
            values[i] = from < 0 ? 0.0f : x[from];
        }
    } else {
        const int32_t n = k - row0 < chunk_rows ? k - row0 : chunk_rows;
        for (int32_t i = 0; i < n; ++i) values[i] = x[row0 + i];
        for (int32_t i = n; i < chunk_rows; ++i) values[i] = 0.0f;
    }
}

void quantize(const float* x, const int32_t* gather, int32_t k, int32_t chunks, int32_t rows, int16_t* q, float* scale,
              int32_t* sum) {
    float values[chunk_rows];
    for (int32_t c = 0; c < chunks; ++c) {
        const int64_t at = int64_t(c) * rows;
        sort_chunk(x, gather, k, c, values);
        quantize_chunk(values, q + at * chunk_rows, scale + at, sum + at);
    }
}

void sort_values(const float* x, const int32_t* gather, int32_t k, int32_t chunks, int32_t rows, float* value) {
    for (int32_t c = 0; c < chunks; ++c) sort_chunk(x, gather, k, c, value + int64_t(c) * rows * chunk_rows);
}

void rms_norm(const float* x, const float* weight, int32_t n, float eps, float* out) {
    const float mean = dot16(x, x, n) / float(n);
    const float factor = 1.0f / __builtin_sqrtf(mean + eps);
    for (int32_t i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void rotate(float* x, const float* cosine, const float* sine, int32_t half) {
    for (int32_t t = 0; t < half; ++t) {
        const float a = x[t], b = x[t + half];
        x[t] = a * cosine[t] - b * sine[t];
        x[t + half] = b * cosine[t] + a * sine[t];
    }
}

void silu_mul(float* gate, const float* up, int32_t n) {
    for (int32_t i = 0; i < n; ++i) gate[i] = silu_f32(gate[i]) * up[i];
}

void attend(const KvView& kv, const float* q, int32_t n_heads, float scale, int32_t first, int32_t last, float* scores,
            float* out) {
    const int32_t dim = kv.head_dim, n_keys = last - first + 1;
    alignas(64) float row[1024];  // max_head_dim
    const auto load = [&](const void* base, int32_t position) -> const float* {
        const uint64_t at = uint64_t(kv.blocks[position / kv.block_tokens]) * kv.block_stride +
                            uint64_t(position % kv.block_tokens) * uint64_t(dim);
        if (!kv.half) return static_cast<const float*>(base) + at;
        from_half(static_cast<const uint16_t*>(base) + at, dim, row);
        return row;
    };
    for (int32_t t = 0; t < n_keys; ++t) {
        const float* key = load(kv.keys, first + t);
        for (int32_t h = 0; h < n_heads; ++h) scores[h * int64_t(n_keys) + t] = dot16(q + h * dim, key, dim) * scale;
    }
    float divisor[64];  // by groups of heads: stack of a fixed size
    for (int32_t h0 = 0; h0 < n_heads; h0 += 64) {
        const int32_t n = n_heads - h0 < 64 ? n_heads - h0 : 64;
        for (int32_t h = 0; h < n; ++h) {
            float* s = scores + (h0 + h) * int64_t(n_keys);
            float largest = s[0];
            for (int32_t t = 1; t < n_keys; ++t) largest = s[t] > largest ? s[t] : largest;
            float lane[16] = {};
            int32_t t = 0;
            for (; t + 16 <= n_keys; t += 16) {
                for (int32_t j = 0; j < 16; ++j) {
                    s[t + j] = exp_f32(s[t + j] - largest);
                    lane[j] += s[t + j];
                }
            }
            for (int32_t j = 0; t + j < n_keys; ++j) {
                s[t + j] = exp_f32(s[t + j] - largest);
                lane[j] += s[t + j];
            }
            divisor[h] = fold16(lane);
        }
        float* to = out + int64_t(h0) * dim;
        for (int32_t i = 0; i < n * dim; ++i) to[i] = 0.0f;
        for (int32_t t = 0; t < n_keys; ++t) {
            const float* value = load(kv.values, first + t);
            for (int32_t h = 0; h < n; ++h) {
                const float p = scores[(h0 + h) * int64_t(n_keys) + t];
                float* o = to + h * dim;
                for (int32_t d = 0; d < dim; ++d) o[d] += p * value[d];
            }
        }
        for (int32_t h = 0; h < n; ++h) {
            for (int32_t d = 0; d < dim; ++d) to[h * dim + d] = to[h * dim + d] / divisor[h];
        }
    }
}

void log_sum(const float* logits, int32_t n, int32_t* argmax, double* result) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; ++i) best = logits[i] > logits[best] ? i : best;
    const float largest = logits[best];
    double lane[16] = {};
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int32_t j = 0; j < 16; ++j) lane[j] += double(exp_f32(logits[i + j] - largest));
    }
    for (int32_t j = 0; i + j < n; ++j) lane[j] += double(exp_f32(logits[i + j] - largest));
    for (int32_t step = 8; step > 0; step /= 2) {
        for (int32_t j = 0; j < step; ++j) lane[j] += lane[j + step];
    }
    *argmax = best;
    *result = double(largest) + log_f64(lane[0]);
}

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
