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
    mlp_taken_ = nullptr;
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

void BlockOps::rope(const RopeSpec&, Slot, int32_t, int32_t, int32_t) { fail(internal, "the device has no rope op"); }
void BlockOps::append(const ModelSpec&, int32_t, Slot) { fail(internal, "the device has no append op"); }
void BlockOps::attend(const ModelSpec&, const LayerSpec&, int32_t, Slot, Slot) {
    fail(internal, "the device has no attend op");
}
bool BlockOps::gather(int32_t, Slot, Slot, Slot) {
    fail(internal, "the device has no gather op");
    return false;
}
void BlockOps::scatter(int32_t, Slot, Slot, Slot) { fail(internal, "the device has no scatter op"); }
void BlockOps::clear(Slot, int32_t) { fail(internal, "the device has no clear op"); }

Activations BlockOps::embed(const ModelSpec& spec) {
    if (!expect(spec, nullptr, handle(Slot::none), Slot::none)) return {};
    if (!spec.embeds) {
        load_hidden(Slot::residual);
        return handle(Slot::residual);
    }
    if (spec.project_in.id) {
        embed_rows(spec.embedding, spec.embedding_scale, Slot::embedded);
        project(spec.project_in, Slot::embedded, Slot::residual, 0, Store::set);
    } else {
        embed_rows(spec.embedding, spec.embedding_scale, Slot::residual);
    }
    if (spec.positions.id) add_positions(spec.positions, spec.position_offset, Slot::residual);
    if (spec.embedding_norm.kind != NormSpec::none)
        norm(spec.embedding_norm, Slot::residual, spec.hidden_size, Slot::residual);
    return handle(Slot::residual);
}

// ---------------------------------------------------------------- attention

Activations BlockOps::norm_qkv(const ModelSpec& spec, const LayerSpec& layer, Activations x) {
    if (!expect(spec, &layer, x, Slot::residual)) return {};
    norm(layer.attention_norm, Slot::residual, spec.hidden_size, Slot::normed);
    project_qkv(spec, layer, Slot::normed, Slot::qkv);
    if (spec.clip_qkv > 0) clamp(Slot::qkv, (spec.n_heads + 2 * spec.n_kv_heads) * spec.head_dim, spec.clip_qkv);
    if (!layer.qk_norm_after_rope) head_norms(spec, layer);
    return handle(Slot::qkv);
}

void BlockOps::project_qkv(const ModelSpec& spec, const LayerSpec& layer, Slot x, Slot out) {
    const int32_t q_width = spec.n_heads * spec.head_dim, kv_width = spec.n_kv_heads * spec.head_dim;
    project(layer.q, x, out, 0, Store::set);
    project(layer.k, x, out, q_width, Store::set);
    project(layer.v, x, out, q_width + kv_width, Store::set);
}

void BlockOps::head_norms(const ModelSpec& spec, const LayerSpec& layer) {
    const int32_t dim = spec.head_dim;
    const auto apply = [&](const NormSpec& norm_spec, int32_t column, int32_t n_heads) {
        if (norm_spec.kind == NormSpec::none) return;
        if (layer.qk_norm_full) {
            head_norm(norm_spec, Slot::qkv, column, 1, n_heads * dim);
        } else {
            head_norm(norm_spec, Slot::qkv, column, n_heads, dim);
        }
    };
    apply(layer.q_norm, 0, spec.n_heads);
    apply(layer.k_norm, spec.n_heads * dim, spec.n_kv_heads);
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
    if (layer.qk_norm_after_rope) head_norms(spec, layer);
    append(spec, index, Slot::qkv);
    attend(spec, layer, index, Slot::qkv, Slot::attended);
    return handle(Slot::attended);
}

void BlockOps::project_add(const ModelSpec& spec, const LayerSpec& layer, Activations attended, Activations x) {
    if (!expect(spec, &layer, attended, Slot::attended) || !expect(spec, &layer, x, Slot::residual)) return;
    if (layer.block == Block::parallel && mlp_taken_ != &layer)
        return fail(invalid_argument,
                    "the walk of a parallel block must call gate_up_act or moe_add before project_add");
    add_branch(spec, layer, layer.attention_post_norm, layer.o, Slot::attended);
}

void BlockOps::add_branch(const ModelSpec& spec, const LayerSpec& layer, const NormSpec& post_norm, Matrix w,
                          Slot from) {
    const bool post = layer.block == Block::post;
    if (post || (post_norm.kind == NormSpec::none && spec.residual_scale == 1)) {
        project(w, from, Slot::residual, 0, Store::add);
        if (post) norm(post_norm, Slot::residual, spec.hidden_size, Slot::residual);
        return;
    }
    project(w, from, Slot::normed, 0, Store::set);
    if (post_norm.kind != NormSpec::none) norm(post_norm, Slot::normed, spec.hidden_size, Slot::normed);
    add_scaled(Slot::normed, spec.residual_scale, spec.hidden_size, Slot::residual);
}

// ---------------------------------------------------------------- MLP and experts

Activations BlockOps::gate_up_act(const ModelSpec& spec, const LayerSpec& layer, Activations x) {
    if (!expect(spec, &layer, x, Slot::residual)) return {};
    if (!layer.moe.experts.empty()) {
        fail(invalid_argument, "the walk called gate_up_act for a layer of experts");
        return {};
    }
    mlp_norm(spec, layer);
    gate_up(layer.activation, {layer.gate, layer.up, layer.down}, spec.intermediate_size, Slot::normed, Slot::gate,
            Slot::up);
    return handle(Slot::gate);
}

void BlockOps::mlp_norm(const ModelSpec& spec, const LayerSpec& layer) {
    // Where a parallel block has one norm, its result is still there.
    if (layer.block != Block::parallel || layer.mlp_norm.kind != NormSpec::none)
        norm(layer.mlp_norm, Slot::residual, spec.hidden_size, Slot::normed);
    mlp_taken_ = &layer;
}

void BlockOps::gate_up(Activation activation, const Mlp& mlp, int32_t inner, Slot x, Slot gate, Slot up) {
    if (mlp.gate.id) {
        project(mlp.gate, x, gate, 0, Store::set);
        project(mlp.up, x, up, 0, Store::set);
        activate(activation, gate, up, inner);
    } else {
        project(mlp.up, x, gate, 0, Store::set);
        activate(activation, gate, Slot::none, inner);
    }
}

void BlockOps::down_add(const ModelSpec& spec, const LayerSpec& layer, Activations h, Activations x) {
    if (!expect(spec, &layer, h, Slot::gate) || !expect(spec, &layer, x, Slot::residual)) return;
    add_branch(spec, layer, layer.mlp_post_norm, layer.down, Slot::gate);
}

void BlockOps::moe_add(const ModelSpec& spec, const LayerSpec& layer, Activations x) {
    if (!expect(spec, &layer, x, Slot::residual)) return;
    const MoeSpec& moe = layer.moe;
    const int32_t hidden = spec.hidden_size;
    if (moe.experts.empty()) return fail(invalid_argument, "the walk called moe_add for a dense layer");
    mlp_norm(spec, layer);
    project(moe.router, Slot::normed, Slot::chosen, 0, Store::set);
    route(moe, Slot::chosen);
    run_experts(spec, layer);
    if (moe.shared.down.id) {
        gate_up(layer.activation, moe.shared, spec.shared_intermediate_size, Slot::normed, Slot::gate, Slot::up);
        if (moe.shared_gate.id) {
            project(moe.shared.down, Slot::gate, Slot::expert_out, 0, Store::set);
            project(moe.shared_gate, Slot::normed, Slot::chosen, 0, Store::set);
            add_gated(Slot::expert_out, Slot::chosen, hidden, Slot::expert_sum);
        } else {
            project(moe.shared.down, Slot::gate, Slot::expert_sum, 0, Store::add);
        }
    }
    if (layer.block == Block::post) {
        add_scaled(Slot::expert_sum, 1, hidden, Slot::residual);
        norm(layer.mlp_post_norm, Slot::residual, hidden, Slot::residual);
        return;
    }
    if (layer.mlp_post_norm.kind != NormSpec::none)
        norm(layer.mlp_post_norm, Slot::expert_sum, hidden, Slot::expert_sum);
    add_scaled(Slot::expert_sum, spec.residual_scale, hidden, Slot::residual);
}

void BlockOps::run_experts(const ModelSpec& spec, const LayerSpec& layer) {
    const MoeSpec& moe = layer.moe;
    clear(Slot::expert_sum, spec.hidden_size);
    for (size_t e = 0; e < moe.experts.size(); ++e) {
        if (!gather(int32_t(e), Slot::chosen, Slot::normed, Slot::expert_in)) continue;
        const Mlp& expert = moe.experts[e];
        gate_up(layer.activation, expert, spec.expert_intermediate_size, Slot::expert_in, Slot::expert_gate,
                Slot::expert_up);
        project(expert.down, Slot::expert_gate, Slot::expert_out, 0, Store::set);
        scatter(int32_t(e), Slot::chosen, Slot::expert_out, Slot::expert_sum);
    }
}

// ---------------------------------------------------------------- head

void BlockOps::head_sample(const ModelSpec& spec, Activations x) {
    if (!expect(spec, nullptr, x, Slot::residual)) return;
    sampled_ = true;
    if (!spec.has_head) return store_hidden(Slot::residual);
    for (size_t first = 0; first < step_->wanted.size(); first += size_t(wanted_rows())) {
        const auto piece = step_->wanted.subspan(first, std::min(step_->wanted.size() - first, size_t(wanted_rows())));
        select(Slot::residual, piece, spec.hidden_size, Slot::wanted);
        norm(spec.final_norm, Slot::wanted, spec.hidden_size, Slot::wanted);
        Slot last = Slot::wanted;
        if (spec.project_out.id) {
            project(spec.project_out, last, Slot::wanted_narrow, 0, Store::set);
            last = Slot::wanted_narrow;
        }
        project(spec.head, last, Slot::logits, 0, Store::set);
        if (spec.logit_scale != 1 || spec.logit_softcap > 0)
            cap_logits(Slot::logits, spec.n_vocab, spec.logit_scale, spec.logit_softcap);
        emit(piece, spec.n_vocab, Slot::logits, result_);
    }
}

}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
