// Tensor names of the families, as sets of candidates. In every slot the first candidate is the name that EXL2 files
// have (its writer splits what is fused and calls attention self_attn.{q,k,v,o}_proj everywhere); the others are the
// source's own, which GPTQ and plain files keep, and those that GPTQModel 7 writes.
#pragma once

#include <string_view>

namespace quantplug::engine {

/// Candidates are separated by '|'; "{}" is a layer's expert (in q_norm and k_norm: a head). Empty: there is no such
/// part. Names from n1 on follow "<layers>.<index>.".
struct TensorNames {
    std::string_view embedding = "model.embed_tokens";
    std::string_view positions, embedding_norm, project_in, project_out;
    std::string_view layers = "model.layers";
    std::string_view final_norm = "model.norm";
    std::string_view head = "lm_head";

    std::string_view n1 = "input_layernorm", p1, n2 = "post_attention_layernorm", p2;
    std::string_view q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.o_proj";
    std::string_view qkv;  // q, k and v in one matrix
    std::string_view q_norm, k_norm;
    std::string_view gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj";
    std::string_view gate_up;  // gate, then up, in one matrix

    std::string_view router, expert_gate, expert_up, expert_down;
    std::string_view shared_gate, shared_expert_gate, shared_expert_up, shared_expert_down;
    /// All experts in one tensor (experts * inner, hidden), without ".weight"; down is used untransposed.
    std::string_view stacked_gate, stacked_up, stacked_down;
};

constexpr TensorNames derived(TensorNames names, void (*change)(TensorNames&)) {
    change(names);
    return names;
}

inline constexpr TensorNames llama_names{};

inline constexpr TensorNames yi_names = derived(llama_names, [](TensorNames& n) {
    n.n1 = "input_layernorm|ln1";
    n.n2 = "post_attention_layernorm|ln2";
});

inline constexpr TensorNames qwen3_names = derived(llama_names, [](TensorNames& n) {
    n.q_norm = "self_attn.q_norm";
    n.k_norm = "self_attn.k_norm";
});

inline constexpr TensorNames mixtral_names = derived(llama_names, [](TensorNames& n) {
    n.router = "block_sparse_moe.gate|mlp.gate";
    n.expert_gate = "block_sparse_moe.experts.{}.w1|mlp.experts.{}.gate_proj";
    n.expert_up = "block_sparse_moe.experts.{}.w3|mlp.experts.{}.up_proj";
    n.expert_down = "block_sparse_moe.experts.{}.w2|mlp.experts.{}.down_proj";
});

constexpr void add_qwen_experts(TensorNames& n) {
    n.router = "mlp.gate";
    n.expert_gate = "mlp.experts.{}.gate_proj";
    n.expert_up = "mlp.experts.{}.up_proj";
    n.expert_down = "mlp.experts.{}.down_proj";
    n.shared_gate = "mlp.shared_expert_gate";
    n.shared_expert_gate = "mlp.shared_expert.gate_proj";
    n.shared_expert_up = "mlp.shared_expert.up_proj";
    n.shared_expert_down = "mlp.shared_expert.down_proj";
}
inline constexpr TensorNames qwen2_moe_names = derived(llama_names, add_qwen_experts);
inline constexpr TensorNames qwen3_moe_names = derived(qwen3_names, [](TensorNames& n) {
    add_qwen_experts(n);
    n.shared_gate = n.shared_expert_gate = n.shared_expert_up = n.shared_expert_down = "";
});

inline constexpr TensorNames gemma2_names = derived(llama_names, [](TensorNames& n) {
    n.p1 = "post_attention_layernorm";
    n.n2 = "pre_feedforward_layernorm";
    n.p2 = "post_feedforward_layernorm";
});
inline constexpr TensorNames gemma3_names = derived(gemma2_names, [](TensorNames& n) {
    n.q_norm = "self_attn.q_norm";
    n.k_norm = "self_attn.k_norm";
});

inline constexpr TensorNames starcoder2_names = derived(llama_names, [](TensorNames& n) {
    n.gate = "";
    n.up = "mlp.c_fc";
    n.down = "mlp.c_proj";
});

inline constexpr TensorNames cohere_names = derived(qwen3_names, [](TensorNames& n) { n.n2 = ""; });

inline constexpr TensorNames dbrx_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "model.embed_tokens|transformer.wte";
    n.layers = "model.layers|transformer.blocks";
    n.final_norm = "model.norm|transformer.norm_f";
    n.n1 = "input_layernorm|norm_attn_norm.norm_1";
    n.n2 = "post_attention_layernorm|norm_attn_norm.norm_2";
    n.q = "self_attn.q_proj|norm_attn_norm.attn.q_proj";
    n.k = "self_attn.k_proj|norm_attn_norm.attn.k_proj";
    n.v = "self_attn.v_proj|norm_attn_norm.attn.v_proj";
    n.o = "self_attn.o_proj|norm_attn_norm.attn.out_proj";
    n.qkv = "norm_attn_norm.attn.Wqkv";
    n.gate = n.up = n.down = "";
    n.router = "block_sparse_moe.gate|ffn.router.layer";
    n.expert_gate = "block_sparse_moe.experts.{}.w1|ffn.experts.mlp.{}.w1";
    n.expert_up = "block_sparse_moe.experts.{}.v1|ffn.experts.mlp.{}.v1";
    n.expert_down = "block_sparse_moe.experts.{}.w2|ffn.experts.mlp.{}.w2";
    n.stacked_gate = "ffn.experts.mlp.w1";
    n.stacked_up = "ffn.experts.mlp.v1";
    n.stacked_down = "ffn.experts.mlp.w2";
});

inline constexpr TensorNames phi3_names = derived(llama_names, [](TensorNames& n) {
    n.qkv = "self_attn.qkv_proj";
    n.gate_up = "mlp.gate_up_proj";
});

inline constexpr TensorNames glm_names = derived(llama_names, [](TensorNames& n) { n.gate_up = "mlp.gate_up_proj"; });
inline constexpr TensorNames glm4_names = derived(glm_names, [](TensorNames& n) {
    n.p1 = "post_self_attn_layernorm";
    n.p2 = "post_mlp_layernorm";
});
inline constexpr TensorNames chatglm_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "transformer.embedding.word_embeddings";
    n.layers = "transformer.encoder.layers";
    n.final_norm = "transformer.encoder.final_layernorm";
    n.head = "transformer.output_layer";
    n.qkv = "self_attention.query_key_value";
    n.o = "self_attn.o_proj|self_attention.dense";
    n.gate_up = "mlp.dense_h_to_4h";
    n.down = "mlp.down_proj|mlp.dense_4h_to_h";
});

inline constexpr TensorNames gpt2_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "model.embed_tokens|transformer.wte";
    n.positions = "model.wpe|transformer.wpe";
    n.layers = "model.layers|transformer.h";
    n.final_norm = "model.norm|transformer.ln_f";
    n.n1 = "ln_1";
    n.n2 = "ln_2";
    n.qkv = "attn.c_attn";
    n.o = "self_attn.o_proj|attn.c_proj";
    n.gate = "";
    n.up = "mlp.c_fc";
    n.down = "mlp.c_proj";
});

inline constexpr TensorNames internlm2_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "model.embed_tokens|model.tok_embeddings";
    n.head = "lm_head|output";
    n.n1 = "attention_norm";
    n.n2 = "ffn_norm";
    n.qkv = "attention.wqkv";
    n.o = "self_attn.o_proj|attention.wo";
    n.gate = "feed_forward.w1";
    n.up = "feed_forward.w3";
    n.down = "feed_forward.w2";
});

inline constexpr TensorNames qwen_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "transformer.wte";
    n.layers = "transformer.h";
    n.final_norm = "transformer.ln_f";
    n.n1 = "ln_1";
    n.n2 = "ln_2";
    n.qkv = "attn.c_attn";
    n.o = "self_attn.o_proj|attn.c_proj";
    n.gate = "mlp.w2";
    n.up = "mlp.w1";
    n.down = "mlp.c_proj";
});

inline constexpr TensorNames baichuan_names = derived(llama_names, [](TensorNames& n) { n.qkv = "self_attn.W_pack"; });

inline constexpr TensorNames phi_names = derived(llama_names, [](TensorNames& n) {
    n.final_norm = "model.final_layernorm";
    n.n2 = "";
    n.o = "self_attn.o_proj|self_attn.dense";
    n.q_norm = "self_attn.q_layernorm";
    n.k_norm = "self_attn.k_layernorm";
    n.gate = "";
    n.up = "mlp.fc1";
    n.down = "mlp.fc2";
});

inline constexpr TensorNames stablelm_names = derived(llama_names, [](TensorNames& n) {
    n.q_norm = "self_attn.q_layernorm.norms.{}";
    n.k_norm = "self_attn.k_layernorm.norms.{}";
});

inline constexpr TensorNames neox_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "gpt_neox.embed_in";
    n.layers = "gpt_neox.layers";
    n.final_norm = "gpt_neox.final_layer_norm";
    n.head = "lm_head|embed_out";
    n.qkv = "attention.query_key_value";
    n.o = "self_attn.o_proj|attention.dense";
    n.gate = "";
    n.up = "mlp.dense_h_to_4h";
    n.down = "mlp.dense_4h_to_h";
});

inline constexpr TensorNames gptj_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "transformer.wte";
    n.layers = "transformer.h";
    n.final_norm = "transformer.ln_f";
    n.n1 = "ln_1";
    n.n2 = "";
    n.q = "self_attn.q_proj|attn.q_proj";
    n.k = "self_attn.k_proj|attn.k_proj";
    n.v = "self_attn.v_proj|attn.v_proj";
    n.o = "self_attn.o_proj|attn.out_proj";
    n.gate = "";
    n.up = "mlp.fc_in";
    n.down = "mlp.fc_out";
});

inline constexpr TensorNames falcon_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "transformer.word_embeddings";
    n.layers = "transformer.h";
    n.final_norm = "transformer.ln_f";
    n.n1 = "input_layernorm|ln_attn";
    n.n2 = "post_attention_layernorm|ln_mlp";
    n.qkv = "self_attention.query_key_value";
    n.o = "self_attn.o_proj|self_attention.dense";
    n.gate = "";
    n.up = "mlp.dense_h_to_4h";
    n.down = "mlp.dense_4h_to_h";
});
inline constexpr TensorNames bloom_names =
    derived(falcon_names, [](TensorNames& n) { n.embedding_norm = "transformer.word_embeddings_layernorm"; });

inline constexpr TensorNames opt_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "model.decoder.embed_tokens";
    n.positions = "model.decoder.embed_positions";
    n.project_in = "model.decoder.project_in";
    n.project_out = "model.decoder.project_out";
    n.layers = "model.decoder.layers";
    n.final_norm = "model.decoder.final_layer_norm";
    n.n1 = "self_attn_layer_norm";
    n.n2 = "final_layer_norm";
    n.o = "self_attn.o_proj|self_attn.out_proj";
    n.gate = "";
    n.up = "fc1";
    n.down = "fc2";
});

inline constexpr TensorNames mpt_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "transformer.wte";
    n.layers = "transformer.blocks";
    n.final_norm = "transformer.norm_f";
    n.n1 = "norm_1";
    n.n2 = "norm_2";
    n.qkv = "attn.Wqkv";
    n.o = "self_attn.o_proj|attn.out_proj";
    n.gate = "";
    n.up = "ffn.up_proj";
    n.down = "ffn.down_proj";
});

/// Norms after the sub-layers only.
inline constexpr TensorNames olmo2_names = derived(qwen3_names, [](TensorNames& n) {
    n.n1 = n.n2 = "";
    n.p1 = "post_attention_layernorm";
    n.p2 = "post_feedforward_layernorm";
});

inline constexpr TensorNames exaone_names = derived(llama_names, [](TensorNames& n) {
    n.embedding = "transformer.wte";
    n.layers = "transformer.h";
    n.final_norm = "transformer.ln_f";
    n.n1 = "ln_1";
    n.n2 = "ln_2";
    n.q = "self_attn.q_proj|attn.attention.q_proj";
    n.k = "self_attn.k_proj|attn.attention.k_proj";
    n.v = "self_attn.v_proj|attn.attention.v_proj";
    n.o = "self_attn.o_proj|attn.attention.out_proj";
    n.gate = "mlp.gate_proj|mlp.c_fc_0";
    n.up = "mlp.up_proj|mlp.c_fc_1";
    n.down = "mlp.down_proj|mlp.c_proj";
});

inline constexpr TensorNames nemotron_names = derived(llama_names, [](TensorNames& n) { n.gate = ""; });

inline constexpr TensorNames hunyuan_names = derived(llama_names, [](TensorNames& n) {
    n.q_norm = "self_attn.query_layernorm";
    n.k_norm = "self_attn.key_layernorm";
});

}  // namespace quantplug::engine
