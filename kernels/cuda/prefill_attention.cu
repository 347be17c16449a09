// Prefill attention: 64 rows of a sequence against its cache, in tiles of 64 (heads above 128: 32) positions, with the
// online softmax of FlashAttention-2 (arXiv 2307.08691).
//
// Four warps of 16 rows share each tile. Tiles pass through shared memory rather than from global memory straight into
// fragments, as decode's do: four warps would read each byte four times, and at 300 TFLOP/s even one reading is 4.7
// TB/s of the L2's 5.5; copies in flight also hide that latency without registers. Keys and values have a buffer each:
// values arrive under S = Q K^T, the next keys under softmax and O += P V.
//
// A row's bits depend on its sequence and position alone: tiles lie on a fixed grid of positions, and one that a row
// does not see leaves its maximum, sum and output as they are, bit for bit.
#include <cmath>
#include <string>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/kv_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/prefill_attention_query.h"
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
    QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) { QP_UNROLL for (int q = 0; q < 4; ++q) state.s[n][q] = 0; }
    // The compiler puts loads first: of all tokens they do not fit into registers. Numbers that spill none.
    constexpr int at_once = Coded ? 4 : 2;
    QP_UNROLL for (int n0 = 0; n0 < Tokens / 8; n0 += at_once) {
        QP_UNROLL for (int u = 0; u < Width / 32; ++u) {
            if (32 * u >= width) continue;
            uint32_t even[4], odd[4];
            queries.get(u, even, odd);
            QP_UNROLL for (int n = n0; n < n0 + at_once; ++n) {
                const uint4 k = load4(tokens.at(32 * (n / 4) + 2 * (n % 4), u));
                mma_16x8x16(state.s[n], even, k.x, k.y);
                mma_16x8x16(state.s[n], odd, k.z, k.w);
            }
        }
    }
}

/// Scores become weights 2^(score - largest); sum and O follow the new largest. `position`: of the lane's first token.
template <int Width, int Tokens>
QP_DEVICE void weigh(const Prefill& p, int32_t position, int32_t query, bool masked, RowState<Width, Tokens>& state) {
    QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) { QP_UNROLL for (int q = 0; q < 4; ++q) state.s[n][q] *= p.factor; }
    if (p.cap != 0) {
        QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
            QP_UNROLL for (int q = 0; q < 4; ++q)  // tanh
                state.s[n][q] = p.cap * (1 - div_rn(2, exp2_fast(2 * log2_of_e * state.s[n][q]) + 1));
        }
    }
    if (p.launch.alibi_slopes) {
        const float slope = p.launch.alibi_slopes[blockIdx.x] * log2_of_e;
        QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
            QP_UNROLL for (int q = 0; q < 4; ++q) state.s[n][q] +=
                slope * float(position + 32 * (n / 4) + 2 * (n % 4) + q % 2 - query - 8 * (q / 2));
        }
    }
    if (masked) {
        const float nothing = bits_float(0xff800000u);
        QP_UNROLL for (int n = 0; n < Tokens / 8; ++n) {
            QP_UNROLL for (int q = 0; q < 4; ++q) {
                const int32_t at = position + 32 * (n / 4) + 2 * (n % 4) + q % 2, distance = query + 8 * (q / 2) - at;
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
    constexpr int32_t pitch = PrefillPlan<Width, Coded>::output_pitch;
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
                a.packed.x[row * a.packed.ld + a.order.scatter[column]] =
                    uint16_t(pack_saturated(x[d] * down, 0, saturated));
        }
        if (a.packed.x && head == 0) {
            for (int32_t i = lane; i < a.order.n_padding; i += 32)
                a.packed.x[row * a.packed.ld + a.order.padding[i]] = 0;
        }
    }
    if (saturated && a.saturation) atomic_add(&a.saturation->count, saturated);
}

/// Grid (heads, tiles), the tiles of late positions, which take longest, first; 4 warps. q (rows, n_heads * head_dim)
/// FP32 in qkv, the cache in f16 (Coded: q8 or q4, decoded to code * scale in FP16) with head_dim up to Width.
template <int Width, bool Coded>
QP_KERNEL QP_BOUNDS(stage_threads, Width == 64    ? 4
                                   : Width == 128 ? 3
                                                  : 2) prefill_kernel(QP_PARAM Prefill p) {
    using Shape = PrefillPlan<Width, Coded>;
    constexpr int32_t tokens = Shape::tokens;
    const AttentionLaunch& a = p.launch;
    const KvView& kv = a.kv;
    const int32_t warp = int32_t(threadIdx.x) / 32, lane = int32_t(threadIdx.x) % 32, width = kv.width;
    const int32_t head = int32_t(blockIdx.x), kv_head = head / (a.n_heads / kv.n_kv_heads);
    wait_for_earlier_kernels();
    const RowTile row_tile = p.tiles[p.n_tiles - 1 - int32_t(blockIdx.y)];
    if (row_tile.n_rows <= 0) return;
    const StepRow &first_row = a.step.rows[row_tile.first_row],
                  &last_row = a.step.rows[row_tile.first_row + row_tile.n_rows - 1];
    const PrefillRows rows = {row_tile.first_row, row_tile.n_rows, first_row.sequence, first_row.position};
    const SeenTokens seen = {a.window > 0 && rows.first_position >= a.window ? rows.first_position - a.window + 1 : 0,
                             rows.sequence < 0 ? -1 : last_row.position};
    const int32_t table = rows.sequence * a.step.header->max_blocks;  // where the sequence begins in it
    const int32_t begin = seen.first / tokens * tokens;

    unsigned char *const keys = dynamic_shared(), *const values = keys + Shape::tile_bytes,
                         *const staged = keys + Shape::queries;
    const typename Shape::Raw raw = {staged};
    StageTile<tokens> tile;
    tile.find(kv, a.step.table + table, begin, seen);
    if constexpr (!Coded) {
        if (seen.last >= 0) {
            stage_keys<Width>(kv, kv_head, tile, keys);
            commit_copies();
        }
    }
    stage_queries<Width, Coded>(a, rows, head, reinterpret_cast<float*>(values), staged);
    const QueryOperands<Width, Coded> queries(staged, width);
    if constexpr (Shape::ahead) {
        sync_block();
        if (seen.last >= 0) fetch_raw<Width>(kv, kv_head, tile, raw, begin / tokens % 2);
    }
    RowState<Width, tokens> state;
    QP_UNROLL for (int n = 0; n < Width / 8; ++n) { QP_UNROLL for (int q = 0; q < 4; ++q) state.o[n][q] = 0; }
    state.largest[0] = state.largest[1] = lowest;
    state.sum[0] = state.sum[1] = 0;

    QP_NO_UNROLL for (int32_t at = begin; at <= seen.last; at += tokens) {
        const bool more = at + tokens <= seen.last;
        const bool masked = at + tokens - 1 > rows.first_position || (a.window > 0 && at <= seen.last - a.window);
        if constexpr (Coded) {
            const int32_t buffer = at / tokens % 2;
            if constexpr (Shape::ahead)
                wait_copies<0>();
            else
                tile.find(kv, a.step.table + table, at, seen);
            sync_block();  // codes and scales of this tile are there; nobody reads the tile before it any more
            stage_decoded<Width, tokens, Shape::ahead>(kv, kv_head, tile, at, seen, raw, buffer, keys, values);
            if (Shape::ahead && more) {
                tile.find(kv, a.step.table + table, at + tokens, seen);
                fetch_raw<Width>(kv, kv_head, tile, raw, buffer ^ 1);
            }
            sync_block();
            score(queries, keys, width, state);
        } else {
            StageTile<tokens> next;
            next.find(kv, a.step.table + table, at + tokens, seen);
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
            tile = next;
        }
        weigh(p, at + 8 * (lane % 4), rows.first_position + 16 * warp + lane / 4, masked, state);
        add_staged_values(values, width, state);
    }
    let_next_kernel_start();
    sync_block();
    store_rows<Width, Coded>(a, p.tiles[p.n_tiles - 1 - int32_t(blockIdx.y)], head, state);
}

template <int Width>
void start(Queue& queue, const Prefill& p) {
    const Extent grid{uint32_t(p.launch.n_heads), uint32_t(p.n_tiles)}, block{uint32_t(stage_threads)};
    if (p.launch.kv.type == kv_f16)
        launch(queue, "prefill_attention", prefill_kernel<Width, false>, grid, block,
               size_t(PrefillPlan<Width, false>::bytes), p);
    else
        launch(queue, "prefill_attention", prefill_kernel<Width, true>, grid, block,
               size_t(PrefillPlan<Width, true>::bytes), p);
}

}  // namespace

void prefill_attention(Queue& queue, const AttentionLaunch& a, const RowTile* tiles, int32_t n_tiles) {
    if (n_tiles <= 0) return;
    queue.keep(check_attention(a, "prefill_attention"));
    if (a.qkv_ld % 2 || n_tiles > 65535) {
        queue.keep(Status::error(unimplemented, "prefill_attention: rows of " + std::to_string(a.qkv_ld) +
                                                    " values in " + std::to_string(n_tiles) +
                                                    " tiles; it takes even numbers and at most 65535"));
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
