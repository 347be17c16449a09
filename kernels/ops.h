// The block ops of `Ops` composed of reference primitives. A device implements the primitives and overrides the blocks
// that it fuses.
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

enum class Slot : uint32_t { none, residual, normed, qkv, attended, gate, up, wanted, logits, count };

inline Activations handle(Slot slot) { return {uint32_t(slot)}; }

class BlockOps : public Ops {
 public:
    Activations embed(const ModelSpec&) override;
    Activations norm_qkv(const ModelSpec&, const LayerSpec&, Activations x) override;
    Activations rope_append_attend(const ModelSpec&, const LayerSpec&, int32_t layer, Activations qkv) override;
    void project_add(const ModelSpec&, const LayerSpec&, Activations attended, Activations x) override;
    Activations gate_up_act(const ModelSpec&, const LayerSpec&, Activations x) override;
    void down_add(const ModelSpec&, const LayerSpec&, Activations h, Activations x) override;
    void head_sample(const ModelSpec&, Activations x) override;

    /// The step that the ops work on; both must outlive the walk.
    void begin(const ModelSpec& spec, const Step& step, StepResult* result);
    /// What went wrong in the walk: an op called out of order or with what is not the step's. Ops do nothing after an
    /// error.
    const Status& status() const { return status_; }
    bool sampled() const { return sampled_; }

 protected:
    // Every primitive covers all rows of its input slot.
    virtual void embed_rows(Matrix embedding, Slot out) = 0;  // out[r] = embedding row of Step::rows[r].token
    virtual void norm(const NormSpec&, Slot x, int32_t width, Slot out) = 0;  // kind none: a copy
    virtual void project(Matrix w, Slot x, Slot out, int32_t column,
                         Store store) = 0;  // out[:, column ..] = or += x W + bias
    virtual void head_norm(const NormSpec&, Slot x, int32_t column, int32_t n_heads,
                           int32_t head_dim) = 0;  // in place, per head
    virtual void rope(const RopeSpec&, Slot x, int32_t column, int32_t n_heads,
                      int32_t head_dim) = 0;                             // in place, by position
    virtual void append(const ModelSpec&, int32_t layer, Slot qkv) = 0;  // keys and values of all rows into the cache
    virtual void attend(const ModelSpec&, const LayerSpec&, int32_t layer, Slot qkv, Slot out) = 0;
    virtual void gated(Activation, Slot gate, Slot up, int32_t width) = 0;  // gate = act(gate) * up
    // Step::wanted in pieces of at most wanted_rows(): out[i] = x[wanted[first + i].row], then logits to results
    // (log-softmax, argmax).
    virtual int32_t wanted_rows() const = 0;
    virtual void select(Slot x, std::span<const Wanted> wanted, int32_t width, Slot out) = 0;
    virtual void emit(std::span<const Wanted> wanted, int32_t n_vocab, Slot logits, StepResult* result) = 0;

    /// False, with status() set, unless the walk passes the step's own spec, one of its layers and the slot that
    /// belongs there.
    bool expect(const ModelSpec& spec, const LayerSpec* layer, Activations got, Slot slot);
    void fail(int32_t code, const char* message);

    const ModelSpec* spec_ = nullptr;
    const Step* step_ = nullptr;
    StepResult* result_ = nullptr;

 private:
    Status status_;
    bool sampled_ = false;
};

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
