// The walk of the whole model, seen by one stage: the stage's device does its own layers, the others are passed over.
#pragma once

#include <functional>

#include "kernels/ops.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace split {

/// What the walk passes that is not the model's goes on as it is: the device refuses it.
class StageOps final : public Ops {
 public:
    StageOps(Ops& ops, const ModelSpec& whole, const ModelSpec& stage, int32_t first_layer)
        : ops_(ops), whole_(whole), stage_(stage), first_layer_(first_layer) {}

    // A stage without an embedding takes Step::hidden_in here, one without a head gives StepResult::hidden.
    Activations embed(const ModelSpec& spec) override { return ops_.embed(of_stage(spec)); }
    void head_sample(const ModelSpec& spec, Activations x) override { ops_.head_sample(of_stage(spec), x); }

    Activations norm_qkv(const ModelSpec& spec, const LayerSpec& layer, Activations x) override {
        const LayerSpec* own = of_stage(layer);
        return own ? ops_.norm_qkv(of_stage(spec), *own, x) : handle(Slot::qkv);
    }
    Activations rope_append_attend(const ModelSpec& spec, const LayerSpec& layer, int32_t index,
                                   Activations qkv) override {
        const LayerSpec* own = of_stage(layer);
        return own ? ops_.rope_append_attend(of_stage(spec), *own, index - first_layer_, qkv) : handle(Slot::attended);
    }
    void project_add(const ModelSpec& spec, const LayerSpec& layer, Activations attended, Activations x) override {
        if (const LayerSpec* own = of_stage(layer)) ops_.project_add(of_stage(spec), *own, attended, x);
    }
    Activations gate_up_act(const ModelSpec& spec, const LayerSpec& layer, Activations x) override {
        const LayerSpec* own = of_stage(layer);
        return own ? ops_.gate_up_act(of_stage(spec), *own, x) : handle(Slot::gate);
    }
    void down_add(const ModelSpec& spec, const LayerSpec& layer, Activations h, Activations x) override {
        if (const LayerSpec* own = of_stage(layer)) ops_.down_add(of_stage(spec), *own, h, x);
    }
    void moe_add(const ModelSpec& spec, const LayerSpec& layer, Activations x) override {
        if (const LayerSpec* own = of_stage(layer)) ops_.moe_add(of_stage(spec), *own, x);
    }

 private:
    const ModelSpec& of_stage(const ModelSpec& spec) const { return &spec == &whole_ ? stage_ : spec; }
    const LayerSpec* of_stage(const LayerSpec& layer) const {
        const LayerSpec* first = whole_.layers.data();
        const std::less<const LayerSpec*> before;
        if (before(&layer, first) || !before(&layer, first + whole_.layers.size())) return &layer;
        const int64_t index = &layer - first - first_layer_;
        return index >= 0 && size_t(index) < stage_.layers.size() ? &stage_.layers[size_t(index)] : nullptr;
    }

    Ops& ops_;
    const ModelSpec &whole_, &stage_;
    int32_t first_layer_;
};

}  // namespace split
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
