#include <string>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/decode_attention_join.h"
#include "kernels/cuda/decode_attention_stage.h"
#include "kernels/cuda/kv_launch.h"
#include "kernels/cuda/last_arriver.h"
#include "kernels/cuda/launch.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

using namespace decode_attention_parts;

/// Scores in base 2: scale, softcap, alibi. `distance`: key - query of the lane's first token.
QP_DEVICE void shape_scores(const Decode& d, int32_t distance, const float (&slopes)[2], float (&s)[4][4]) {
    QP_UNROLL for (int j = 0; j < 4; ++j) { QP_UNROLL for (int i = 0; i < 4; ++i) s[j][i] *= d.factor; }
    if (d.cap != 0) {
        QP_UNROLL for (int j = 0; j < 4; ++j) {
            QP_UNROLL for (int i = 0; i < 4; ++i) s[j][i] = d.cap * tanh_fast(s[j][i]);
        }
    }
    if (d.launch.alibi_slopes) {
        QP_UNROLL for (int j = 0; j < 4; ++j) {
            QP_UNROLL for (int i = 0; i < 4; ++i) s[j][i] += slopes[i / 2] * float(distance + 2 * j + i % 2);
        }
    }
}

/// A chunk: warp w takes tiles w, w + 4 ... of `range`; `block`: the cache's block of the first.
template <int Type, int Width>
QP_DEVICE void attend_chunk(const Decode& d, const HeadTile& tile, const Visible& visible, TileRange range,
                            int32_t block, const int32_t* blocks, const Queries<Width>& queries,
                            const float (&slopes)[2], Partial<Width>& part) {
    const KvView& kv = d.launch.kv;
    const int32_t warp = int32_t(threadIdx.x) / 32, t = int32_t(threadIdx.x) % 4;
    QP_NO_UNROLL for (int32_t i = range.first + warp; i <= range.last; i += n_warps) {
        const TilePlace place = place_of(kv, block, tile.kv_head, i);
        block = block_of(kv, blocks, range, i + n_warps);

        float s[4][4];
        score_tile<Type, Width>(kv, place, queries, s);
        const int32_t token = i * tile_tokens + 8 * t;  // of the lane's eight the first
        shape_scores(d, token - visible.last, slopes, s);
        const bool partly = i * tile_tokens < visible.first || i * tile_tokens + tile_tokens - 1 > visible.last;
        uint32_t keep[4];
        if (partly) {
            QP_UNROLL for (int j = 0; j < 4; ++j) {
                keep[j] = 0;
                QP_UNROLL for (int e = 0; e < 2; ++e) {
                    const int32_t at = token + 2 * j + e;
                    if (at >= visible.first && at <= visible.last)
                        keep[j] |= 0xffffu << 16 * e;
                    else
                        s[j][e] = s[j][2 + e] = masked_score;
                }
            }
        }
        float rescale[2];
        QP_UNROLL for (int r = 0; r < 2; ++r) {
            float m = part.largest[r];
            QP_UNROLL for (int j = 0; j < 4; ++j) m = fmaxf(m, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
            m = fmaxf(m, shuffle_xor(m, 1));
            m = fmaxf(m, shuffle_xor(m, 2));
            rescale[r] = exp2_fast(part.largest[r] - m);
            part.largest[r] = m;
            float sum = 0;
            QP_UNROLL for (int j = 0; j < 4; ++j) {
                QP_UNROLL for (int e = 0; e < 2; ++e) {
                    s[j][2 * r + e] = exp2_fast(s[j][2 * r + e] - m);
                    sum += s[j][2 * r + e];
                }
            }
            part.sum[r] = part.sum[r] * rescale[r] + sum;
        }
        QP_UNROLL for (int n = 0; n < Width / 8; ++n) {
            QP_UNROLL for (int q = 0; q < 4; ++q) part.o[n][q] *= rescale[q / 2];
        }
        if (partly)
            add_values<Type, Width, true>(kv, place, s, keep, part.o);
        else
            add_values<Type, Width, false>(kv, place, s, keep, part.o);
    }
}

/// Attention of one row, up to 16 query heads of one kv head and every n_splits-th chunk of what the row sees.
/// Grid (kv heads * tiles, splits, rows), 4 warps. Widths 32 .. Width; the launch as AttentionLaunch describes it.
template <int Type, int Width>
QP_KERNEL QP_BOUNDS(n_threads, Width == 64 ? 3 : 2) decode_kernel(QP_PARAM Decode d) {
    const AttentionLaunch& launch = d.launch;
    const HeadTile tile = head_tile(d, int32_t(blockIdx.x));
    const int32_t split = int32_t(blockIdx.y), r = int32_t(blockIdx.z), row = launch.first_row + r;
    const int32_t warp = int32_t(threadIdx.x) / 32, lane = int32_t(threadIdx.x) % 32;
    wait_for_earlier_kernels();
    float values[Width / 32];
    const int32_t first_head = tile.first_head + (warp < tile.n_heads ? warp : 0);
    load_head<Width>(launch.qkv + row * launch.qkv_ld + int64_t(first_head) * launch.kv.head_dim, launch.kv.head_dim,
                     values);
    const int32_t max_blocks = launch.step.header->max_blocks;
    const StepRow step_row = launch.step.rows[row];
    if (step_row.sequence < 0) {
        if (split != 0) return;
        QP_NO_UNROLL for (int32_t h = warp; h < tile.n_heads; h += n_warps)
            store_head(launch, row, tile.first_head + h, nullptr);
        if (blockIdx.x == 0) store_padding(launch, row);
        return;
    }
    const Visible visible = visible_positions(step_row.position, launch.window);
    if (split >= visible.n_chunks) return;
    const int32_t* blocks = launch.step.table + int64_t(step_row.sequence) * max_blocks;
    TileRange range = tiles_of(visible, split);
    int32_t block = block_of(launch.kv, blocks, range, range.first + warp);
    if (range.first + warp <= range.last)
        prefetch_tile<Type>(launch.kv, place_of(launch.kv, block, tile.kv_head, range.first + warp));

    const Shared<Width> shared;
    const bool appends = d.append && (visible.n_chunks - 1) % d.n_splits == split;
    prepare_heads<Type, Width>(d, tile, row, step_row.slot, appends, shared, values);
    sync_block();
    const Queries<Width> queries(shared);
    float slopes[2] = {0, 0};
    if (launch.alibi_slopes) {
        QP_UNROLL for (int i = 0; i < 2; ++i) {
            const int32_t h = lane / 4 + 8 * i;
            if (h < tile.n_heads) slopes[i] = launch.alibi_slopes[tile.first_head + h] * log2_e;
        }
    }

    const int32_t width = launch.kv.width;
    const int64_t head0 = int64_t(r) * launch.n_heads + tile.first_head;
    QP_NO_UNROLL for (int32_t slot = split; slot < visible.n_chunks; slot += d.n_splits) {
        Partial<Width> part;
        attend_chunk<Type, Width>(d, tile, visible, range, block, blocks, queries, slopes, part);
        if (slot + d.n_splits >= visible.n_chunks) {
            let_next_kernel_start();
        } else {
            range = tiles_of(visible, slot + d.n_splits);
            block = block_of(launch.kv, blocks, range, range.first + warp);
        }
        join_warps<Type, Width>(tile, shared, part);
        QP_NO_UNROLL for (int32_t h = warp; h < tile.n_heads; h += n_warps) {
            float* x = shared.rows + h * Shared<Width>::row;
            const float* other = x + tile.n_heads * Shared<Width>::row;
            float largest, sum;
            joined<Width>(shared, h, &largest, &sum);
            if (visible.n_chunks == 1) {
                const float inverse = div_rn(1, sum);
                for (int32_t i = lane; i < width; i += 32) x[i] = (x[i] + other[i]) * inverse;
            } else {
                const int64_t at = (head0 + h) * d.n_slots + slot;
                for (int32_t i = lane; i < width; i += 32) d.outputs[at * width + i] = x[i] + other[i];
                if (lane == 0) {
                    d.sums[2 * at] = largest;
                    d.sums[2 * at + 1] = sum;
                }
            }
        }
        sync_block();
    }
    if (visible.n_chunks > 1) {
        const int32_t arriving = visible.n_chunks < d.n_splits ? visible.n_chunks : d.n_splits;
        if (!last_arriver(d.counters + (int64_t(r) * gridDim.x + blockIdx.x), uint32_t(arriving), shared.flag)) return;
    }
    QP_NO_UNROLL for (int32_t h = warp; h < tile.n_heads; h += n_warps) {
        const int64_t at = (head0 + h) * d.n_slots;
        float* x = shared.rows + h * Shared<Width>::row;
        if (visible.n_chunks > 1) join_chunks(d.outputs + at * width, d.sums + 2 * at, visible.n_chunks, width, x);
        if (Type != kv_f16) hadamard(x, launch.kv.head_dim, lane);
        store_head(launch, row, tile.first_head + h, x);
    }
    if (blockIdx.x == 0) store_padding(launch, row);
}

int32_t slots(int32_t max_positions) {
    const int32_t chunks = int32_t(ceil_div(uint64_t(max_positions), uint64_t(1) << least_chunk_shift));
    return chunks < decode_max_chunks ? chunks : decode_max_chunks;
}

template <int Type, int Width>
void start(Queue& queue, const Decode& d, Extent grid, int32_t heads) {
    launch(queue, "decode_attention", decode_kernel<Type, Width>, grid, Extent{uint32_t(n_threads), 1, 1},
           Shared<Width>::bytes(heads), d);
}
template <int Type>
void start(Queue& queue, const Decode& d, Extent grid, int32_t heads) {
    if (d.launch.kv.width <= 64) return start<Type, 64>(queue, d, grid, heads);
    if (d.launch.kv.width <= 128) return start<Type, 128>(queue, d, grid, heads);
    start<Type, 256>(queue, d, grid, heads);
}

}  // namespace

uint64_t decode_workspace_floats(int32_t rows, int32_t n_heads, int32_t head_dim, int32_t max_positions) {
    const uint64_t width = (uint64_t(head_dim) + 31) / 32 * 32;
    return uint64_t(rows) * uint64_t(n_heads) * uint64_t(slots(max_positions)) * (width + 2);
}

uint64_t decode_workspace_counters(int32_t rows, int32_t n_heads) { return uint64_t(rows) * uint64_t(n_heads); }

void decode_attention(Queue& queue, const AttentionLaunch& launch, bool append, const DecodeWorkspace& workspace,
                      int32_t max_positions, int32_t n_multiprocessors) {
    if (launch.n_rows <= 0) return;
    queue.keep(check_attention(launch, "decode attention"));
    if (launch.n_rows > 65535)
        queue.keep(Status::error(
            unimplemented, "decode attention: " + std::to_string(launch.n_rows) + " rows, and a launch takes 65535"));
    if (!queue.ok()) return;
    const KvView& kv = launch.kv;
    const int32_t group = launch.n_heads / kv.n_kv_heads;
    Decode d;
    d.launch = launch;
    d.append = append;
    d.n_tiles = (group + tile_heads - 1) / tile_heads;
    d.n_slots = slots(max_positions);
    d.outputs = workspace.partials;
    d.sums = workspace.partials + int64_t(launch.n_rows) * launch.n_heads * d.n_slots * kv.width;
    d.counters = workspace.counters;
    d.factor = launch.softcap > 0 ? launch.scale / launch.softcap : launch.scale * log2_e;
    d.cap = launch.softcap > 0 ? launch.softcap * log2_e : 0;

    const int64_t blocks_per_multiprocessor = kv.width <= 64 ? 3 : 2;  // what registers allow: one wave
    const int64_t base = int64_t(launch.n_rows) * kv.n_kv_heads * d.n_tiles;
    const int64_t wanted = (blocks_per_multiprocessor * n_multiprocessors + base - 1) / base;
    d.n_splits = int32_t(wanted < 1 ? 1 : wanted < d.n_slots ? wanted : d.n_slots);
    const Extent grid{uint32_t(kv.n_kv_heads * d.n_tiles), uint32_t(d.n_splits), uint32_t(launch.n_rows)};
    const int32_t heads = group < tile_heads ? group : tile_heads;
    if (kv.type == kv_f16) return start<kv_f16>(queue, d, grid, heads);
    if (kv.type == kv_q8) return start<kv_q8>(queue, d, grid, heads);
    start<kv_q4>(queue, d, grid, heads);
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
