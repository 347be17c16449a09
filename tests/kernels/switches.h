// The table of tiny models that drives the tests of devices: shapes, and every switch of model.h.
#pragma once

#include "model.h"

namespace quantplug::test {

struct Switch {
    const char* name;
    TinyOptions options;
    bool changes_logits = true;  // against the same model without the switch
};

inline Switch with(const char* name, void (*set)(TinyOptions&), bool changes_logits = true) {
    Switch s{name, {}, changes_logits};
    set(s.options);
    return s;
}

// Shapes and weights of the plain Llama block.
inline std::vector<Switch> shape_table() {
    return {
        with(
            "plain", [](TinyOptions&) {}, false),
        with("exact, act order, biases", [](TinyOptions& o) { o.compute = Compute::exact, o.perm = o.bias = true; }),
        with("window, QK norm, act order",
             [](TinyOptions& o) { o.window = 5, o.qk_norm = QkNorm::shared, o.perm = true; }),
        with("tied quantised head, exact", [](TinyOptions& o) { o.tied_quantised = true, o.compute = Compute::exact; }),
        with("tied quantised head, heads of 6",
             [](TinyOptions& o) { o.tied_quantised = o.bias = true, o.n_kv_heads = 4, o.head_dim = 6; }),
        with("dense, one KV head", [](TinyOptions& o) { o.dense = o.bias = true, o.n_kv_heads = 1; }),
        with("heads of 34", [](TinyOptions& o) { o.head_dim = 34, o.hidden = 50, o.inner = 75; }),
        with("heads of 128, dense, exact",
             [](TinyOptions& o) { o.head_dim = 128, o.n_heads = 6, o.dense = true, o.compute = Compute::exact; }),
        with("heads of 1024", [](TinyOptions& o) { o.head_dim = 1024, o.n_heads = o.n_kv_heads = 1; })};
}

// The switches of model.h, one at a time or as architectures combine them.
inline std::vector<Switch> switch_table() {
    std::vector<Switch> all = {
        with("layer norm", [](TinyOptions& o) { o.norm = NormSpec::layer; }),
        with("layer norm with biases", [](TinyOptions& o) { o.norm = NormSpec::layer, o.norm_bias = true; }),
        with("layer norm without parameters", [](TinyOptions& o) { o.norm = NormSpec::layer, o.norm_weight = false; }),
        with("norms before and after", [](TinyOptions& o) { o.post_norms = true; }),
        with("norms after alone", [](TinyOptions& o) { o.pre_norms = false, o.post_norms = true; }),
        with("parallel, one norm", [](TinyOptions& o) { o.block = Block::parallel, o.mlp_norm = false; }),
        with("parallel, two norms, residual scale",
             [](TinyOptions& o) { o.block = Block::parallel, o.residual_scale = 0.4f; }),
        with("post",
             [](TinyOptions& o) {
                 o.block = Block::post, o.pre_norms = o.final_norm = false, o.post_norms = true;
                 o.norm = NormSpec::layer, o.norm_bias = true;
             }),
        with("residual scale", [](TinyOptions& o) { o.residual_scale = 0.3f; }),
        with("gelu", [](TinyOptions& o) { o.activation = Activation::gelu; }),
        with("gelu tanh, plain MLP", [](TinyOptions& o) { o.activation = Activation::gelu_tanh, o.plain_mlp = true; }),
        with("quick gelu", [](TinyOptions& o) { o.activation = Activation::quick_gelu; }),
        with("relu, plain MLP, biases",
             [](TinyOptions& o) { o.activation = Activation::relu, o.plain_mlp = o.bias = true; }),
        with("relu2", [](TinyOptions& o) { o.activation = Activation::relu2; }),
        with("QK norm of each head", [](TinyOptions& o) { o.qk_norm = QkNorm::per_head; }),
        with("QK norm over all heads", [](TinyOptions& o) { o.qk_norm = QkNorm::full; }),
        with("QK layer norm with biases",
             [](TinyOptions& o) { o.qk_norm = QkNorm::per_head, o.norm = NormSpec::layer, o.norm_bias = true; }),
        with("QK norm after rope", [](TinyOptions& o) { o.qk_norm = QkNorm::shared, o.qk_norm_after_rope = true; }),
        with("attention scale of a layer", [](TinyOptions& o) { o.attention_scale = 0.9f; }),
        with("attention softcap", [](TinyOptions& o) { o.softcap = 0.7f; }),
        with("clip qkv", [](TinyOptions& o) { o.clip_qkv = 0.5f; }),
        with("ALiBi", [](TinyOptions& o) { o.alibi = true, o.rope = false; }),
        with("no rope", [](TinyOptions& o) { o.rope = false; }),
        with("partial rope", [](TinyOptions& o) { o.rotary_dim = 6; }),
        with("interleaved rope", [](TinyOptions& o) { o.interleaved = true; }),
        with("longrope", [](TinyOptions& o) { o.longrope = true, o.length_limit = 9; }),
        with("dynamic rope", [](TinyOptions& o) { o.length_limit = 9; }),
        with("all of 4 experts", [](TinyOptions& o) { o.n_experts = o.top_k = 4, o.shared_inner = 40; }),
        with("2 of 5 experts, renormalised, act order",
             [](TinyOptions& o) { o.n_experts = 5, o.renormalise = o.perm = true, o.compute = Compute::exact; }),
        with("3 of 7 plain experts, gated shared expert, biases",
             [](TinyOptions& o) {
                 o.n_experts = 7, o.top_k = 3, o.shared_inner = 100, o.shared_gate = o.plain_mlp = o.bias = true;
                 o.compute = Compute::exact, o.post_norms = true, o.residual_scale = 0.5f;
             }),
        with("dense experts in a parallel block",
             [](TinyOptions& o) {
                 o.n_experts = 3, o.top_k = 1, o.dense = true, o.block = Block::parallel, o.mlp_norm = false;
                 o.compute = Compute::exact;
             }),
        with("embedding scale and norm", [](TinyOptions& o) { o.embedding_scale = 7.5f, o.embedding_norm = true; }),
        with("learned positions", [](TinyOptions& o) { o.position_offset = 2, o.rope = false; }),
        with("narrow embedding", [](TinyOptions& o) { o.embedding_size = 24, o.post_norms = true; }),
        with("logit scale", [](TinyOptions& o) { o.logit_scale = 0.06f; }),
        with("logit softcap, head bias", [](TinyOptions& o) { o.logit_softcap = 1.5f, o.head_bias = true; }),
    };
    return all;
}

inline std::vector<Switch> whole_table() {
    auto all = shape_table();
    for (const Switch& s : switch_table()) all.push_back(s);
    return all;
}

}  // namespace quantplug::test
