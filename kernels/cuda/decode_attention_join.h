// Sums of decode attention meet: the warps of a block, then the chunks of a row. Both in one fixed order.
#pragma once

#include "kernels/cuda/decode_attention_stage.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace decode_attention_parts {

/// What a warp has summed: of heads g and g + 8 the largest score (base 2) and the sum of 2^(score - it), and O. The
/// sum is this lane's share.
template <int Width>
struct Partial {
    float largest[2] = {masked_score, masked_score};
    float sum[2] = {0, 0};
    float o[Width / 8][4] = {};
};

/// Joins the warps of a block: head h's O is rows h and n_heads + h of shared.rows together, in the terms of the
/// largest score; largest score and sum are what `joined` gives.
template <int Type, int Width>
QP_DEVICE void join_warps(const HeadTile& tile, const Shared<Width>& shared, Partial<Width>& part) {
    const int32_t warp = int32_t(threadIdx.x) / 32, lane = int32_t(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    float factor[2];
    QP_UNROLL for (int r = 0; r < 2; ++r) {
        part.sum[r] += shuffle_xor(part.sum[r], 1);
        part.sum[r] += shuffle_xor(part.sum[r], 2);
        if (t == 0) {
            shared.maxima[warp * tile_heads + g + 8 * r] = part.largest[r];
            shared.sums[warp * tile_heads + g + 8 * r] = part.sum[r];
        }
    }
    sync_block();
    QP_UNROLL for (int r = 0; r < 2; ++r) {
        float m = part.largest[r];
        QP_UNROLL for (int w = 0; w < n_warps; ++w) m = fmaxf(m, shared.maxima[w * tile_heads + g + 8 * r]);
        factor[r] = exp2_fast(part.largest[r] - m) * (Type == kv_f16 ? 1 : value_scale_down);
    }
    QP_UNROLL for (int turn = 1; turn >= 0; --turn) {  // warps 2 and 3 set, 0 and 1 add
        if (warp / 2 == turn) {
            QP_UNROLL for (int r = 0; r < 2; ++r) {
                if (g + 8 * r < tile.n_heads) {
                    float* to = shared.rows + (warp % 2 * tile.n_heads + g + 8 * r) * Shared<Width>::row + 2 * t;
                    QP_UNROLL for (int n = 0; n < Width / 8; ++n) {
                        float a = part.o[n][2 * r] * factor[r], b = part.o[n][2 * r + 1] * factor[r];
                        if (turn == 0) {
                            const uint2 v = load2(to + 8 * n);
                            a += bits_float(v.x);
                            b += bits_float(v.y);
                        }
                        *reinterpret_cast<uint2*>(to + 8 * n) = uint2{float_bits(a), float_bits(b)};
                    }
                }
            }
        }
        sync_block();
    }
}

/// Of head h of the tile, after join_warps.
template <int Width>
QP_DEVICE void joined(const Shared<Width>& shared, int32_t h, float* largest, float* sum) {
    float m = masked_score, l = 0;
    QP_UNROLL for (int w = 0; w < n_warps; ++w) m = fmaxf(m, shared.maxima[w * tile_heads + h]);
    QP_UNROLL for (int w = 0; w < n_warps; ++w) l +=
        shared.sums[w * tile_heads + h] * exp2_fast(shared.maxima[w * tile_heads + h] - m);
    *largest = m;
    *sum = l;
}

/// O of one head from its chunks, by one warp, to x. Weights by lanes, sums in the order of chunks.
QP_DEVICE void join_chunks(const float* outputs, const float* sums, int32_t n_chunks, int32_t width, float* x) {
    static_assert(decode_max_chunks == 64);
    const int32_t lane = int32_t(threadIdx.x) % 32;
    float largest[2], l[2], weight[2];
    QP_UNROLL for (int i = 0; i < 2; ++i) {
        const int32_t chunk = lane + 32 * i;
        largest[i] = chunk < n_chunks ? sums[2 * chunk] : masked_score;
        l[i] = chunk < n_chunks ? sums[2 * chunk + 1] : 0;
    }
    const float m = warp_max(fmaxf(largest[0], largest[1]));
    QP_UNROLL for (int i = 0; i < 2; ++i) weight[i] = exp2_fast(largest[i] - m);
    const float inverse = div_rn(1, warp_sum(l[0] * weight[0] + l[1] * weight[1]));
    QP_NO_UNROLL for (int32_t d0 = 0; d0 < width; d0 += 128) {
        const int32_t d = d0 + 4 * lane;
        const float* from = outputs + (d < width ? d : 0);
        float o[4] = {0, 0, 0, 0};
        constexpr int at_once = 8;  // loads in flight
        QP_NO_UNROLL for (int32_t c0 = 0; c0 < n_chunks; c0 += at_once) {
            uint4 v[at_once];
            QP_UNROLL for (int i = 0; i < at_once; ++i) {
                const int32_t c = c0 + i < n_chunks ? c0 + i : n_chunks - 1;
                v[i] = load4(from + int64_t(c) * width);
            }
            QP_UNROLL for (int i = 0; i < at_once; ++i) {
                const int32_t c = c0 + i;
                const float w = c < n_chunks ? shuffle(c < 32 ? weight[0] : weight[1], c % 32) : 0;
                o[0] += bits_float(v[i].x) * w;
                o[1] += bits_float(v[i].y) * w;
                o[2] += bits_float(v[i].z) * w;
                o[3] += bits_float(v[i].w) * w;
            }
        }
        if (d < width) {
            QP_UNROLL for (int e = 0; e < 4; ++e) x[d + e] = o[e] * inverse;
        }
    }
    sync_warp();
}

}  // namespace decode_attention_parts
}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
