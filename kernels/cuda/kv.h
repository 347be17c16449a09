// The cache as kernels write it: addresses, the Hadamard rotation, codes and scales. One warp works on one head of one
// token ("a piece"), `width` FP32 values in shared memory; every lane calls, and no other warp touches the piece. What
// other lanes wrote to shared memory before needs a sync_warp before the call; the functions end with one where they
// write shared memory.
#pragma once

#include <cmath>

#include "kernels/cuda/portable.h"
#include "kernels/cuda/views.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t kv_f16 = 1, kv_q8 = 2, kv_q4 = 3;  // KvSpec::Type
constexpr int32_t kv_group = 32;                     // dimensions of a q4 scale

QP_HOST_DEVICE int32_t kv_bits(int32_t type) { return type == kv_f16 ? 16 : type == kv_q8 ? 8 : 4; }

/// Where a kv head of a cache block begins, in elements of (block, kv head, ...) arrays of `per_head` elements.
QP_HOST_DEVICE int64_t kv_head_index(const KvView& kv, int32_t block, int32_t head) {
    return int64_t(block) * kv.n_kv_heads + head;
}
QP_HOST_DEVICE int64_t kv_head_bytes(const KvView& kv) {
    return int64_t(kv.block_tokens) * kv.width * kv_bits(kv.type) / 8;
}
/// (block_tokens, width) of one kv head of one block.
QP_HOST_DEVICE uint8_t* kv_key_block(const KvView& kv, int32_t block, int32_t head) {
    return kv.keys + kv_head_index(kv, block, head) * kv_head_bytes(kv);
}
/// (width, block_tokens).
QP_HOST_DEVICE uint8_t* kv_value_block(const KvView& kv, int32_t block, int32_t head) {
    return kv.values + kv_head_index(kv, block, head) * kv_head_bytes(kv);
}
/// Scales of a token follow each other at a distance of block_tokens: 1 of q8, width / 32 of q4.
QP_HOST_DEVICE int32_t kv_scales_per_token(const KvView& kv) { return kv.type == kv_q4 ? kv.width / kv_group : 1; }
/// The first scale of token `offset` in `scales`, key_scales or value_scales.
QP_HOST_DEVICE uint16_t* kv_scale(const KvView& kv, uint16_t* scales, int32_t block, int32_t head, int32_t offset) {
    return scales + kv_head_index(kv, block, head) * kv_scales_per_token(kv) * kv.block_tokens + offset;
}
/// Bit of element i, 0..7, in a word of eight q4 neighbours.
QP_HOST_DEVICE int32_t kv_nibble(int32_t i) { return 4 * (i >> 1) + 16 * (i & 1); }

/// x (n), in place, times the normalised Hadamard matrix of the largest power of two that divides n, in blocks.
QP_DEVICE void hadamard(float* x, int32_t n, int32_t lane) {
    const int32_t size = n & -n;
    for (int32_t step = 1; step < size; step *= 2) {
        for (int32_t pair = lane; pair < n / 2; pair += 32) {
            const int32_t i = 2 * (pair & ~(step - 1)) + (pair & (step - 1));
            const float a = x[i], b = x[i + step];
            x[i] = a + b;
            x[i + step] = a - b;
        }
        sync_warp();
    }
    float scale = 1;
    int32_t rest = size;
    for (; rest >= 4; rest /= 4) scale *= 0.5f;
    if (rest == 2) scale *= 0.70710678118654752f;
    for (int32_t i = lane; i < n; i += 32) x[i] *= scale;
    sync_warp();
}

/// The code of x: 0 is `zero`. NaN becomes the least code.
QP_DEVICE float kv_code(float x, float scale, float least, float most, float zero) {
    if (scale == 0) return zero;
    const float code = rintf(div_rn(x, scale));
    return zero + (code >= least ? (code > most ? most : code) : least);
}

QP_DEVICE float clamp_half(float v) { return v > half_max ? half_max : v < -half_max ? -half_max : v; }

/// x (width), beyond head_dim zeros, becomes what the cache keeps of it: f16 the value, saturated; q8 and q4, rotated,
/// the codes as unsigned numbers. Scales go to `scales`, at distances of `stride`. Counts what saturated.
QP_DEVICE void kv_encode(const KvView& kv, float* x, uint16_t* scales, int32_t stride, int32_t lane,
                         uint32_t& saturated) {
    if (kv.type == kv_f16) {
        for (int32_t i = lane; i < kv.width; i += 32) {
            const float v = clamp_half(x[i]);
            saturated += v != x[i] && x[i] == x[i];
            x[i] = v;
        }
        sync_warp();
        return;
    }
    hadamard(x, kv.head_dim, lane);
    if (kv.type == kv_q8) {
        float largest = 0;
        for (int32_t i = lane; i < kv.width; i += 32) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        const uint16_t half = float_to_half(clamp_half(div_rn(warp_max(largest), 127.0f)));
        const float scale = half_to_float(half);
        for (int32_t i = lane; i < kv.width; i += 32) x[i] = kv_code(x[i], scale, -127, 127, 128);
        if (lane == 0) scales[0] = half;
        sync_warp();
        return;
    }
    for (int32_t group = 0; group < kv.width / kv_group; ++group) {
        float& own = x[group * kv_group + lane];
        float largest = own;  // by magnitude; of equal ones the first
        int32_t at = lane;
        for (int32_t mask = 1; mask < 32; mask *= 2) {
            const float other = shuffle_xor(largest, mask);
            const int32_t other_at = int32_t(shuffle_xor(uint32_t(at), mask));
            if (fabsf(other) > fabsf(largest) || (fabsf(other) == fabsf(largest) && other_at < at)) {
                largest = other;
                at = other_at;
            }
        }
        const uint16_t half = float_to_half(clamp_half(div_rn(largest, -8.0f)));
        own = kv_code(own, half_to_float(half), -8, 7, 8);
        if (lane == 0) scales[int64_t(group) * stride] = half;
    }
    sync_warp();
}

/// Word i of a piece that kv_encode made, as keys hold it: 2, 4 or 8 elements.
QP_DEVICE uint32_t kv_key_word(int32_t type, const float* x, int32_t i) {
    if (type == kv_f16) return pack_half2(x[2 * i], x[2 * i + 1]);
    uint32_t word = 0;
    if (type == kv_q8) {
        for (int32_t e = 0; e < 4; ++e) word |= uint32_t(x[4 * i + e]) << (8 * e);
    } else {
        for (int32_t e = 0; e < 8; ++e) word |= uint32_t(x[8 * i + e]) << kv_nibble(e);
    }
    return word;
}

/// A piece, FP32 values after RoPE, to the keys of `slot` (StepRow::slot). x is changed.
QP_DEVICE void kv_append_key(const KvView& kv, int32_t slot, int32_t head, float* x, int32_t lane,
                             uint32_t& saturated) {
    const int32_t block = slot / kv.block_tokens, offset = slot % kv.block_tokens;
    kv_encode(kv, x, kv_scale(kv, kv.key_scales, block, head, offset), kv.block_tokens, lane, saturated);
    const int32_t n_words = kv.width * kv_bits(kv.type) / 32;
    uint32_t* to = reinterpret_cast<uint32_t*>(kv_key_block(kv, block, head)) + int64_t(offset) * n_words;
    for (int32_t i = lane; i < n_words; i += 32) to[i] = kv_key_word(kv.type, x, i);
}

/// Element (dimension d, token `offset`) of a value block that kv_value_block gave. q4 changes a part of a word: nobody
/// else may write its eight tokens meanwhile.
QP_DEVICE void kv_put_value(const KvView& kv, uint8_t* block, int32_t d, int32_t offset, float encoded) {
    const int64_t at = int64_t(d) * kv.block_tokens + offset;
    if (kv.type == kv_f16) {
        reinterpret_cast<uint16_t*>(block)[at] = float_to_half(encoded);
    } else if (kv.type == kv_q8) {
        block[at] = uint8_t(encoded);
    } else {
        uint32_t& word = reinterpret_cast<uint32_t*>(block)[at / 8];
        const int32_t shift = kv_nibble(offset & 7);
        word = (word & ~(15u << shift)) | (uint32_t(encoded) << shift);
    }
}

/// A piece, FP32 values, to the values of `slot`. x is changed. For one row of a sequence in a launch.
QP_DEVICE void kv_append_value(const KvView& kv, int32_t slot, int32_t head, float* x, int32_t lane,
                               uint32_t& saturated) {
    const int32_t block = slot / kv.block_tokens, offset = slot % kv.block_tokens;
    kv_encode(kv, x, kv_scale(kv, kv.value_scales, block, head, offset), kv.block_tokens, lane, saturated);
    uint8_t* to = kv_value_block(kv, block, head);
    for (int32_t d = lane; d < kv.width; d += 32) kv_put_value(kv, to, d, offset, x[d]);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
