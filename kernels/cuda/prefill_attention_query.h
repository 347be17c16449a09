// Queries of a prefill block on their way to registers, and the block's plan of shared memory.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/prefill_attention_stage.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {

/// Shared memory: keys, values, queries. Up to 128 dimensions queries move on to registers, and their memory is that of
/// the values (f16) or of the raw tile (q8, q4). The output's rows, FP32, are all of it.
template <int Width, bool Coded>
struct PrefillPlan {
    static constexpr int32_t tokens = Width <= 128 ? 64 : 32;
    static constexpr bool held = Width <= 128;    // queries in registers
    static constexpr bool ahead = Coded && held;  // codes are fetched a tile ahead; not beside queries in 64 KB (sm_75)
    using Raw = RawTile<Width, tokens>;

    static constexpr int32_t tile_bytes = tokens * Width * 2, query_bytes = prefill_tile_rows * Width * 2;
    static constexpr int32_t output_pitch = held ? Width + 8 : Width;
    static constexpr int32_t raw_bytes = ahead ? Raw::bytes : 0;
    static constexpr int32_t staged_bytes = held && !Coded            ? 2 * tile_bytes
                                            : query_bytes > raw_bytes ? 2 * tile_bytes + query_bytes
                                                                      : 2 * tile_bytes + raw_bytes;
    static constexpr int32_t output_bytes = prefill_tile_rows * output_pitch * 4;
    static constexpr int32_t bytes = staged_bytes > output_bytes ? staged_bytes : output_bytes;
    static constexpr int32_t queries = Coded || !held ? 2 * tile_bytes : tile_bytes;
    static_assert(bytes <= 64 << 10);
};

/// The block's rows.
struct PrefillRows {
    int32_t first, n;  // rows of the step
    int32_t sequence;  // of dummies: -1
    int32_t first_position;
};

/// One row of Q, the values of pair lane + 32 i in v[i], as FP16 where the A operands are loaded from (as keys lie).
template <int Width>
QP_DEVICE void put_query(unsigned char* to, int32_t row, int32_t width, const uint2 (&v)[Width / 64]) {
    uint32_t ignored = 0;
    QP_UNROLL for (int i = 0; i < Width / 64; ++i) {
        const int32_t pair = int32_t(threadIdx.x) % 32 + 32 * i;
        if (2 * pair >= width) continue;
        unsigned char* at = to + row * 2 * Width + 16 * ((pair / 4) ^ (4 * (row & 1))) + pair % 4 * 4;
        *reinterpret_cast<uint32_t*>(at) = pack_saturated(bits_float(v[i].x), bits_float(v[i].y), ignored);
    }
}

/// The warp's 16 rows of Q to shared memory, rotated where the cache is; zeros where there is no row. strips: a tile's
/// worth of shared memory, of all warps.
template <int Width, bool Coded>
QP_DEVICE void stage_queries(const AttentionLaunch& a, const PrefillRows& rows, int32_t head, float* strips,
                             unsigned char* to) {
    const int32_t lane = int32_t(threadIdx.x) % 32, warp = int32_t(threadIdx.x) / 32;
    const int32_t dim = a.kv.head_dim, width = a.kv.width;
    constexpr int32_t per_lane = Width / 64;           // pairs
    constexpr int32_t at_once = Width <= 128 ? 8 : 4;  // rows whose loads are in flight together
    static_assert(stage_threads / 32 * at_once * Width * 4 <= PrefillPlan<Width, Coded>::tile_bytes);
    float* own = strips + warp * at_once * Width;
    QP_NO_UNROLL for (int32_t r0 = 16 * warp; r0 < 16 * warp + 16; r0 += at_once) {
        uint2 v[at_once][per_lane];
        QP_UNROLL for (int k = 0; k < at_once; ++k) {
            const float* from = a.qkv + int64_t(rows.first + r0 + k) * a.qkv_ld + head * dim;
            QP_UNROLL for (int i = 0; i < per_lane; ++i) {
                const int32_t pair = lane + 32 * i;
                v[k][i] = {0, 0};
                if (r0 + k < rows.n && 2 * pair < dim) v[k][i] = load2(from + 2 * pair);
            }
        }
        if constexpr (!Coded) {
            QP_UNROLL for (int k = 0; k < at_once; ++k) put_query<Width>(to, r0 + k, width, v[k]);
        } else {
            QP_UNROLL for (int k = 0; k < at_once; ++k) {
                QP_UNROLL for (int i = 0; i < per_lane; ++i) *
                    reinterpret_cast<uint2*>(own + k * Width + 2 * (lane + 32 * i)) = v[k][i];
            }
            sync_warp();
            QP_NO_UNROLL for (int32_t k = 0; k < at_once; ++k) {
                hadamard(own + k * Width, dim, lane);
                uint2 turned[per_lane];
                QP_UNROLL for (int i = 0; i < per_lane; ++i) turned[i] = load2(own + k * Width + 2 * (lane + 32 * i));
                put_query<Width>(to, r0 + k, width, turned);
            }
            sync_warp();
        }
    }
    sync_warp();
}

/// A operands of the warp's 16 rows: in registers but for the widest heads, whose accumulators leave no room.
template <int Width, bool Coded>
struct QueryOperands {
    static constexpr bool held = PrefillPlan<Width, Coded>::held;
    uint32_t registers[held ? Width / 32 : 1][2][4];
    Staged<2 * Width> rows;

    QP_DEVICE QueryOperands(unsigned char* queries, int32_t width)
        : rows(queries, int32_t(threadIdx.x) / 32 * 16 + int32_t(threadIdx.x) % 32 / 4, int32_t(threadIdx.x) % 4) {
        if constexpr (held) {
            QP_UNROLL for (int u = 0; u < Width / 32; ++u) {
                if (32 * u < width) load(u, registers[u][0], registers[u][1]);
            }
        }
    }
    /// Of the two k-steps of dimensions 32u .. 32u + 31.
    QP_DEVICE void get(int32_t u, uint32_t (&even)[4], uint32_t (&odd)[4]) const {
        if constexpr (held) {
            QP_UNROLL for (int i = 0; i < 4; ++i) {
                even[i] = registers[u][0][i];
                odd[i] = registers[u][1][i];
            }
        } else {
            load(u, even, odd);
        }
    }

 private:
    QP_DEVICE void load(int32_t u, uint32_t (&even)[4], uint32_t (&odd)[4]) const {
        const uint4 above = load4(rows.at(0, u)), below = load4(rows.at(8, u));
        even[0] = above.x, even[1] = below.x, even[2] = above.y, even[3] = below.y;
        odd[0] = above.z, odd[1] = below.z, odd[2] = above.w, odd[3] = below.w;
    }
};

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
