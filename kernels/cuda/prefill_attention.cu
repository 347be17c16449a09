// Prefill attention: 64 rows of a sequence against its cache, in tiles of 64 (heads above 128: 32) positions, with the
// online softmax of FlashAttention-2 (arXiv 2307.08691).
//
// Four warps of 16 rows share each tile. Tiles pass through shared memory rather than from global memory straight into
// fragments, as decode's do: four warps would read each byte four times, and at 300 TFLOP/s even one reading is 4.7 TB/s of
// the L2's 5.5; copies in flight also hide that latency without registers. Keys and values have a buffer each: values
// arrive under S = Q K^T, the next keys under softmax and O += P V.
//
// A row's bits depend on its sequence and position alone: tiles lie on a fixed grid of positions, and one that a row does
// not see leaves its maximum, sum and output as they are, bit for bit.
#include <cmath>
#include <string>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/kv_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/prefill_attention_stage.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

constexpr float log2_of_e = 1.4426950408889634f;
constexpr float lowest = -1e30f;  // where a maximum starts: finite, so that two of them have a difference

struct Prefill {
    AttentionLaunch launch;
    const RowTile* tiles = nullptr;
    int32_t n_tiles = 0;
    float factor = 0, cap = 0;  // score to base 2: factor * dot, with a softcap cap * tanh(factor * dot)
};

/// Shared memory: keys, values, queries. Up to 128 dimensions queries move on to registers, and their memory is that of the
/// values (f16) or of the raw tile (q8, q4). The output's rows, FP32, are all of it.
template <int Width, bool Coded>
struct Plan {
    static constexpr int32_t tokens = Width <= 128 ? 64 : 32;
    static constexpr bool held = Width <= 128;   // queries in registers
    static constexpr bool ahead = Coded && held;  // codes are fetched a tile ahead; not beside queries in 64 KB (sm_75)
    using Raw = RawTile<Width, tokens>;

    static constexpr int32_t tile_bytes = tokens * Width * 2, query_bytes = prefill_tile_rows * Width * 2;
    static constexpr int32_t output_pitch = held ? Width + 8 : Width;
    static constexpr int32_t raw_bytes = ahead ? Raw::bytes : 0;
    static constexpr int32_t staged_bytes = held && !Coded               ? 2 * tile_bytes
                                            : query_bytes > raw_bytes ? 2 * tile_bytes + query_bytes
                                                                        : 2 * tile_bytes + raw_bytes;
    static constexpr int32_t output_bytes = prefill_tile_rows * output_pitch * 4;
    static constexpr int32_t bytes = staged_bytes > output_bytes ? staged_bytes : output_bytes;
    static constexpr int32_t queries = Coded || !held ? 2 * tile_bytes : tile_bytes;
    static_assert(bytes <= 64 << 10);
};

/// The block's rows.
struct TileRows {
    int32_t first, n;        // rows of the step
    int32_t sequence;        // of dummies: -1
    int32_t first_position, last_position;
};

/// The warp's 16 rows of Q to shared memory as FP16 (as keys lie), rotated where the cache is; zeros where there is no row.
template <int Width, bool Coded>
QP_DEVICE void stage_queries(const AttentionLaunch& a, const TileRows& rows, int32_t head, float* strip,
                             unsigned char* to) {
    const int32_t lane = int32_t(threadIdx.x) % 32, first = int32_t(threadIdx.x) / 32 * 16;
    const int32_t dim = a.kv.head_dim, width = a.kv.width;
    constexpr int32_t per_lane = Width / 64;            // pairs
    constexpr int32_t at_once = Width <= 128 ? 8 : 4;  // rows whose loads are in flight together
    QP_NO_UNROLL for (int32_t r0 = first; r0 < first + 16; r0 += at_once) {
        uint2 v[at_once][per_lane];
        QP_UNROLL for (int k = 0; k < at_once; ++k) {
            const float* from = a.qkv + int64_t(rows.first + r0 + k) * a.qkv_ld + head * dim;
            QP_UNROLL for (int i = 0; i < per_lane; ++i) {
                const int32_t pair = lane + 32 * i;
                v[k][i] = {0, 0};
                if (r0 + k < rows.n && 2 * pair < dim) v[k][i] = load2(from + 2 * pair);
            }
        }
        QP_UNROLL for (int k = 0; k < at_once; ++k) {
            if constexpr (Coded) {
                QP_UNROLL for (int i = 0; i < per_lane; ++i) {
                    const int32_t pair = lane + 32 * i;
                    if (2 * pair >= width) continue;
                    strip[2 * pair] = bits_float(v[k][i].x);
                    strip[2 * pair + 1] = bits_float(v[k][i].y);
                }
                sync_warp();
                hadamard(strip, dim, lane);
                QP_UNROLL for (int i = 0; i < per_lane; ++i) {
                    const int32_t pair = lane + 32 * i;
                    if (2 * pair < width) v[k][i] = {float_bits(strip[2 * pair]), float_bits(strip[2 * pair + 1])};
                }
                sync_warp();
            }
            uint32_t ignored = 0;
            QP_UNROLL for (int i = 0; i < per_lane; ++i) {
                const int32_t pair = lane + 32 * i;
                if (2 * pair >= width) continue;
                unsigned char* at = to + (r0 + k) * 2 * Width + 16 * ((pair / 4) ^ (4 * (k & 1))) + pair % 4 * 4;
                *reinterpret_cast<uint32_t*>(at) = pack_saturated(bits_float(v[k][i].x), bits_float(v[k][i].y), ignored);
            }
        }
    }
    sync_warp();
}

/// A operands of the warp's 16 rows: in registers but for the widest heads, whose accumulators leave no room.
template <int Width, bool Coded>
struct QueryOperands {
    static constexpr bool held = Plan<Width, Coded>::held;
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

/// What a lane has of rows g and g + 8: scores s[4 h + j][q] of tokens 32 h + 8 t + 2 j + q % 2, row g + 8 (q / 2); the
/// largest score (base 2), its own share of the sum of 2^(score - it), and O in dimensions 8 n + 2 t + q % 2.
template <int Width, int Tokens>
struct RowState {
    float s[Tokens / 8][4];
    float o[Width / 8][4];
    float largest[2], sum[2];
};

template <int Width, bool Coded, int Tokens>
QP_DEVICE void score(const QueryOperands<Width, Coded>& queries, unsigned char* keys, int32_t width,
                     RowState<Width, Tokens>& state) {
    const int32_t lane = int32_t(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const Staged<2 * Width> tokens(keys, 8 * (g / 2) + g % 2, t);
    QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
        QP_UNROLL for (int q = 0; q < 4; ++q) state.s[n][q] = 0;
    }
    QP_UNROLL for (int u = 0; u < Width / 32; ++u) {
        if (32 * u >= width) continue;
        uint32_t even[4], odd[4];
        queries.get(u, even, odd);
        QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
            const uint4 k = load4(tokens.at(32 * (n / 4) + 2 * (n % 4), u));
            mma_16x8x16(state.s[n], even, k.x, k.y);
            mma_16x8x16(state.s[n], odd, k.z, k.w);
        }
    }
}

/// Scores become weights 2^(score - largest); sum and O follow the new largest. `position`: of the lane's first token.
template <int Width, int Tokens>
QP_DEVICE void weigh(const Prefill& p, int32_t position, const int32_t (&query)[2], float slope, bool masked,
                     RowState<Width, Tokens>& state) {
    QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
        QP_UNROLL for (int q = 0; q < 4; ++q) state.s[n][q] *= p.factor;
    }
    if (p.cap != 0) {
        QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
            QP_UNROLL for (int q = 0; q < 4; ++q)  // tanh
                state.s[n][q] = p.cap * (1 - div_rn(2, exp2_fast(2 * log2_of_e * state.s[n][q]) + 1));
        }
    }
    if (p.launch.alibi_slopes) {
        QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
            QP_UNROLL for (int q = 0; q < 4; ++q)
                state.s[n][q] += slope * float(position + 32 * (n / 4) + 2 * (n % 4) + q % 2 - query[q / 2]);
        }
    }
    if (masked) {
        const float nothing = bits_float(0xff800000u);
        QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
            QP_UNROLL for (int q = 0; q < 4; ++q) {
                const int32_t at = position + 32 * (n / 4) + 2 * (n % 4) + q % 2, distance = query[q / 2] - at;
                const bool seen = distance >= 0 && (p.launch.window <= 0 || distance < p.launch.window);
                state.s[n][q] = seen ? state.s[n][q] : nothing;
            }
        }
    }
    float rescale[2];
    QP_UNROLL for (int r = 0; r < 2; ++r) {
        float m = state.largest[r];
        QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) m = fmaxf(m, fmaxf(state.s[n][2 * r], state.s[n][2 * r + 1]));
        m = fmaxf(m, shuffle_xor(m, 1));
        m = fmaxf(m, shuffle_xor(m, 2));
        rescale[r] = exp2_fast(state.largest[r] - m);
        state.largest[r] = m;
        float sum = 0;
        QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
            QP_UNROLL for (int e = 0; e < 2; ++e) {
                state.s[n][2 * r + e] = exp2_fast(state.s[n][2 * r + e] - m);
                sum += state.s[n][2 * r + e];
            }
        }
        state.sum[r] = state.sum[r] * rescale[r] + sum;
    }
    QP_UNROLL for (int n = 0; n < Width / 8; ++n) {
        QP_UNROLL for (int q = 0; q < 4; ++q) state.o[n][q] *= rescale[q / 2];
    }
}

/// O += P V.
template <int Width, int Tokens>
QP_DEVICE void add_staged_values(unsigned char* values, int32_t width, RowState<Width, Tokens>& state) {
    const int32_t lane = int32_t(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const Staged<2 * Tokens> dimensions(values, g, t);
    uint32_t p[Tokens / 16][4];
    QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
        p[n / 2][2 * (n % 2)] = pack_half2(state.s[n][0], state.s[n][1]);
        p[n / 2][2 * (n % 2) + 1] = pack_half2(state.s[n][2], state.s[n][3]);
    }
    QP_UNROLL for (int u = 0; u < Width / 32; ++u) {
        if (32 * u >= width) continue;
        QP_UNROLL for (int n = 4 * u; n < 4 * u + 4; ++n) {
            QP_UNROLL for (int h = 0; h < Tokens / 32; ++h) {
                const uint4 v = load4(dimensions.at(8 * n, h));
                mma_16x8x16(state.o[n], p[2 * h], v.x, v.y);
                mma_16x8x16(state.o[n], p[2 * h + 1], v.z, v.w);
            }
        }
    }
}

/// The warp's rows of O, normalised and rotated back, to out and packed. Nobody else reads shared memory any more.
template <int Width, bool Coded, int Tokens>
QP_DEVICE void store_rows(const AttentionLaunch& a, const RowTile& rows, int32_t head, RowState<Width, Tokens>& state) {
    constexpr int32_t pitch = Plan<Width, Coded>::output_pitch;
    float* strips = reinterpret_cast<float*>(dynamic_shared()) + int32_t(threadIdx.x) / 32 * 16 * pitch;
    const int32_t lane = int32_t(threadIdx.x) % 32, first = int32_t(threadIdx.x) / 32 * 16, g = lane / 4, t = lane % 4;
    QP_UNROLL for (int r = 0; r < 2; ++r) {
        float sum = state.sum[r];
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        const float inverse = sum == 0 ? 0 : div_rn(1, sum);
        QP_UNROLL for (int n = 0; n < Width / 8; ++n) {
            if (8 * n >= a.kv.width) continue;
            float* to = strips + (g + 8 * r) * pitch + 8 * n + 2 * t;
            to[0] = state.o[n][2 * r] * inverse;
            to[1] = state.o[n][2 * r + 1] * inverse;
        }
    }
    sync_warp();
    const int32_t dim = a.kv.head_dim;
    const float down = bits_float(uint32_t(127 - a.packed.exponent) << 23);
    uint32_t saturated = 0;
    QP_NO_UNROLL for (int32_t r = 0; r < 16 && first + r < rows.n_rows; ++r) {
        float* x = strips + r * pitch;
        if (Coded) hadamard(x, dim, lane);
        const int64_t row = rows.first_row + first + r;
        for (int32_t d = lane; d < dim; d += 32) {
            const int32_t column = head * dim + d;
            if (a.out) a.out[row * a.ld + column] = x[d];
            if (a.packed.x)
                a.packed.x[row * a.packed.ld + a.order.scatter[column]] = uint16_t(pack_saturated(x[d] * down, 0, saturated));
        }
        if (a.packed.x && head == 0) {
            for (int32_t i = lane; i < a.order.n_padding; i += 32) a.packed.x[row * a.packed.ld + a.order.padding[i]] = 0;
        }
    }
    if (saturated && a.saturation) atomic_add(&a.saturation->count, saturated);
}

/// Grid (heads, tiles), the tiles of late positions, which take longest, first; 4 warps. q (rows, n_heads * head_dim) FP32
/// in qkv, the cache in f16 (Coded: q8 or q4, decoded to code * scale in FP16) with head_dim up to Width.
template <int Width, bool Coded>
QP_KERNEL QP_BOUNDS(stage_threads, Width == 64 ? 4 : Width == 128 ? 3 : 2) prefill_kernel(QP_PARAM Prefill p) {
    using Shape = Plan<Width, Coded>;
    constexpr int32_t tokens = Shape::tokens;
    const AttentionLaunch& a = p.launch;
    const KvView& kv = a.kv;
    const int32_t warp = int32_t(threadIdx.x) / 32, lane = int32_t(threadIdx.x) % 32, width = kv.width;
    const int32_t head = int32_t(blockIdx.x), kv_head = head / (a.n_heads / kv.n_kv_heads);
    wait_for_earlier_kernels();
    const RowTile row_tile = p.tiles[p.n_tiles - 1 - int32_t(blockIdx.y)];
    if (row_tile.n_rows <= 0) return;
    const StepRow &first_row = a.step.rows[row_tile.first_row], &last_row = a.step.rows[row_tile.first_row + row_tile.n_rows - 1];
    const TileRows rows = {row_tile.first_row, row_tile.n_rows, first_row.sequence, first_row.position, last_row.position};
    const SeenTokens seen = {a.window > 0 && rows.first_position >= a.window ? rows.first_position - a.window + 1 : 0,
                             rows.sequence < 0 ? -1 : rows.last_position};
    const int32_t* table = a.step.table + int64_t(rows.sequence) * a.step.header->max_blocks;
    const int32_t begin = seen.first / tokens * tokens;

    unsigned char *const keys = dynamic_shared(), *const values = keys + Shape::tile_bytes, *const staged = keys + Shape::queries;
    const typename Shape::Raw raw = {staged};
    StageTile<tokens> tile;
    tile.find(kv, table, begin, seen);
    if constexpr (!Coded) {
        if (seen.last >= 0) {
            stage_keys<Width>(kv, kv_head, tile, keys);
            commit_copies();
        }
    }
    stage_queries<Width, Coded>(a, rows, head, reinterpret_cast<float*>(values) + warp * width, staged);
    const QueryOperands<Width, Coded> queries(staged, width);
    if constexpr (Shape::ahead) {
        sync_block();
        if (seen.last >= 0) fetch_raw<Width>(kv, kv_head, tile, raw, 0);
    }
    int32_t query[2];
    QP_UNROLL for (int r = 0; r < 2; ++r) {
        const int32_t i = 16 * warp + lane / 4 + 8 * r;
        query[r] = i < rows.n ? a.step.rows[rows.first + i].position : rows.first_position;
    }
    const float slope = a.alibi_slopes ? a.alibi_slopes[head] * log2_of_e : 0;
    RowState<Width, tokens> state;
    QP_UNROLL for (int n = 0; n < Width / 8; ++n) {
        QP_UNROLL for (int q = 0; q < 4; ++q) state.o[n][q] = 0;
    }
    state.largest[0] = state.largest[1] = lowest;
    state.sum[0] = state.sum[1] = 0;

    int32_t buffer = 0;
    QP_NO_UNROLL for (int32_t at = begin; at <= seen.last; at += tokens) {
        const bool more = at + tokens <= seen.last;
        const bool masked = at + tokens - 1 > rows.first_position ||
                            (a.window > 0 && at <= rows.last_position - a.window);
        const int32_t position = at + 8 * (lane % 4);
        StageTile<tokens> next;
        next.find(kv, table, at + tokens, seen);
        if constexpr (Coded) {
            if constexpr (Shape::ahead) wait_copies<0>();
            sync_block();  // codes and scales of this tile are there; nobody reads the tile before it any more
            stage_decoded<Width, tokens, Shape::ahead>(kv, kv_head, tile, at, seen, raw, buffer, keys, values);
            if constexpr (Shape::ahead) {
                buffer ^= 1;
                if (more) fetch_raw<Width>(kv, kv_head, next, raw, buffer);
            }
            sync_block();
            score(queries, keys, width, state);
        } else {
            wait_copies<0>();
            sync_block();  // these keys are there; nobody reads the values before these any more
            stage_values<Width>(kv, kv_head, tile, at, seen, values);
            commit_copies();
            score(queries, keys, width, state);
            wait_copies<0>();
            sync_block();  // these values are there; nobody reads these keys any more
            if (more) {
                stage_keys<Width>(kv, kv_head, next, keys);
                commit_copies();
            }
        }
        weigh(p, position, query, slope, masked, state);
        add_staged_values(values, width, state);
        tile = next;
    }
    let_next_kernel_start();
    sync_block();
    store_rows<Width, Coded>(a, p.tiles[p.n_tiles - 1 - int32_t(blockIdx.y)], head, state);
}

template <int Width>
void start(Queue& queue, const Prefill& p) {
    const Extent grid{uint32_t(p.launch.n_heads), uint32_t(p.n_tiles)}, block{uint32_t(stage_threads)};
    if (p.launch.kv.type == kv_f16)
        launch(queue, "prefill_attention", prefill_kernel<Width, false>, grid, block, size_t(Plan<Width, false>::bytes), p);
    else
        launch(queue, "prefill_attention", prefill_kernel<Width, true>, grid, block, size_t(Plan<Width, true>::bytes), p);
}

}  // namespace

void prefill_attention(Queue& queue, const AttentionLaunch& a, const RowTile* tiles, int32_t n_tiles) {
    if (n_tiles <= 0) return;
    queue.keep(check_attention(a, "prefill_attention"));
    if (a.qkv_ld % 2 || n_tiles > 65535) {
        queue.keep(Status::error(unimplemented, "prefill_attention: rows of " + std::to_string(a.qkv_ld) + " values in " +
                                                    std::to_string(n_tiles) + " tiles; it takes even numbers and at most 65535"));
    }
    Prefill p;
    p.launch = a;
    p.tiles = tiles;
    p.n_tiles = n_tiles;
    p.factor = a.softcap > 0 ? a.scale / a.softcap : a.scale * log2_of_e;
    p.cap = a.softcap > 0 ? a.softcap * log2_of_e : 0;
    if (a.kv.width <= 64) return start<64>(queue, p);
    if (a.kv.width <= 128) return start<128>(queue, p);
    start<256>(queue, p);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
