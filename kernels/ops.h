// The block ops of `Ops` composed of reference primitives. A device implements the primitives and overrides what it
// fuses.
//
// Primitives work on slots: one buffer per role, (rows, width) FP32 or wider, reused by every layer. A handle that a
// block op returns is therefore valid until the same op runs again. Columns of Slot::qkv: q (n_heads * head_dim), then
// k, then v (n_kv_heads * head_dim each).
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device.h"
#include "kernels/store.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

enum class Slot : uint32_t {
    none,
    residual,
    normed,    // a sub-layer's input; then its output, where that is normed or scaled before it is added
    embedded,  // (rows, embedding_size) where there is a project_in
    qkv,
    attended,
    gate,
    up,
    chosen,         // (rows, n_experts) router logits, then the weights of the chosen experts, -1 for the others
    expert_in,      // (rows of experts, hidden)
    expert_gate,    // (rows of experts, expert_intermediate_size)
    expert_up,      //
    expert_out,     // (rows of experts, or all rows, hidden)
    expert_sum,     // (rows, hidden)
    wanted,         // (wanted, hidden)
    wanted_narrow,  // (wanted, embedding_size) where there is a project_out
    logits,
    count
};

inline Activations handle(Slot slot) { return {uint32_t(slot)}; }

class BlockOps : public Ops {
 public:
    Activations embed(const ModelSpec&) override;
    Activations norm_qkv(const ModelSpec&, const LayerSpec&, Activations x) override;
    Activations rope_append_attend(const ModelSpec&, const LayerSpec&, int32_t layer, Activations qkv) override;
    void project_add(const ModelSpec&, const LayerSpec&, Activations attended, Activations x) override;
    Activations gate_up_act(const ModelSpec&, const LayerSpec&, Activations x) override;
    void down_add(const ModelSpec&, const LayerSpec&, Activations h, Activations x) override;
    void moe_add(const ModelSpec&, const LayerSpec&, Activations x) override;
    void head_sample(const ModelSpec&, Activations x) override;

    /// The step that the ops work on; both must outlive the walk.
    void begin(const ModelSpec& spec, const Step& step, StepResult* result);
    /// What went wrong in the walk: an op called out of order or with what is not the step's. Ops do nothing after an
    /// error.
    const Status& status() const { return status_; }
    bool sampled() const { return sampled_; }

 protected:
    // Every primitive covers all rows of its input slot.
    virtual void load_hidden(Slot out) = 0;  // out = Step::hidden_in
    virtual void store_hidden(Slot x) = 0;   // StepResult::hidden = x, all rows
    virtual void embed_rows(Matrix embedding, float scale,
                            Slot out) = 0;  // out[r] = scale * embedding row of Step::rows[r].token
    virtual void add_positions(Matrix table, int32_t offset,
                               Slot x) = 0;  // x[r] += table row Step::rows[r].position + offset
    virtual void norm(const NormSpec&, Slot x, int32_t width, Slot out) = 0;  // kind none: a copy; may be in place
    virtual void project(Matrix w, Slot x, Slot out, int32_t column,
                         Store store) = 0;  // out[:, column ..] = or += x W + bias
    virtual void add_scaled(Slot from, float scale, int32_t width, Slot to) = 0;  // to += scale * from
    virtual void clamp(Slot x, int32_t width, float limit) = 0;                   // to +-limit, in place
    /// In place, per head; the weight and bias serve every head or hold one piece a head.
    virtual void head_norm(const NormSpec&, Slot x, int32_t column, int32_t n_heads, int32_t head_dim) = 0;
    // A device that overrides rope_append_attend has no need of these three.
    virtual void rope(const RopeSpec&, Slot x, int32_t column, int32_t n_heads,
                      int32_t head_dim);                             // in place, by position
    virtual void append(const ModelSpec&, int32_t layer, Slot qkv);  // keys and values of all rows into the cache
    virtual void attend(const ModelSpec&, const LayerSpec&, int32_t layer, Slot qkv, Slot out);
    virtual void activate(Activation, Slot gate, Slot up,
                          int32_t width) = 0;  // gate = act(gate) * up; up none: act(gate)

    // Experts. The rows of the expert slots are those that chose the expert of the latest `gather`.
    virtual void route(const MoeSpec&, Slot chosen) = 0;  // router logits -> weights, in place
    // A device that overrides run_experts has no need of these three.
    virtual bool gather(int32_t expert, Slot chosen, Slot x, Slot out);     // false: no row chose it
    virtual void scatter(int32_t expert, Slot chosen, Slot from, Slot to);  // to[row] += weight * from
    virtual void clear(Slot x, int32_t width);
    virtual void add_gated(Slot from, Slot gate, int32_t width, Slot to) = 0;  // to += sigmoid(gate[:, 0]) * from

    // Step::wanted in pieces of at most wanted_rows(): out[i] = x[wanted[first + i].row], then logits to results
    // (log-softmax, argmax).
    virtual int32_t wanted_rows() const = 0;
    virtual void select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) = 0;
    virtual void cap_logits(Slot logits, int32_t width, float scale, float softcap) = 0;  // model.h: logit_softcap
    virtual void emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) = 0;

    // Several products at once: composed of the above, or fused.
    /// expert_sum = the chosen experts' weighted outputs for Slot::normed, in the order of rising ids.
    virtual void run_experts(const ModelSpec&, const LayerSpec&);
    virtual void project_qkv(const ModelSpec&, const LayerSpec&, Slot x, Slot out);
    /// gate = act(x W_gate) * (x W_up), or act(x W_up) where there is no gate; `inner` columns.
    virtual void gate_up(Activation, const Mlp&, int32_t inner, Slot x, Slot gate, Slot up);

    /// False, with status() set, unless the walk passes the step's own spec, one of its layers and the slot that
    /// belongs there.
    bool expect(const ModelSpec& spec, const LayerSpec* layer, Activations got, Slot slot);
    void fail(int32_t code, const char* message);
    void head_norms(const ModelSpec&, const LayerSpec&);

    const ModelSpec* spec_ = nullptr;
    const Step* step_ = nullptr;
    StepResult* result_ = nullptr;

 private:
    void mlp_norm(const ModelSpec&, const LayerSpec&);
    /// residual += or := what the layer's form makes of the sub-layer's output `from` W.
    void add_branch(const ModelSpec&, const LayerSpec&, const NormSpec& post_norm, Matrix w, Slot from);

    Status status_;
    bool sampled_ = false;
    const LayerSpec* mlp_taken_ = nullptr;  // the parallel layer whose MLP has read its input
};

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
