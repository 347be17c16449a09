// The reference: plain loops in double precision over decoded weights, straight from the formulas. No packing, no
// fusion, no threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace reference {

struct PlainMatrix {
    int32_t k = 0, n = 0;
    std::vector<float> weights;  // (N, K)
    std::vector<float> bias;     // (N), or empty
};

struct PlainKv {
    KvSpec spec;
    int32_t n_layers = 0, width = 0;   // width: n_kv_heads * head_dim
    std::vector<double> keys, values;  // (layer, block, token, width); what q8 and q4 would hold, decoded

    size_t at(int32_t layer, int32_t block, int32_t offset) const {
        return ((size_t(layer) * size_t(spec.n_blocks) + size_t(block)) * size_t(spec.block_tokens) + size_t(offset)) *
               size_t(width);
    }
};

/// Slots of a step: rows and width of each.
struct PlainSlot {
    uint64_t rows = 0, width = 0;
};
std::vector<PlainSlot> plain_slots(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted);

class ReferenceOps final : public BlockOps {
 public:
    std::vector<PlainMatrix> matrices{1};
    std::vector<std::vector<float>> vectors{1};

    void begin_step(const ModelSpec& spec, const Step& step, PlainKv* kv, StepResult* result) {
        begin(spec, step, result);
        kv_ = kv;
    }
    void prepare(const ModelSpec& spec, int32_t max_rows, int32_t max_wanted);
    uint64_t scratch_bytes() const;

 private:
    double* row(Slot slot, int32_t r) {
        return values_[size_t(slot)].data() + size_t(r) * size_t(slots_[size_t(slot)].width);
    }
    int32_t rows(Slot slot) const;

    void load_hidden(Slot out) override;
    void store_hidden(Slot x) override;
    void embed_rows(Matrix embedding, float scale, Slot out) override;
    void add_positions(Matrix table, int32_t offset, Slot x) override;
    void norm(const NormSpec&, Slot x, int32_t width, Slot out) override;
    void project(Matrix w, Slot x, Slot out, int32_t column, Store store) override;
    void add_scaled(Slot from, float scale, int32_t width, Slot to) override;
    void clamp(Slot x, int32_t width, float limit) override;
    void head_norm(const NormSpec&, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) override;
    void rope(const RopeSpec&, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) override;
    void append(const ModelSpec&, int32_t layer, Slot qkv) override;
    void attend(const ModelSpec&, const LayerSpec&, int32_t layer, Slot qkv, Slot out) override;
    void activate(Activation, Slot gate, Slot up, int32_t width) override;
    void route(const MoeSpec&, Slot chosen) override;
    bool gather(int32_t expert, Slot chosen, Slot x, Slot out) override;
    void scatter(int32_t expert, Slot chosen, Slot from, Slot to) override;
    void clear(Slot x, int32_t width) override;
    void add_gated(Slot from, Slot gate, int32_t width, Slot to) override;
    int32_t wanted_rows() const override { return wanted_rows_; }
    void select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) override;
    void cap_logits(Slot logits, int32_t width, float scale, float softcap) override;
    void emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) override;
    void emit_candidates(const Wanted& wanted, std::span<const double> z, StepResult* result) const;

    /// x (n) normed by its statistics; weight and bias from element `at` of theirs on.
    void norm_values(const NormSpec&, const double* x, int32_t n, size_t at, double* out) const;
    int32_t block_of(const Row& token, int32_t position) const {
        return step_->block_table[size_t(token.sequence) * size_t(step_->max_blocks) +
                                  size_t(position / kv_->spec.block_tokens)];
    }

    std::vector<PlainSlot> slots_;
    std::vector<std::vector<double>> values_;  // by slot
    std::vector<int32_t> expert_rows_;
    PlainKv* kv_ = nullptr;
    int32_t n_wanted_ = 0, wanted_rows_ = 1;
};

}  // namespace reference
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
