#include "kernels/cuda/scratch.h"

#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/step_buffer.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

// K' of usual groups: sections padded to 128 rows, six at most, and an eighth for last groups that are padded. Matrices
// with more padding take their rows in pieces.
uint64_t usual_k_padded(uint64_t k) {
    return round_up(k + k / 8, section_rows) + uint64_t(max_sections) * section_rows;
}
// K' of a matrix whose every group is one row.
uint64_t most_k_padded(uint64_t k) { return saturating_mul(k, slab_rows) + uint64_t(max_sections) * section_rows; }

}  // namespace

int32_t row_bucket(int32_t n) {
    if (n <= 8) return n;
    return n <= most_graph_rows ? (n + 7) / 8 * 8 : n;
}

ScratchLayout::ScratchLayout(const ModelSpec& spec, int32_t step_rows, int32_t step_wanted)
    : max_rows(std::max(step_rows, 1)), max_wanted(std::max(step_wanted, 1)), n_vocab(spec.n_vocab) {
    const uint64_t n_rows = count_of(row_bucket(max_rows)), n_wanted = count_of(row_bucket(max_wanted));
    const uint64_t hidden = count_of(spec.hidden_size), dim = count_of(spec.head_dim),
                   embedded = count_of(spec.embedding_size), vocab = count_of(spec.n_vocab),
                   n_experts = count_of(spec.n_experts);
    const uint64_t q_width = saturating_mul(count_of(spec.n_heads), dim),
                   kv_width = saturating_mul(count_of(spec.n_kv_heads), dim);
    const uint64_t shared = count_of(spec.shared_intermediate_size), expert = count_of(spec.expert_intermediate_size);
    const uint64_t inner = std::max(count_of(spec.intermediate_size), shared);
    const auto take = [&](uint64_t bytes) {
        const Part part{total, bytes};
        total = saturating_add(total, round_up(bytes, 256));
        return part;
    };
    const auto slot = [&](Slot name, uint64_t count, uint64_t width) {
        const uint64_t ld = round_up(width, 4);
        const uint64_t elements = saturating_mul(count, ld);
        slots[size_t(name)] = {take(saturating_mul(elements, 4)).offset, int64_t(ld), elements};
    };
    slot(Slot::residual, n_rows, hidden);
    slot(Slot::normed, n_rows, hidden);
    slot(Slot::embedded, n_rows, embedded);
    slot(Slot::qkv, n_rows, saturating_add(q_width, saturating_mul(kv_width, 2)));
    slot(Slot::attended, n_rows, q_width);
    slot(Slot::gate, n_rows, inner);
    slot(Slot::up, n_rows, inner);
    slot(Slot::wanted, n_wanted, hidden);
    slot(Slot::wanted_narrow, n_wanted, embedded);
    slot(Slot::logits, n_wanted, vocab);
    // A pair is a row with one of the experts that it chose. Experts take at most moe_rows rows at once.
    uint64_t top_k = n_experts ? 1 : 0;
    for (const LayerSpec& layer : spec.layers) top_k = std::max(top_k, count_of(layer.moe.top_k));
    const uint64_t pairs = saturating_mul(std::min<uint64_t>(n_rows, moe_rows), top_k);
    if (n_experts) {
        slot(Slot::chosen, n_rows, n_experts);
        slot(Slot::expert_in, 0, 0);
        slot(Slot::expert_gate, pairs, expert);
        slot(Slot::expert_up, pairs, expert);
        slot(Slot::expert_out, std::max(pairs, n_rows), hidden);
        slot(Slot::expert_sum, n_rows, hidden);
        slabs = take(saturating_mul(saturating_add(pairs, n_experts), sizeof(ExpertSlab)));
        n_slabs = take(sizeof(int32_t));
        pair_expert = take(saturating_mul(pairs, 4));
        pair_row = take(saturating_mul(pairs, 4));
        pair_weight = take(saturating_mul(pairs, 4));
        row_pairs = take(saturating_mul(pairs, 4));
        counts = take(saturating_mul(n_experts, 8));
        expert_tables = take(saturating_mul(saturating_mul(spec.layers.size(), 3 * sizeof(MatrixView)), n_experts));
    }
    const auto operand = [&](OperandRole role, uint64_t count, uint64_t k) {
        const uint64_t ld = usual_k_padded(k);
        const uint64_t halves = std::max(saturating_mul(count, ld), most_k_padded(k));
        operands[size_t(role)] = {take(saturating_mul(halves, 2)).offset, int64_t(ld), halves};
    };
    operand(OperandRole::general, std::max(n_rows, n_wanted), std::max(hidden, embedded));
    operand(OperandRole::attended, n_rows, q_width);
    operand(OperandRole::gated, n_rows, inner);
    if (n_experts) {
        operand(OperandRole::pairs, pairs, hidden);
        operand(OperandRole::pair_hidden, pairs, expert);
    }
    const uint64_t widest = std::max({hidden, embedded, q_width, inner, expert});
    const uint64_t widest_padded = std::min<uint64_t>(usual_k_padded(widest), 1 << 28);
    decoded = take(saturating_mul(gemm_scratch_halves(int32_t(widest_padded)), 2));
    attention = take(
        saturating_mul(decode_workspace_floats(int32_t(n_rows), spec.n_heads, spec.head_dim, spec.max_positions), 4));
    attention_counters = take(saturating_mul(decode_workspace_counters(int32_t(n_rows), spec.n_heads), 4));
    answers = take(saturating_mul(n_wanted, sizeof(RowAnswer)));
    chosen = take(saturating_mul(n_wanted, 4));
    candidates = take(saturating_mul(saturating_mul(n_wanted, most_candidates), sizeof(CandidateRecord)));
    emission = take(saturating_mul(emit_workspace_floats(int32_t(n_wanted), spec.n_vocab), 4));
    emission_counters = take(saturating_mul(n_wanted, 4));
    max_blocks = (std::max(spec.max_positions, 1) + least_block_tokens - 1) / least_block_tokens;
    step = take(StepBuffer::bytes(*this));
    stage = take(saturating_mul(saturating_mul(n_rows, hidden), 4));
    angles_ld = int64_t(round_up(std::max<uint64_t>(dim / 2, 1), 4));
    angles = take(saturating_mul(saturating_mul(spec.ropes.size(), 8), saturating_mul(n_rows, uint64_t(angles_ld))));
    rope_tables = take(saturating_mul(spec.ropes.size(), saturating_mul(uint64_t(angles_ld), 8)));
    slopes = take(saturating_mul(count_of(spec.n_heads), 4));
    squares_ld = int32_t(round_up(count_of(folded_parts((spec.hidden_size + block_columns - 1) / block_columns)), 4));
    for (int i = 0; i < 2; ++i) {
        squares[i] = take(saturating_mul(saturating_mul(n_rows, count_of(squares_ld)), sizeof(float)));
        exponents[i] = take(saturating_mul(n_rows, sizeof(int32_t)));
    }
    saturation = take(sizeof(Saturation));
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
