// A tile of 32 cached tokens as operands of mma.m16n8k16, straight from global memory: no shared memory, no shuffle.
//
// A product does not mind the order in which it sums, so the order within mma's k is chosen for the loads. With
// g = lane / 4, t = lane % 4:
//   scores  S (16 heads, 32 tokens) = Q K^T. k-step 2u + i of group u (32 dimensions) takes dimensions 32u + 8t + 4i +
//   {0, 1}
//           (b0) and + {2, 3} (b1); column g of n-tile j is token 8 (g / 2) + 2j + g % 2. So a lane loads 8
//           neighbouring dimensions of a key, and its scores s[j][q] belong to tokens 8t + 2j + q % 2, heads g + 8 (q /
//           2).
//   output  O (16 heads, Width) += P V. The 8 tokens whose scores a lane has are the 8 neighbours that it loads of row
//           8d + g of V transposed: P goes from accumulators to the A operand by packing alone.
// Eight neighbours are 16, 8 or 4 bytes (f16, q8, q4). Codes become FP16 integers by the magic number 1024.
#pragma once

#include "kernels/cuda/kv.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

constexpr int32_t tile_tokens = 32;
constexpr float masked_score = -1e30f;
/// p times V's scale goes into FP16 times 2^6: small scales stay normal numbers, V up to 130000 in range.
constexpr float value_scale_up = 64, value_scale_down = 1.0f / 64;

/// To 2^-22, as the error of a score counts: absolutely.
QP_DEVICE float tanh_fast(float x) { return 1 - 2 * reciprocal_fast(exp2_fast(2 * 1.4426950408889634f * x) + 1); }

/// Eight neighbours as four pairs of FP16; of q8 and q4 the codes, exactly.
template <int Type>
QP_DEVICE void load_eight(const uint8_t* p, uint32_t (&pairs)[4]) {
    if constexpr (Type == kv_f16) {
        const uint4 v = load4(p);
        pairs[0] = v.x;
        pairs[1] = v.y;
        pairs[2] = v.z;
        pairs[3] = v.w;
    } else if constexpr (Type == kv_q8) {
        constexpr uint32_t magic = 0x64646464u, zero = 0x64806480u;  // 1024 + code, 1024 + 128
        const uint2 v = load2(p);
        pairs[0] = half2_sub(byte_permute(v.x, magic, 0x4140), zero);
        pairs[1] = half2_sub(byte_permute(v.x, magic, 0x4342), zero);
        pairs[2] = half2_sub(byte_permute(v.y, magic, 0x4140), zero);
        pairs[3] = half2_sub(byte_permute(v.y, magic, 0x4342), zero);
    } else {
        constexpr uint32_t magic = 0x64006400u, zero = 0x64086408u;                   // 1024 + code, 1024 + 8
        constexpr uint32_t sixteenth = 0x2c002c00u, zero_of_sixteenth = 0xd480d480u;  // 64 + code, -(64 + 8)
        const uint32_t v = load1(p), w = v >> 8;
        pairs[0] = half2_sub(and_or(v, 0x000f000fu, magic), zero);
        pairs[1] = half2_fma(and_or(v, 0x00f000f0u, magic), sixteenth, zero_of_sixteenth);
        pairs[2] = half2_sub(and_or(w, 0x000f000fu, magic), zero);
        pairs[3] = half2_fma(and_or(w, 0x00f000f0u, magic), sixteenth, zero_of_sixteenth);
    }
}

/// The scales of the tokens 8t .. 8t + 7 of a tile.
struct EightScales {
    uint32_t pairs[4];
    QP_DEVICE explicit EightScales(const uint16_t* p) {
        const uint4 v = load4(p);
        pairs[0] = v.x;
        pairs[1] = v.y;
        pairs[2] = v.z;
        pairs[3] = v.w;
    }
    QP_DEVICE float of(int32_t j, int32_t q) const { return q & 1 ? high_to_float(pairs[j]) : low_to_float(pairs[j]); }
};

/// Where a tile lies: `block` of the cache, kv head, first token in the block.
struct TilePlace {
    int64_t head;  // block * n_kv_heads + kv head
    int32_t token;
};

/// Widths of a class differ by what is behind the last group of 32 dimensions: those loads repeat the last group (keys:
/// times a q of 0; values: for dimensions that nobody reads), so that no load hangs on a branch.
template <int Width>
QP_DEVICE int32_t existing_group(int32_t u, int32_t width) {
    constexpr int32_t always = Width == 64 ? 1 : Width / 64 + 1;
    if (u < always) return u;
    const int32_t last = width / 32 - 1;
    return u < last ? u : last;
}

/// s = Q K^T of a tile; codes' scales are in it, the score's is not. q(k_step, a) gives an A operand.
template <int Type, int Width, class Queries>
QP_DEVICE void score_tile(const KvView& kv, TilePlace place, const Queries& q, float (&s)[4][4]) {
    constexpr int32_t eight = Type == kv_f16 ? 16 : Type == kv_q8 ? 8 : 4;  // bytes
    const int32_t lane = int32_t(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int32_t row = kv.width / 8 * eight;  // bytes of a key
    const int64_t first = place.head * kv.block_tokens + place.token;
    const uint8_t* key = kv.keys + (first + 8 * (g / 2) + g % 2) * row + t * eight;
    QP_UNROLL for (int j = 0; j < 4; ++j) { QP_UNROLL for (int i = 0; i < 4; ++i) s[j][i] = 0; }
    // The widest heads leave registers for the loads of four groups, not of eight.
    constexpr int at_once = Width <= 128 ? Width / 32 : 4;
    QP_NO_UNROLL for (int u0 = 0; u0 < Width / 32; u0 += at_once) {
        QP_UNROLL for (int u1 = 0; u1 < at_once; ++u1) {
            const int u = u0 + u1;
            const int32_t group = existing_group<Width>(u, kv.width);
            uint32_t even[4], odd[4];
            q(2 * u, even);
            q(2 * u + 1, odd);
            if constexpr (Type == kv_q4) {
                const int32_t n_groups = kv.width / 32;
                const EightScales scales(kv.key_scales +
                                         ((place.head * n_groups + group) * kv.block_tokens + place.token + 8 * t));
                QP_UNROLL for (int j = 0; j < 4; ++j) {
                    uint32_t k[4];
                    load_eight<Type>(key + 2 * j * row + 4 * group * eight, k);
                    float sum[4] = {0, 0, 0, 0};
                    mma_16x8x16(sum, even, k[0], k[1]);
                    mma_16x8x16(sum, odd, k[2], k[3]);
                    QP_UNROLL for (int i = 0; i < 4; ++i) s[j][i] += sum[i] * scales.of(j, i);
                }
            } else {
                QP_UNROLL for (int j = 0; j < 4; ++j) {
                    uint32_t k[4];
                    load_eight<Type>(key + 2 * j * row + 4 * group * eight, k);
                    mma_16x8x16(s[j], even, k[0], k[1]);
                    mma_16x8x16(s[j], odd, k[2], k[3]);
                }
            }
        }
    }
    if constexpr (Type == kv_q8) {
        const EightScales scales(kv.key_scales + first + 8 * t);
        QP_UNROLL for (int j = 0; j < 4; ++j) { QP_UNROLL for (int i = 0; i < 4; ++i) s[j][i] *= scales.of(j, i); }
    }
}

/// o += P V of a tile, for q8 and q4 times value_scale_up. `Partly`: only tokens whose half of keep[j] is set are
/// there; what the cache holds for the others, NaN perhaps, is not touched by their weight of 0.
template <int Type, int Width, bool Partly>
QP_DEVICE void add_values(const KvView& kv, TilePlace place, const float (&p)[4][4], const uint32_t (&keep)[4],
                          float (&o)[Width / 8][4]) {
    constexpr int32_t eight = Type == kv_f16 ? 16 : Type == kv_q8 ? 8 : 4;  // bytes
    const int32_t lane = int32_t(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int32_t row = kv.block_tokens / 8 * eight;  // bytes of a dimension
    const uint8_t* value = kv.values + (place.head * kv.width + g) * row + (place.token / 8 + t) * eight;
    uint32_t a[2][4];
    const auto pack = [&](const uint16_t* from) {
        EightScales scales(from);
        QP_UNROLL for (int j = 0; j < 4; ++j) {
            if constexpr (Partly) scales.pairs[j] &= keep[j];
            const float low = scales.of(j, 0) * value_scale_up, high = scales.of(j, 1) * value_scale_up;
            a[j / 2][2 * (j % 2)] = pack_half2(p[j][0] * low, p[j][1] * high);
            a[j / 2][2 * (j % 2) + 1] = pack_half2(p[j][2] * low, p[j][3] * high);
        }
    };
    if constexpr (Type == kv_f16) {
        QP_UNROLL for (int j = 0; j < 4; ++j) {
            a[j / 2][2 * (j % 2)] = pack_half2(p[j][0], p[j][1]);
            a[j / 2][2 * (j % 2) + 1] = pack_half2(p[j][2], p[j][3]);
        }
    } else if constexpr (Type == kv_q8) {
        pack(kv.value_scales + place.head * kv.block_tokens + place.token + 8 * t);
    }
    QP_UNROLL for (int u = 0; u < Width / 32; ++u) {
        const int32_t group = existing_group<Width>(u, kv.width);
        if constexpr (Type == kv_q4) {
            const int32_t n_groups = kv.width / 32;
            pack(kv.value_scales + ((place.head * n_groups + group) * kv.block_tokens + place.token + 8 * t));
        }
        QP_UNROLL for (int i = 0; i < 4; ++i) {
            uint32_t v[4];
            load_eight<Type>(value + (32 * group + 8 * i) * row, v);
            if constexpr (Partly && Type == kv_f16) {
                QP_UNROLL for (int j = 0; j < 4; ++j) v[j] &= keep[j];
            }
            mma_16x8x16(o[4 * u + i], a[0], v[0], v[1]);
            mma_16x8x16(o[4 * u + i], a[1], v[2], v[3]);
        }
    }
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
