// The plan of the scratch.
#include <algorithm>

#include "kernels/cpu/ops.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cpu {

ScratchPlan::ScratchPlan(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted, int32_t threads) {
    const uint64_t n_rows = count_of(max_rows), n_wanted = std::min<uint64_t>(count_of(max_wanted), wanted_block);
    const uint64_t hidden = count_of(spec.hidden_size), dim = count_of(spec.head_dim),
                   embedded = count_of(spec.embedding_size), n_experts = count_of(spec.n_experts);
    const uint64_t inner = std::max({count_of(spec.intermediate_size), count_of(spec.expert_intermediate_size),
                                     count_of(spec.shared_intermediate_size)});
    const uint64_t q_width = saturating_mul(count_of(spec.n_heads), dim),
                   kv_width = saturating_mul(count_of(spec.n_kv_heads), dim);
    rows = int64_t(n_rows);
    const auto take = [&](uint64_t floats) {
        const uint64_t offset = total;
        total = saturating_add(total, round_up(saturating_mul(floats, 4), 64));
        return offset;
    };
    const auto slot = [&](Slot name, uint64_t slot_rows, uint64_t width) {
        const uint64_t padded = round_up(width, 16);
        slots[size_t(name)] = {take(saturating_mul(slot_rows, padded)), int64_t(padded)};
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
    slot(Slot::logits, n_wanted, count_of(spec.n_vocab));
    if (n_experts) {
        slot(Slot::chosen, n_rows, n_experts);
        slot(Slot::expert_in, n_rows, hidden);
        slot(Slot::expert_out, n_rows, hidden);
        slot(Slot::expert_sum, n_rows, hidden);
        slots[size_t(Slot::expert_gate)] = slots[size_t(Slot::gate)];  // an expert, or the shared one: never both
        slots[size_t(Slot::expert_up)] = slots[size_t(Slot::up)];
        expert_rows = take(n_rows);
    }
    angles_ld = round_up(dim / 2, 16);
    angles = take(saturating_mul(saturating_mul(spec.ropes.size(), n_rows), angles_ld * 2));
    // The widest input for all rows, with room for the padding of usual groups. More padding (groups of a few rows):
    // fewer rows at once, one at least.
    const uint64_t widest = std::max({hidden, inner, q_width, embedded});
    const bool exact = spec.compute == Compute::exact;
    const uint64_t usual = activation_row_bytes(round_up(widest + widest / 8, chunk_rows) / chunk_rows, exact);
    activation_bytes = std::max(saturating_mul(usual, std::max(n_rows, n_wanted)), activation_row_bytes(widest, exact));
    activations = take(activation_bytes / 4);
    scores_ld = saturating_mul(
        count_of(spec.max_positions),
        std::max<uint64_t>(1, count_of(spec.n_heads) / std::max<uint64_t>(1, count_of(spec.n_kv_heads))));
    scores_ld = round_up(scores_ld, 16);
    scores = take(saturating_mul(scores_ld, count_of(threads)));
}

}  // namespace cpu
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
