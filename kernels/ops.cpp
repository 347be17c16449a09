#include "kernels/ops.h"

#include <algorithm>

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {

void BlockOps::begin(const ModelSpec& spec, const Step& step, StepResult* result) {
    spec_ = &spec;
    step_ = &step;
    result_ = result;
    status_ = {};
    sampled_ = false;
}

void BlockOps::fail(int32_t code, const char* message) {
    if (status_.ok()) status_ = Status::error(code, message);
}

bool BlockOps::expect(const ModelSpec& spec, const LayerSpec* layer, Activations got, Slot slot) {
    if (!status_.ok()) return false;
    if (&spec != spec_) {
        fail(invalid_argument, "the walk passed a model spec that is not the one given to submit");
    } else if (layer && (spec.layers.empty() || layer < spec.layers.data() ||
                         layer >= spec.layers.data() + spec.layers.size())) {
        fail(invalid_argument, "the walk passed a layer that is not in the model spec's list");
    } else if (got.id != uint32_t(slot)) {
        fail(invalid_argument, "the walk passed activations that are not what the op before it returned");
    }
    return status_.ok();
}

Activations BlockOps::embed(const ModelSpec& spec) {
    if (!expect(spec, nullptr, handle(Slot::none), Slot::none)) return {};
    embed_rows(spec.embedding, Slot::residual);
    return handle(Slot::residual);
}

Activations BlockOps::norm_qkv(const ModelSpec& spec, const LayerSpec& layer, Activations x) {
    if (!expect(spec, &layer, x, Slot::residual)) return {};
    const int32_t q_width = spec.n_heads * spec.head_dim, kv_width = spec.n_kv_heads * spec.head_dim;
    norm(layer.attention_norm, Slot::residual, spec.hidden_size, Slot::normed);
    project(layer.q, Slot::normed, Slot::qkv, 0, Store::set);
    project(layer.k, Slot::normed, Slot::qkv, q_width, Store::set);
    project(layer.v, Slot::normed, Slot::qkv, q_width + kv_width, Store::set);
    if (layer.q_norm.kind != NormSpec::none) head_norm(layer.q_norm, Slot::qkv, 0, spec.n_heads, spec.head_dim);
    if (layer.k_norm.kind != NormSpec::none)
        head_norm(layer.k_norm, Slot::qkv, q_width, spec.n_kv_heads, spec.head_dim);
    return handle(Slot::qkv);
}

Activations BlockOps::rope_append_attend(const ModelSpec& spec, const LayerSpec& layer, int32_t index,
                                         Activations qkv) {
    if (!expect(spec, &layer, qkv, Slot::qkv)) return {};
    if (index < 0 || size_t(index) >= spec.layers.size()) {
        fail(invalid_argument, "the walk passed a layer index that is not in the model spec's list");
        return {};
    }
    if (layer.rope >= 0) {
        rope(spec.ropes[size_t(layer.rope)], Slot::qkv, 0, spec.n_heads, spec.head_dim);
        rope(spec.ropes[size_t(layer.rope)], Slot::qkv, spec.n_heads * spec.head_dim, spec.n_kv_heads, spec.head_dim);
    }
    append(spec, index, Slot::qkv);
    attend(spec, layer, index, Slot::qkv, Slot::attended);
    return handle(Slot::attended);
}

void BlockOps::project_add(const ModelSpec& spec, const LayerSpec& layer, Activations attended, Activations x) {
    if (!expect(spec, &layer, attended, Slot::attended) || !expect(spec, &layer, x, Slot::residual)) return;
    project(layer.o, Slot::attended, Slot::residual, 0, Store::add);
}

Activations BlockOps::gate_up_act(const ModelSpec& spec, const LayerSpec& layer, Activations x) {
    if (!expect(spec, &layer, x, Slot::residual)) return {};
    norm(layer.mlp_norm, Slot::residual, spec.hidden_size, Slot::normed);
    project(layer.gate, Slot::normed, Slot::gate, 0, Store::set);
    project(layer.up, Slot::normed, Slot::up, 0, Store::set);
    gated(layer.activation, Slot::gate, Slot::up, spec.intermediate_size);
    return handle(Slot::gate);
}

void BlockOps::down_add(const ModelSpec& spec, const LayerSpec& layer, Activations h, Activations x) {
    if (!expect(spec, &layer, h, Slot::gate) || !expect(spec, &layer, x, Slot::residual)) return;
    project(layer.down, Slot::gate, Slot::residual, 0, Store::add);
}

void BlockOps::head_sample(const ModelSpec& spec, Activations x) {
    if (!expect(spec, nullptr, x, Slot::residual)) return;
    sampled_ = true;
    for (size_t first = 0; first < step_->wanted.size(); first += size_t(wanted_rows())) {
        const auto piece = step_->wanted.subspan(first, std::min(step_->wanted.size() - first, size_t(wanted_rows())));
        select(Slot::residual, piece, spec.hidden_size, Slot::wanted);
        norm(spec.final_norm, Slot::wanted, spec.hidden_size, Slot::wanted);
        project(spec.head, Slot::wanted, Slot::logits, 0, Store::set);
        emit(piece, spec.n_vocab, Slot::logits, result_);
    }
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
