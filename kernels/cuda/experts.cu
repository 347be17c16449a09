// Which rows pass through which experts, and what goes in and comes out.
#include <cmath>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/rows_launch.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

constexpr int32_t most_experts = 512, most_chosen = 32;
constexpr int32_t route_threads = 1024, route_warps = route_threads / 32;

// Phases of routing. A single block goes through all three; several blocks need a launch for each.
constexpr int32_t choose_phase = 1, count_phase = 2, place_phase = 4;

struct RouteArguments {
    uint32_t* logits = nullptr;  // (rows, ld) FP32; after the first phase a bit per expert: was it chosen
    int64_t ld = 0;
    const StepHeader* header = nullptr;
    ExpertSlab* slabs = nullptr;
    int32_t *n_slabs = nullptr, *pair_expert = nullptr, *pair_row = nullptr;
    float* pair_weight = nullptr;
    int32_t* row_pairs = nullptr;  // after the first phase: FP32 bits of the weights of a row's experts, by rising id
    int32_t* counts = nullptr;     // (n_experts)
    int32_t n_experts = 0, top_k = 0, rows = 0, slab_rows = 0, renormalise = 0, phases = 0;
    int32_t team_threads = 0;  // that choose for one row: a thread an expert, whole warps
};

struct RouteShared {
    uint32_t keys[route_threads];  // of the team's logits
    float kept[route_threads];     // 32 a team: exp of the chosen, best first
    float sums[route_warps];       // of exp
    uint32_t chosen[route_warps];  // bits
};

/// Larger for larger values; 0 for NaN.
QP_DEVICE uint32_t expert_key(float z) {
    const uint32_t bits = float_bits(z + 0.0f);  // -0 counts as 0
    return z != z ? 0u : bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
QP_DEVICE float expert_logit(uint32_t key) {
    return bits_float(key == 0 ? 0x7fc00000u : key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}
QP_DEVICE uint32_t count_sum(uint32_t v) {
    for (int mask = 16; mask > 0; mask >>= 1) v += shuffle_xor(v, mask);
    return v;
}

/// A row per team: an expert is chosen where fewer than top_k are better, which every thread counts for its own.
QP_DEVICE void choose_experts(const RouteArguments& a, int32_t n_live) {
    RouteShared& shared = *reinterpret_cast<RouteShared*>(dynamic_shared());
    const int32_t n_teams = route_threads / a.team_threads, team_warps = a.team_threads / 32;
    const int32_t thread = int32_t(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int32_t team = thread / a.team_threads, e = thread % a.team_threads;
    const int32_t first = team * a.team_threads;  // of the team's threads
    for (int32_t row0 = int32_t(blockIdx.x) * n_teams; row0 < a.rows; row0 += int32_t(gridDim.x) * n_teams) {
        const int32_t row = row0 + team;
        const bool there = team < n_teams && row < a.rows, live = there && row < n_live, mine = live && e < a.n_experts;
        const float logit = mine ? bits_float(a.logits[row * a.ld + e]) : 0.0f;
        const uint32_t key = mine ? expert_key(logit) : 0u;
        shared.keys[thread] = key;
        sync_block();
        int32_t rank = 0;
        uint32_t largest = 0;
        if (live) {
            for (int32_t j = 0; j < a.team_threads; j += 4) {
                const uint4 four = load4(shared.keys + first + j);
                const uint32_t keys[4] = {four.x, four.y, four.z, four.w};
                QP_UNROLL
                for (int32_t i = 0; i < 4; ++i) {
                    rank += keys[i] > key || (keys[i] == key && j + i < e) ? 1 : 0;
                    largest = keys[i] > largest ? keys[i] : largest;
                }
            }
        }
        const bool chosen = mine && rank < a.top_k;
        const float part = mine ? expf(logit - expert_logit(largest)) : 0.0f;
        const float sum = warp_sum(part);
        const uint32_t bits = warp_ballot(chosen);
        if (lane == 0) {
            shared.sums[warp] = sum;
            shared.chosen[warp] = bits;
        }
        if (chosen) shared.kept[team * 32 + rank] = part;
        sync_block();
        if (chosen) {
            float total = 0.0f;
            for (int32_t w = 0; w < team_warps; ++w) total += shared.sums[first / 32 + w];
            if (a.renormalise != 0) {
                total *= 0.0f;  // NaN where a logit is
                for (int32_t i = 0; i < a.top_k; ++i) total += shared.kept[team * 32 + i];
            }
            uint32_t slot = bit_count(bits & ((1u << lane) - 1));
            for (int32_t w = first / 32; w < warp; ++w) slot += bit_count(shared.chosen[w]);
            a.row_pairs[int64_t(row) * a.top_k + slot] = int32_t(float_bits(part / total));
        }
        if (there && lane == 0) a.logits[row * a.ld + e / 32] = bits;
        if (there && !live && e < a.top_k) a.row_pairs[int64_t(row) * a.top_k + e] = -1;
    }
}

/// Was expert e chosen by row r?
QP_DEVICE bool was_chosen(const RouteArguments& a, int32_t r, int32_t e) {
    return (a.logits[r * a.ld + e / 32] >> (e % 32) & 1u) != 0;
}

/// A warp an expert.
QP_DEVICE void count_rows(const RouteArguments& a, int32_t n_live) {
    const int32_t lane = int32_t(threadIdx.x % 32);
    for (int32_t e = int32_t(blockIdx.x * route_warps + threadIdx.x / 32); e < a.n_experts;
         e += int32_t(gridDim.x) * route_warps) {
        uint32_t n = 0;
        for (int32_t r = lane; r < n_live; r += 32) n += was_chosen(a, r, e) ? 1 : 0;
        n = count_sum(n);
        if (lane == 0) a.counts[e] = int32_t(n);
    }
}

/// A warp an expert: its slabs and pairs behind those of the experts before.
QP_DEVICE void place_pairs(const RouteArguments& a, int32_t n_live) {
    const int32_t lane = int32_t(threadIdx.x % 32);
    for (int32_t e = int32_t(blockIdx.x * route_warps + threadIdx.x / 32); e < a.n_experts;
         e += int32_t(gridDim.x) * route_warps) {
        const int32_t count = a.counts[e], own_slabs = (count + a.slab_rows - 1) / a.slab_rows;
        if (count == 0 && e != a.n_experts - 1) continue;
        uint32_t pairs_before = 0, slabs_before = 0;
        for (int32_t i = lane; i < e; i += 32) {
            pairs_before += uint32_t(a.counts[i]);
            slabs_before += uint32_t((a.counts[i] + a.slab_rows - 1) / a.slab_rows);
        }
        int32_t position = int32_t(count_sum(pairs_before));
        const int32_t slab0 = int32_t(count_sum(slabs_before));
        if (lane == 0 && e == a.n_experts - 1) *a.n_slabs = slab0 + own_slabs;
        for (int32_t s = lane; s < own_slabs; s += 32) {
            const int32_t done = s * a.slab_rows, left = count - done;
            a.slabs[slab0 + s] = {e, position + done, left < a.slab_rows ? left : a.slab_rows};
        }
        for (int32_t r0 = 0; r0 < n_live; r0 += 32) {
            const int32_t r = r0 + lane;
            const bool chosen = r < n_live && was_chosen(a, r, e);
            const uint32_t bits = warp_ballot(chosen);
            if (chosen) {
                const uint32_t* words = a.logits + r * a.ld;
                uint32_t slot = bit_count(words[e / 32] & ((1u << (e % 32)) - 1));
                for (int32_t w = 0; w < e / 32; ++w) slot += bit_count(words[w]);
                const int32_t pair = position + int32_t(bit_count(bits & ((1u << lane) - 1)));
                int32_t* place = a.row_pairs + int64_t(r) * a.top_k + slot;
                a.pair_weight[pair] = bits_float(uint32_t(*place));
                a.pair_expert[pair] = e;
                a.pair_row[pair] = r;
                *place = pair;
            }
            position += int32_t(bit_count(bits));
        }
    }
    // Rows that are not live have no pairs.
    const int32_t n_pairs = a.rows * a.top_k, stride = int32_t(gridDim.x) * route_threads;
    for (int32_t i = n_live * a.top_k + int32_t(blockIdx.x) * route_threads + int32_t(threadIdx.x); i < n_pairs;
         i += stride) {
        a.pair_expert[i] = -1;
        a.pair_row[i] = 0;
        a.pair_weight[i] = 0.0f;
    }
}

// Router logits (rows, ld) FP32 to the pairs, slabs and row_pairs of RouteLaunch; overwrites them. n_experts <= 512,
// top_k
// <= 32. Blocks of 1024 threads; the counting sort has one order whatever the number of blocks.
QP_KERNEL QP_BOUNDS(1024, 1) route_kernel(QP_PARAM RouteArguments a) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    const int32_t n_live = a.header != nullptr && a.header->n_rows < a.rows ? a.header->n_rows : a.rows;
    if ((a.phases & choose_phase) != 0) choose_experts(a, n_live);
    sync_block();
    if ((a.phases & count_phase) != 0) count_rows(a, n_live);
    sync_block();
    if ((a.phases & place_phase) != 0) place_pairs(a, n_live);
}

// The operand of a pair per block: FP16 of row pair_row (or of row `pair` where pair_row is null) of `in`, in the order
// of table[pair_expert]. blockDim.x = row_threads(width); shared: the row in FP16. Pairs of expert -1 are left alone.
QP_KERNEL QP_BOUNDS(1024, 1) pair_operand_kernel(RowIn in, const MatrixView* table, const int32_t* pair_expert,
                                                 const int32_t* pair_row, QP_PARAM OperandOut operand, int32_t width) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    const int32_t pair = int32_t(blockIdx.x), expert = pair_expert[pair];
    if (expert < 0) return;
    uint16_t* halves = reinterpret_cast<uint16_t*>(dynamic_shared());
    const Gather gather{table[expert].gather, table[expert].k_padded};
    const GatherAhead ahead = gather_ahead(gather);
    const float* x = in.x + (pair_row == nullptr ? pair : pair_row[pair]) * in.ld;
    uint32_t saturated = 0;
    for (int32_t c = int32_t(threadIdx.x) * 4; c < width; c += int32_t(blockDim.x) * 4)
        stage_four(halves, c, load_four(x, c, width, in.wide), operand.scale, saturated);
    sync_block();
    gather_row(halves, gather, ahead, operand.x + pair * operand.ld);
    report_saturated(operand.saturation, saturated);
}

// out[r] = sum over the row's pairs of weight * from[pair], 1024 columns a block of 256 threads; rows that are not
// live: 0.
QP_KERNEL QP_BOUNDS(256, 1) combine_kernel(RowIn from, const int32_t* row_pairs, const float* pair_weight,
                                           const StepHeader* header, int32_t top_k, int32_t width, RowOut out) {
    let_next_kernel_start();
    wait_for_earlier_kernels();
    const int32_t row = int32_t(blockIdx.x), c = int32_t(blockIdx.y * 256 + threadIdx.x) * 4;
    if (c >= width) return;
    const int32_t n = header == nullptr || row < header->n_rows ? top_k : 0;
    Four sum{};
    for (int32_t i = 0; i < n; ++i) {
        const int32_t pair = row_pairs[int64_t(row) * top_k + i];
        const float weight = pair_weight[pair];
        const Four value = load_four(from.x + pair * from.ld, c, width, from.wide);
        QP_UNROLL
        for (int32_t j = 0; j < 4; ++j) sum.v[j] += weight * value.v[j];
    }
    store_four(out.x + row * out.ld, c, width, out.wide, sum);
}

}  // namespace

int32_t route_max_slabs(int32_t rows, int32_t n_experts, int32_t top_k, int32_t rows_per_slab) {
    // Full slabs hold rows_per_slab pairs; every expert that was chosen has at most one that is not full.
    const int64_t pairs = int64_t(rows) * top_k, active = std::min<int64_t>(pairs, n_experts);
    const int64_t by_expert = int64_t(n_experts) * ((int64_t(rows) + rows_per_slab - 1) / rows_per_slab);
    return int32_t(std::min((pairs - active) / rows_per_slab + active, by_expert));
}

void route(Queue& queue, const RouteLaunch& l) {
    if (l.rows <= 0) return;
    if (l.n_experts < 1 || l.n_experts > most_experts || l.top_k < 1 || l.top_k > std::min(most_chosen, l.n_experts) ||
        l.slab_rows < 1 || int64_t(l.rows) * l.top_k > INT32_MAX)
        return queue.keep(refuse_rows("route", std::to_string(l.top_k) + " of " + std::to_string(l.n_experts) +
                                                   " experts; up to 32 of up to 512 can be chosen"));
    RouteArguments a;
    a.logits = reinterpret_cast<uint32_t*>(l.logits.x);
    a.ld = l.logits.ld;
    a.header = l.header;
    a.slabs = l.slabs;
    a.n_slabs = l.n_slabs;
    a.pair_expert = l.pair_expert;
    a.pair_row = l.pair_row;
    a.pair_weight = l.pair_weight;
    a.row_pairs = l.row_pairs;
    a.counts = l.counts;
    a.n_experts = l.n_experts;
    a.top_k = l.top_k;
    a.rows = l.rows;
    a.slab_rows = l.slab_rows;
    a.renormalise = l.renormalise;
    a.team_threads = (l.n_experts + 31) / 32 * 32;
    const int32_t n_teams = route_threads / a.team_threads;
    const auto go = [&](const char* name, int32_t phases, uint32_t blocks) {
        a.phases = phases;
        launch(queue, name, route_kernel, {blocks}, {uint32_t(route_threads)}, sizeof(RouteShared), a);
    };
    if (l.rows <= 4 * n_teams) return go("route", choose_phase | count_phase | place_phase, 1);
    const uint32_t expert_blocks = ceil_div(uint64_t(l.n_experts), route_warps);
    go("route_choose", choose_phase, ceil_div(uint64_t(l.rows), uint64_t(n_teams)));
    go("route_count", count_phase, expert_blocks);
    go("route_place", place_phase, expert_blocks);
}

void prepare_pairs(Queue& queue, const PairOperandLaunch& l) {
    if (l.routed.max_pairs <= 0 || l.width <= 0) return;
    MatrixView shape = l.shape;
    shape.gather = nullptr;  // each expert has its own
    const Status fits = check_operand("prepare_pairs", shape, l.operand, l.width);
    if (!fits.ok()) return queue.keep(fits);
    launch(queue, "prepare_pairs", pair_operand_kernel, {uint32_t(l.routed.max_pairs)}, {row_threads(l.width)},
           staged_bytes(l.width), row_in(l.x), l.table, l.routed.pair_expert, l.by_row ? l.routed.pair_row : nullptr,
           operand_out(shape, l.operand, l.saturation), l.width);
}

void combine_pairs(Queue& queue, RowsView from, const int32_t* row_pairs, const float* pair_weight,
                   const StepHeader* header, int32_t top_k, int32_t width, int32_t rows, RowsView out) {
    if (width <= 0 || rows <= 0) return;
    const Extent grid{uint32_t(rows), ceil_div(uint64_t(width), 1024)};
    if (grid.y > 65535)
        return queue.keep(refuse_rows("combine_pairs", "rows of " + std::to_string(width) + " values are too long"));
    launch(queue, "combine_pairs", combine_kernel, grid, {256}, 0, row_in(from), row_pairs, pair_weight, header, top_k,
           width, row_out(out));
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
