// The KV cache and attention, compiled by every instruction set from this one source. Included by generic.h; its rules
// hold.
//
// q8 and q4: a head is multiplied by a normalised Hadamard matrix first, which spreads the few large channels of keys
// over all (QuaRot, arXiv 2404.00456, section 4). q.k and the weighted sum of values are taken in the rotated space:
// the matrix is orthogonal, so scores do not change, and the output is rotated back.
#pragma once

#include "kernels/cpu/rows.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {
namespace {

// By the instruction set.
void from_half(const uint16_t* x, int32_t n, float* out);
void to_half(const float* x, int32_t n, uint16_t* out);

constexpr int32_t largest_head = 1024;  // max_head_dim: heads on the stack
constexpr int32_t q4_group = 32;

void hadamard(float* x, int32_t n) {
    const int32_t size = n & -n;
    float factor = 1.0f;
    for (int32_t s = size; s > 1; s /= 4) factor *= s == 2 ? 0.70710678118654752f : 0.5f;
    for (int32_t block = 0; block < n; block += size) {
        for (int32_t half = 1; half < size; half *= 2) {
            for (int32_t i = block; i < block + size; i += 2 * half) {
                for (int32_t j = i; j < i + half; ++j) {
                    const float a = x[j], b = x[j + half];
                    x[j] = a + b;
                    x[j + half] = a - b;
                }
            }
        }
    }
    for (int32_t i = 0; i < n; ++i) x[i] = x[i] * factor;
}

// n values as round(x / scale), ties to even, within least .. most; scale = extreme / divisor in FP16, `extreme` the
// first value of the largest magnitude where it is signed, else that magnitude. A NaN or an infinity makes the scale
// NaN.
template <class Keep>
inline uint16_t quantize_head(const float* x, int32_t n, float divisor, bool is_signed, float least, float most,
                              Keep keep) {
    uint32_t largest = 0;
    float extreme = 0.0f;
    for (int32_t i = 0; i < n; ++i) {
        const uint32_t magnitude = as_bits(x[i]) & 0x7fffffffu;
        extreme = magnitude > largest ? x[i] : extreme;
        largest = magnitude > largest ? magnitude : largest;
    }
    const float quotient = (is_signed ? extreme : as_float(largest)) / divisor;
    uint16_t bits;
    float scale;
    to_half(&quotient, 1, &bits);
    from_half(&bits, 1, &scale);
    if (largest >= 0x7f800000u || scale == 0.0f) {
        for (int32_t i = 0; i < n; ++i) keep(i, 0);
        return largest >= 0x7f800000u ? 0x7e00 : 0;
    }
    const float inverse = 1.0f / scale, magic = 0x1.8p23f;
    for (int32_t i = 0; i < n; ++i) {
        float code = x[i] * inverse;
        code = code < least ? least : code > most ? most : code;
        keep(i, int32_t(as_bits(code + magic)) - int32_t(as_bits(magic)));
    }
    return bits;
}

// Where one token's row lies in a half (keys or values) of the cache.
inline uint64_t row_offset(const KvView& kv, int32_t position) {
    return uint64_t(kv.blocks[position / kv.block_tokens]) * kv.block_stride +
           uint64_t(position % kv.block_tokens) * uint64_t(kv.row_bytes);
}
inline uint64_t scale_offset(const KvView& kv, int32_t position) {
    return uint64_t(kv.blocks[position / kv.block_tokens]) * kv.block_stride +
           uint64_t(kv.block_tokens) * uint64_t(kv.row_bytes) +
           uint64_t(position % kv.block_tokens) * uint64_t(kv.row_scales) * 2;
}

inline void store_row(const KvView& kv, uint8_t* base, int32_t position, const float* x) {
    const int32_t dim = kv.head_dim;
    uint8_t* row = base + row_offset(kv, position);
    if (kv.type == KvType::f32) {
        __builtin_memcpy(row, x, uint64_t(dim) * 4);
        return;
    }
    if (kv.type == KvType::f16) return to_half(x, dim, reinterpret_cast<uint16_t*>(row));
    auto* scales = reinterpret_cast<uint16_t*>(base + scale_offset(kv, position));
    alignas(64) float rotated[largest_head];
    __builtin_memcpy(rotated, x, uint64_t(dim) * 4);
    hadamard(rotated, dim);
    if (kv.type == KvType::q8) {
        scales[0] = quantize_head(rotated, dim, 127.0f, false, -127.0f, 127.0f,
                                  [row](int32_t i, int32_t code) { row[i] = uint8_t(int8_t(code)); });
        return;
    }
    for (int32_t g = 0; g < kv.row_scales; ++g) {
        const int32_t first = g * q4_group, half = dim / 2;
        scales[g] = quantize_head(rotated + first, q4_group, -8.0f, true, -8.0f, 7.0f,
                                  [row, first, half](int32_t i, int32_t code) {
                                      const int32_t nibble = code + 8, at = first + i;
                                      if (at < half) {
                                          row[at] = uint8_t(nibble);
                                      } else {
                                          row[at - half] = uint8_t(row[at - half] | nibble << 4);
                                      }
                                  });
    }
}

// The row's values: where they lie, or decoded to `row`.
inline const float* load_row(const KvView& kv, const uint8_t* base, int32_t position, float* row) {
    const int32_t dim = kv.head_dim;
    const uint8_t* from = base + row_offset(kv, position);
    if (kv.type == KvType::f32) return reinterpret_cast<const float*>(from);
    if (kv.type == KvType::f16) {
        from_half(reinterpret_cast<const uint16_t*>(from), dim, row);
        return row;
    }
    const auto* scales = reinterpret_cast<const uint16_t*>(base + scale_offset(kv, position));
    if (kv.type == KvType::q8) {
        float scale;
        from_half(scales, 1, &scale);
        for (int32_t d = 0; d < dim; ++d) row[d] = float(int8_t(from[d])) * scale;
        return row;
    }
    int8_t codes[largest_head];
    for (int32_t i = 0; i < dim / 2; ++i) {
        codes[i] = int8_t((from[i] & 15) - 8);
        codes[dim / 2 + i] = int8_t((from[i] >> 4) - 8);
    }
    for (int32_t g = 0; g < kv.row_scales; ++g) {
        float scale;
        from_half(scales + g, 1, &scale);
        for (int32_t i = g * q4_group; i < (g + 1) * q4_group; ++i) row[i] = float(codes[i]) * scale;
    }
    return row;
}

void store_head(const KvView& kv, int32_t position, const float* key, const float* value) {
    store_row(kv, kv.keys, position, key);
    store_row(kv, kv.values, position, value);
}

inline void apply_rule(const ScoreRule& rule, int32_t head, int32_t n_keys, float* s) {
    if (rule.softcap != 0.0f) {
        for (int32_t t = 0; t < n_keys; ++t) s[t] = tanh_f32(s[t] / rule.softcap) * rule.softcap;
    }
    if (rule.slopes) {
        const float slope = rule.slopes[head];
        for (int32_t t = 0; t < n_keys; ++t) s[t] = s[t] + slope * float(t + 1 - n_keys);
    }
}

void attend(const KvView& kv, const ScoreRule& rule, const float* q, int32_t n_heads, int32_t first, int32_t last,
            float* scores, float* out) {
    const int32_t dim = kv.head_dim, n_keys = last - first + 1;
    alignas(64) float row[largest_head];
    for (int32_t t = 0; t < n_keys; ++t) {
        const float* key = load_row(kv, kv.keys, first + t, row);
        for (int32_t h = 0; h < n_heads; ++h)
            scores[h * int64_t(n_keys) + t] = dot16(q + h * dim, key, dim) * rule.scale;
    }
    float divisor[64];  // by groups of heads: stack of a fixed size
    for (int32_t h0 = 0; h0 < n_heads; h0 += 64) {
        const int32_t n = n_heads - h0 < 64 ? n_heads - h0 : 64;
        for (int32_t h = 0; h < n; ++h) {
            float* s = scores + (h0 + h) * int64_t(n_keys);
            apply_rule(rule, h0 + h, n_keys, s);
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
            const float* value = load_row(kv, kv.values, first + t, row);
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

}  // namespace
}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
