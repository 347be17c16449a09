// What a block of decode attention works on, and how it begins and ends: its heads, what the row sees, Q prepared, the
// row's key and value appended, results stored.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/kv.h"
#include "kernels/cuda/rope.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace decode_attention_parts {

constexpr int32_t n_warps = 4, n_threads = 32 * n_warps;
constexpr int32_t tile_heads = 16;  // rows of mma
constexpr int32_t least_chunk_shift = 8;
constexpr float log2_e = 1.4426950408889634f;

/// The kernel's parameter. Partials: O (rows, n_heads, n_slots, width), then (m, l) (rows, n_heads, n_slots, 2).
struct Decode {
    AttentionLaunch launch;
    float* outputs = nullptr;
    float* sums = nullptr;
    uint32_t* counters = nullptr;  // (rows, kv heads * n_tiles)
    int32_t append = 0;
    int32_t n_tiles = 1;   // tiles of 16 query heads that a kv head takes
    int32_t n_splits = 1;  // blocks of a row and tile; block i takes chunks i, i + n_splits ...
    int32_t n_slots = 1;
    float factor = 0, cap = 0;  // score to base 2: factor * dot, with a softcap cap * tanh(factor * dot)
};

/// Up to 16 query heads of one kv head.
struct HeadTile {
    int32_t kv_head, first_head, n_heads, group_tile;
};
QP_DEVICE HeadTile head_tile(const Decode& d, int32_t index) {
    const int32_t group = d.launch.n_heads / d.launch.kv.n_kv_heads;
    HeadTile tile;
    tile.kv_head = index / d.n_tiles;
    tile.group_tile = index % d.n_tiles;
    tile.first_head = tile.kv_head * group + tile.group_tile * tile_heads;
    const int32_t left = group - tile.group_tile * tile_heads;
    tile.n_heads = left < tile_heads ? left : tile_heads;
    return tile;
}

/// What a row sees, by its position and the window alone.
struct Visible {
    int32_t first, last;  // positions
    int32_t shift;        // chunk c is the positions c << shift ..
    int32_t first_chunk, n_chunks;
};
QP_DEVICE Visible visible_positions(int32_t position, int32_t window) {
    Visible v;
    v.last = position;
    v.first = window > 0 && position >= window ? position - window + 1 : 0;
    v.shift = least_chunk_shift;
    while ((v.last >> v.shift) - (v.first >> v.shift) >= decode_max_chunks) ++v.shift;
    v.first_chunk = v.first >> v.shift;
    v.n_chunks = (v.last >> v.shift) - v.first_chunk + 1;
    return v;
}

/// Shared memory: Q as A operands, (m, l) of every warp and head, rows of FP32 (a head each).
template <int Width>
struct Shared {
    static constexpr int32_t row = Width + 8;  // floats; + 8: the 8 bytes a lane stores meet no bank twice
    static constexpr int32_t n_queries = Width / 16 * 32 * 4;

    uint32_t* queries = reinterpret_cast<uint32_t*>(dynamic_shared());
    float* maxima = reinterpret_cast<float*>(queries + n_queries);  // (n_warps, 16)
    float* sums = maxima + n_warps * tile_heads;                    // (n_warps, 16)
    uint32_t* flag = reinterpret_cast<uint32_t*>(sums + n_warps * tile_heads);
    float* rows = reinterpret_cast<float*>(flag + 4);

    static uint32_t bytes(int32_t heads) {
        const int32_t n_rows = 2 * heads > n_warps ? 2 * heads : n_warps;
        return uint32_t(4 * (n_queries + 2 * n_warps * tile_heads + 4 + n_rows * row));
    }
};

/// Tiles of a chunk that a row sees: first .. last of the sequence's.
struct TileRange {
    int32_t first, last;
};
QP_DEVICE TileRange tiles_of(const Visible& visible, int32_t slot) {
    const int32_t begin = (visible.first_chunk + slot) << visible.shift, end = begin + (1 << visible.shift);
    return {(visible.first > begin ? visible.first : begin) / tile_tokens,
            (visible.last < end ? visible.last : end - 1) / tile_tokens};
}

/// The cache's block of a tile; any where the tile is none of the range.
QP_DEVICE int32_t block_of(const KvView& kv, const int32_t* blocks, TileRange range, int32_t tile) {
    return tile <= range.last ? blocks[tile / (kv.block_tokens / tile_tokens)] : 0;
}
QP_DEVICE TilePlace place_of(const KvView& kv, int32_t block, int32_t kv_head, int32_t tile) {
    return {kv_head_index(kv, block, kv_head), tile % (kv.block_tokens / tile_tokens) * tile_tokens};
}

/// A warp's first tile is fetched while the heads are prepared.
template <int Type>
QP_DEVICE void prefetch_tile(const KvView& kv, TilePlace place) {
    constexpr int32_t eight = Type == kv_f16 ? 16 : Type == kv_q8 ? 8 : 4;  // bytes
    const int32_t lane = int32_t(threadIdx.x) % 32, key_bytes = kv.width / 8 * eight, row = kv.block_tokens / 8 * eight;
    const uint8_t* keys = kv.keys + (place.head * kv.block_tokens + place.token) * key_bytes;
    QP_NO_UNROLL for (int32_t i = lane * 128; i < tile_tokens * key_bytes; i += 32 * 128) prefetch_l2(keys + i);
    const uint8_t* values = kv.values + place.head * kv.width * row + place.token / 8 * eight;
    QP_NO_UNROLL for (int32_t d = lane; d < kv.width; d += 32) prefetch_l2(values + d * row);
}

/// Elements lane, lane + 32 ... of a head of q, k or v.
template <int Width>
QP_DEVICE void load_head(const float* from, int32_t head_dim, float (&v)[Width / 32]) {
    const int32_t lane = int32_t(threadIdx.x) % 32;
    QP_UNROLL for (int i = 0; i < Width / 32; ++i) v[i] = lane + 32 * i < head_dim ? from[lane + 32 * i] : 0.0f;
}

/// A warp a head: norm and RoPE (where the launch appends), rotation, Q to shared memory as A operands. The block that
/// `appends` also makes the row's key and value, before it reads any. `first`: q of the warp's first head, loaded. Rows
/// of Q beyond n_heads stay what they were: no other row's result depends on them.
template <int Type, int Width>
QP_DEVICE void prepare_heads(const Decode& d, const HeadTile& tile, int32_t row, int32_t slot, bool appends,
                             const Shared<Width>& shared, float (&first)[Width / 32]) {
    const AttentionLaunch& launch = d.launch;
    KvView kv = launch.kv;
    kv.type = Type;
    const int32_t warp = int32_t(threadIdx.x) / 32, lane = int32_t(threadIdx.x) % 32, dim = kv.head_dim;
    const float* qkv = launch.qkv + row * launch.qkv_ld;
    float* x = shared.rows + warp * Shared<Width>::row;
    uint32_t saturated = 0;
    QP_NO_UNROLL for (int32_t task = warp; task < tile.n_heads + (appends ? 2 : 0); task += n_warps) {
        const bool is_query = task < tile.n_heads, is_key = task == tile.n_heads;
        const int32_t head = is_query ? tile.first_head + task : tile.kv_head;
        if (task != warp || !is_query) {
            const int32_t from = is_query ? head : launch.n_heads + (is_key ? 0 : kv.n_kv_heads) + head;
            load_head<Width>(qkv + int64_t(from) * dim, dim, first);
        }
        QP_UNROLL for (int i = 0; i < Width / 32; ++i) x[lane + 32 * i] = first[i];
        sync_warp();
        if (d.append && (is_query || is_key)) {
            norm_head(is_query ? launch.q_norm : launch.k_norm, x, dim, head, lane);
            rope_head(launch.angles, row, x, lane);
        }
        if (is_query) {
            if (Type != kv_f16) hadamard(x, dim, lane);
            uint32_t ignored = 0;
            QP_UNROLL for (int i = 0; i < Width / 64; ++i) {
                const int32_t pair = lane + 32 * i, k_step = 2 * (pair / 16) + pair / 2 % 2;
                const int32_t owner = 4 * (task % 8) + pair / 4 % 4, a = task / 8 + 2 * (pair % 2);
                shared.queries[(k_step * 32 + owner) * 4 + a] = pack_saturated(x[2 * pair], x[2 * pair + 1], ignored);
            }
        } else if (is_key) {
            kv_append_key(kv, slot, head, x, lane, saturated);
        } else {
            kv_append_value(kv, slot, head, x, lane, saturated);
        }
        sync_warp();
    }
    if (saturated && launch.saturation && tile.group_tile == 0) atomic_add(&launch.saturation->count, saturated);
}

/// The A operands of Q: in registers but for the widest heads, whose accumulators leave no room.
template <int Width>
struct Queries {
    static constexpr bool held = Width <= 128;
    uint4 registers[held ? Width / 16 : 1];
    const uint32_t* own;

    QP_DEVICE explicit Queries(const Shared<Width>& shared) : own(shared.queries + threadIdx.x % 32 * 4) {
        if constexpr (held) {
            QP_UNROLL for (int s = 0; s < Width / 16; ++s) registers[s] = load4(own + s * 128);
        }
    }
    QP_DEVICE void operator()(int32_t s, uint32_t (&a)[4]) const {
        const uint4 v = held ? registers[held ? s : 0] : load4(own + s * 128);
        a[0] = v.x;
        a[1] = v.y;
        a[2] = v.z;
        a[3] = v.w;
    }
};

/// One head of out and packed; x null: zeros.
QP_DEVICE void store_head(const AttentionLaunch& launch, int32_t row, int32_t head, const float* x) {
    const int32_t dim = launch.kv.head_dim;
    const float down = bits_float(uint32_t(127 - launch.packed.exponent) << 23);
    uint32_t saturated = 0;
    QP_NO_UNROLL for (int32_t i = int32_t(threadIdx.x) % 32; i < dim; i += 32) {
        const float v = x ? x[i] : 0.0f;
        const int32_t column = head * dim + i;
        if (launch.out) launch.out[row * launch.ld + column] = v;
        if (launch.packed.x) {
            launch.packed.x[int64_t(row) * launch.packed.ld + launch.order.scatter[column]] =
                uint16_t(pack_saturated(v * down, 0, saturated));
        }
    }
    if (saturated && launch.saturation) atomic_add(&launch.saturation->count, saturated);
}

QP_DEVICE void store_padding(const AttentionLaunch& launch, int32_t row) {
    if (!launch.packed.x) return;
    QP_NO_UNROLL for (int32_t i = int32_t(threadIdx.x); i < launch.order.n_padding; i += n_threads)
        launch.packed.x[int64_t(row) * launch.packed.ld + launch.order.padding[i]] = 0;
}

}  // namespace decode_attention_parts
}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
