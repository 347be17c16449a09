// The table of architectures over the one decoder graph: a new Llama-like model is a row. Facts: transformers' modeling
// files; ExLlamaV2 0.3.2 for the names in its files.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "engine/checkpoint/config.h"
#include "engine/model/architecture_names.h"
#include "kernels/model.h"

namespace quantplug::engine {

/// All norms of a model, those of q and k included.
enum class NormRule : uint8_t {
    rms,
    rms_plus_one,    // files hold w, the norm multiplies by 1 + w
    layer,           // with a bias where the file has one
    layer_plus_one,  // 1 + w
    layer_bare,      // no parameters
};

/// How attention and MLP meet the residual stream. Which norms there are, before and after each, is said by the names.
enum class BlockRule : uint8_t {
    sequential,
    parallel,               // N2 where its name is set, else the MLP reads N1's output
    residual_key,           // parallel unless use_parallel_residual is false, two norms either way (GPT-NeoX)
    residual_key_one_norm,  // sequential unless use_parallel_residual, which has no N2 (StableLM)
    falcon,                 // parallel_attn, new_decoder_architecture and num_ln_in_parallel_attn decide
    opt,                    // norms behind the sub-layers where do_layer_norm_before is false
};

enum class QkNormRule : uint8_t {
    none,
    required,    // over a head, before RoPE
    optional,    // where the tensors are there
    full,        // over all heads at once
    after_rope,  // over a head
};

/// Which layers see only the last `sliding_window` keys, where the configuration has no layer_types.
enum class WindowRule : uint8_t {
    none,
    all,         // where sliding_window is a number (Mistral)
    from_layer,  // where use_sliding_window: layers >= max_window_layers (Qwen2, Qwen3)
    even_below,  // where use_sliding_window: even layers < max_window_layers (Qwen2Moe)
    if_used,     // where use_sliding_window: all (Qwen3Moe)
    even,        // Gemma 2
    pattern,     // all but every sliding_window_pattern-th
};

enum class NoRopeRule : uint8_t {
    never,
    always,
    full_layers,            // Cohere2
    full_layers_if_window,  // EXAONE 4: not where sliding_window is null
    listed,                 // SmolLM3: no_rope_layers, no_rope_layer_interval
};

/// Rotary embedding of window layers, where the configuration does not have one for each layer type.
enum class LocalRopeRule : uint8_t { same, own_theta /* rope_local_base_freq */, unscaled };

enum class AlibiRule : uint8_t { none, bloom, mpt, baichuan /* of the 13B: hidden_size is not 4096 */ };

enum class MoeRule : uint8_t {
    none,
    mixtral,  // every layer; probabilities of the chosen sum to 1
    qwen,     // decoder_sparse_step, mlp_only_layers; norm_topk_prob
    dbrx,     // every layer; moe_normalize_expert_weights
};

/// Where the constants that scale embedding, residual and logits come from.
enum class ConstantsRule : uint8_t { none, gemma, granite, minicpm, cohere };

enum class NormHeadRule : uint8_t { none, always, baichuan /* version 2, told by its vocabulary */ };

struct Architecture {
    std::string_view name;  // architectures[0] of config.json
    const TensorNames* names = &llama_names;

    NormRule norm = NormRule::rms;
    std::string_view eps_key = "rms_norm_eps";
    double default_eps = 1e-6;
    bool fixed_eps = false;  // default_eps, whatever the configuration says
    BlockRule block = BlockRule::sequential;

    bool grouped_qkv = false;  // a fused q, k, v: for each key/value head its queries, key, value; else all q, k, v
    QkNormRule qk_norm = QkNormRule::none;
    bool clips_qkv = false;                           // reads clip_qkv
    double query_scalar = 0;                          // class default of query_pre_attn_scalar; 0: not read
    bool soft_caps = false;                           // reads both soft caps
    double attention_softcap = 0, logit_softcap = 0;  // class defaults
    bool inverse_layer_scale = false;                 // reads scale_attn_weights, scale_attn_by_inverse_layer_idx
    WindowRule window = WindowRule::none;
    int64_t default_window = 0;  // where the configuration does not have the key at all
    int64_t window_pattern = 0;  // class default of sliding_window_pattern
    AlibiRule alibi = AlibiRule::none;

    NoRopeRule no_rope = NoRopeRule::never;
    bool interleaved_rope = false;  // pairs (2t, 2t+1)
    double rope_theta = 10000, partial_rotary_factor = 1;
    LocalRopeRule local_rope = LocalRopeRule::same;
    int32_t position_offset = 0;    // of learned positions
    bool context_is_limit = false;  // beyond seq_length another computation would begin

    kernels::Activation activation = kernels::Activation::silu;  // where the configuration has none
    bool gelu_is_tanh = false;                                   // "gelu" names the tanh form
    bool half_inner = false;                                     // the MLP's width is intermediate_size / 2
    bool four_hidden = false;                                    // 4 hidden_size where there is no intermediate_size
    MoeRule moe = MoeRule::none;
    ConstantsRule constants = ConstantsRule::none;
    NormHeadRule norm_head = NormHeadRule::none;
    bool transposed_c = false;  // plain files hold c_attn, c_proj and c_fc as (in, out)

    int64_t default_head_dim = 0;  // 0: hidden_size / n_heads
    /// A multimodal wrapper: its row is that of text_config's model_type, or this one where there is none.
    std::string_view text_architecture = {};
    ClassDefaults defaults = {};
};

using kernels::Activation;

inline constexpr std::array architectures = {
    // Llama 1/2/3, TinyLlama, SmolLM 1/2, newer Yi, DeepSeek-LLM and -Coder v1, Falcon3
    Architecture{.name = "LlamaForCausalLM"},
    Architecture{.name = "LLaMAForCausalLM"},
    Architecture{.name = "AquilaForCausalLM"},
    Architecture{.name = "AquilaModel"},
    Architecture{.name = "XverseForCausalLM"},
    Architecture{.name = "InternLM3ForCausalLM"},
    Architecture{.name = "SeedOssForCausalLM"},
    Architecture{.name = "InternLMForCausalLM"},
    Architecture{.name = "MistralForCausalLM", .window = WindowRule::all, .default_window = 4096},
    Architecture{.name = "MixtralForCausalLM",
                 .names = &mixtral_names,
                 .window = WindowRule::all,
                 .rope_theta = 1e6,
                 .moe = MoeRule::mixtral},
    Architecture{.name = "YiForCausalLM", .names = &yi_names},
    Architecture{.name = "OrionForCausalLM", .norm = NormRule::layer, .default_eps = 1e-5},
    Architecture{.name = "Qwen2ForCausalLM", .window = WindowRule::from_layer, .default_window = 4096},
    Architecture{.name = "Qwen3ForCausalLM",
                 .names = &qwen3_names,
                 .qk_norm = QkNormRule::required,
                 .window = WindowRule::from_layer,
                 .default_window = 4096,
                 .default_head_dim = 128},
    Architecture{.name = "Qwen2MoeForCausalLM",
                 .names = &qwen2_moe_names,
                 .window = WindowRule::even_below,
                 .default_window = 4096,
                 .moe = MoeRule::qwen},
    Architecture{.name = "Qwen3MoeForCausalLM",
                 .names = &qwen3_moe_names,
                 .qk_norm = QkNormRule::required,
                 .window = WindowRule::if_used,
                 .default_window = 4096,
                 .moe = MoeRule::qwen,
                 .default_head_dim = 128},
    Architecture{.name = "Qwen2VLForConditionalGeneration",
                 .window = WindowRule::from_layer,
                 .default_window = 4096,
                 .rope_theta = 1e6},
    Architecture{.name = "Qwen2_5_VLForConditionalGeneration",
                 .window = WindowRule::from_layer,
                 .default_window = 4096,
                 .rope_theta = 1e6},
    Architecture{
        .name = "LlavaForConditionalGeneration",
        .text_architecture = "LlamaForCausalLM",
        .defaults = {.hidden_size = 4096, .intermediate_size = 11008, .n_layers = 32, .n_heads = 32, .n_vocab = 32000}},
    Architecture{.name = "Mistral3ForConditionalGeneration", .text_architecture = "MistralForCausalLM"},
    Architecture{.name = "GemmaForCausalLM",
                 .norm = NormRule::rms_plus_one,
                 .activation = Activation::gelu_tanh,
                 .gelu_is_tanh = true,
                 .constants = ConstantsRule::gemma,
                 .default_head_dim = 256},
    Architecture{.name = "GemmoeForCausalLM",
                 .names = &mixtral_names,
                 .norm = NormRule::rms_plus_one,
                 .activation = Activation::gelu_tanh,
                 .gelu_is_tanh = true,
                 .moe = MoeRule::mixtral,
                 .constants = ConstantsRule::gemma,
                 .default_head_dim = 256},
    Architecture{.name = "Gemma2ForCausalLM",
                 .names = &gemma2_names,
                 .norm = NormRule::rms_plus_one,
                 .query_scalar = 256,
                 .soft_caps = true,
                 .attention_softcap = 50,
                 .logit_softcap = 30,
                 .window = WindowRule::even,
                 .default_window = 4096,
                 .activation = Activation::gelu_tanh,
                 .constants = ConstantsRule::gemma,
                 .default_head_dim = 256},
    Architecture{.name = "Gemma3ForCausalLM",
                 .names = &gemma3_names,
                 .norm = NormRule::rms_plus_one,
                 .qk_norm = QkNormRule::required,
                 .query_scalar = 256,
                 .soft_caps = true,
                 .window = WindowRule::pattern,
                 .default_window = 4096,
                 .window_pattern = 6,
                 .rope_theta = 1e6,
                 .local_rope = LocalRopeRule::own_theta,
                 .activation = Activation::gelu_tanh,
                 .constants = ConstantsRule::gemma,
                 .default_head_dim = 256,
                 .defaults = {.n_heads = 8, .n_kv_heads = 4, .n_vocab = 262208}},
    Architecture{.name = "Gemma3ForConditionalGeneration",
                 .names = &gemma3_names,
                 .norm = NormRule::rms_plus_one,
                 .qk_norm = QkNormRule::required,
                 .query_scalar = 256,
                 .soft_caps = true,
                 .window = WindowRule::pattern,
                 .default_window = 4096,
                 .window_pattern = 6,
                 .rope_theta = 1e6,
                 .local_rope = LocalRopeRule::own_theta,
                 .activation = Activation::gelu_tanh,
                 .constants = ConstantsRule::gemma,
                 .default_head_dim = 256,
                 .defaults = {.n_heads = 8, .n_kv_heads = 4, .n_vocab = 262208}},
    Architecture{.name = "Starcoder2ForCausalLM",
                 .names = &starcoder2_names,
                 .norm = NormRule::layer,
                 .eps_key = "norm_epsilon",
                 .default_eps = 1e-5,
                 .window = WindowRule::all,
                 .activation = Activation::gelu_tanh},
    Architecture{.name = "CohereForCausalLM",
                 .names = &cohere_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_eps",
                 .default_eps = 1e-5,
                 .block = BlockRule::parallel,
                 .qk_norm = QkNormRule::optional,
                 .interleaved_rope = true,
                 .rope_theta = 5e5,
                 .constants = ConstantsRule::cohere},
    Architecture{.name = "Cohere2ForCausalLM",
                 .names = &cohere_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_eps",
                 .default_eps = 1e-5,
                 .block = BlockRule::parallel,
                 .window = WindowRule::pattern,
                 .default_window = 4096,
                 .window_pattern = 4,
                 .no_rope = NoRopeRule::full_layers,
                 .interleaved_rope = true,
                 .constants = ConstantsRule::cohere},
    Architecture{.name = "DbrxForCausalLM",
                 .names = &dbrx_names,
                 .norm = NormRule::layer,
                 .default_eps = 1e-5,
                 .fixed_eps = true,
                 .clips_qkv = true,
                 .moe = MoeRule::dbrx},
    Architecture{.name = "Phi3ForCausalLM", .names = &phi3_names, .window = WindowRule::all},
    Architecture{.name = "GPTBigCodeForCausalLM",
                 .names = &gpt2_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_epsilon",
                 .default_eps = 1e-5,
                 .grouped_qkv = true,
                 .inverse_layer_scale = true,
                 .no_rope = NoRopeRule::always,
                 .activation = Activation::gelu_tanh,
                 .four_hidden = true,
                 .defaults = {.multi_query = true}},
    Architecture{.name = "GPT2LMHeadModel",
                 .names = &gpt2_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_epsilon",
                 .default_eps = 1e-5,
                 .inverse_layer_scale = true,
                 .no_rope = NoRopeRule::always,
                 .activation = Activation::gelu_tanh,
                 .four_hidden = true,
                 .transposed_c = true},
    Architecture{.name = "MiniCPMForCausalLM", .default_eps = 1e-5, .constants = ConstantsRule::minicpm},
    Architecture{.name = "InternLM2ForCausalLM", .names = &internlm2_names, .grouped_qkv = true},
    Architecture{.name = "IndexForCausalLM", .norm_head = NormHeadRule::always},
    Architecture{.name = "GraniteForCausalLM", .constants = ConstantsRule::granite},
    Architecture{.name = "GlmForCausalLM",
                 .names = &glm_names,
                 .default_eps = 1.5625e-7,
                 .interleaved_rope = true,
                 .partial_rotary_factor = 0.5,
                 .default_head_dim = 128},
    Architecture{.name = "Glm4ForCausalLM",
                 .names = &glm4_names,
                 .default_eps = 1.5625e-7,
                 .interleaved_rope = true,
                 .partial_rotary_factor = 0.5,
                 .default_head_dim = 128},
    Architecture{.name = "ChatGLMModel",
                 .names = &chatglm_names,
                 .eps_key = "layernorm_epsilon",
                 .default_eps = 1e-5,
                 .interleaved_rope = true,
                 .partial_rotary_factor = 0.5},
    Architecture{.name = "ChatGLMForConditionalGeneration",
                 .names = &chatglm_names,
                 .eps_key = "layernorm_epsilon",
                 .default_eps = 1e-5,
                 .interleaved_rope = true,
                 .partial_rotary_factor = 0.5},
    Architecture{.name = "QWenLMHeadModel",
                 .names = &qwen_names,
                 .eps_key = "layer_norm_epsilon",
                 .context_is_limit = true,
                 .half_inner = true},
    Architecture{.name = "BaiChuanForCausalLM", .names = &baichuan_names},
    Architecture{.name = "BaichuanForCausalLM",
                 .names = &baichuan_names,
                 .alibi = AlibiRule::baichuan,
                 .norm_head = NormHeadRule::baichuan},
    Architecture{.name = "PhiForCausalLM",
                 .names = &phi_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_eps",
                 .default_eps = 1e-5,
                 .block = BlockRule::parallel,
                 .qk_norm = QkNormRule::optional,
                 .partial_rotary_factor = 0.5,
                 .activation = Activation::gelu_tanh},
    Architecture{.name = "StableLmForCausalLM",
                 .names = &stablelm_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_eps",
                 .default_eps = 1e-5,
                 .block = BlockRule::residual_key_one_norm,
                 .qk_norm = QkNormRule::optional,
                 .partial_rotary_factor = 0.25},
    Architecture{.name = "StableLMEpochForCausalLM",
                 .names = &stablelm_names,
                 .norm = NormRule::layer,
                 .eps_key = "norm_eps",
                 .default_eps = 1e-5,
                 .block = BlockRule::residual_key_one_norm,
                 .qk_norm = QkNormRule::optional,
                 .partial_rotary_factor = 0.25},
    Architecture{.name = "GPTNeoXForCausalLM",
                 .names = &neox_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_eps",
                 .default_eps = 1e-5,
                 .block = BlockRule::residual_key,
                 .grouped_qkv = true,
                 .partial_rotary_factor = 0.25,
                 .activation = Activation::gelu},
    Architecture{.name = "GPTJForCausalLM",
                 .names = &gptj_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_epsilon",
                 .default_eps = 1e-5,
                 .block = BlockRule::parallel,
                 .interleaved_rope = true,
                 .activation = Activation::gelu_tanh,
                 .four_hidden = true},
    Architecture{.name = "FalconForCausalLM",
                 .names = &falcon_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_epsilon",
                 .default_eps = 1e-5,
                 .block = BlockRule::falcon,
                 .grouped_qkv = true,
                 .activation = Activation::gelu,
                 .four_hidden = true,
                 .defaults = {.multi_query = true}},
    Architecture{.name = "RWForCausalLM",
                 .names = &falcon_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_epsilon",
                 .default_eps = 1e-5,
                 .block = BlockRule::falcon,
                 .grouped_qkv = true,
                 .activation = Activation::gelu,
                 .four_hidden = true},
    Architecture{.name = "OPTForCausalLM",
                 .names = &opt_names,
                 .norm = NormRule::layer,
                 .default_eps = 1e-5,
                 .fixed_eps = true,
                 .block = BlockRule::opt,
                 .no_rope = NoRopeRule::always,
                 .position_offset = 2,
                 .activation = Activation::relu},
    Architecture{.name = "BloomForCausalLM",
                 .names = &bloom_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_epsilon",
                 .default_eps = 1e-5,
                 .grouped_qkv = true,
                 .alibi = AlibiRule::bloom,
                 .no_rope = NoRopeRule::always,
                 .activation = Activation::gelu_tanh,
                 .four_hidden = true},
    Architecture{.name = "MPTForCausalLM",
                 .names = &mpt_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_epsilon",
                 .default_eps = 1e-5,
                 .clips_qkv = true,
                 .alibi = AlibiRule::mpt,
                 .no_rope = NoRopeRule::always,
                 .activation = Activation::gelu,
                 .four_hidden = true},
    Architecture{.name = "MptForCausalLM",
                 .names = &mpt_names,
                 .norm = NormRule::layer,
                 .eps_key = "layer_norm_epsilon",
                 .default_eps = 1e-5,
                 .clips_qkv = true,
                 .alibi = AlibiRule::mpt,
                 .no_rope = NoRopeRule::always,
                 .activation = Activation::gelu,
                 .four_hidden = true},
    Architecture{.name = "OlmoForCausalLM",
                 .norm = NormRule::layer_bare,
                 .default_eps = 1e-5,
                 .fixed_eps = true,
                 .clips_qkv = true},
    Architecture{.name = "Olmo2ForCausalLM", .names = &olmo2_names, .qk_norm = QkNormRule::full},
    Architecture{.name = "Olmo3ForCausalLM",
                 .names = &olmo2_names,
                 .qk_norm = QkNormRule::full,
                 .window = WindowRule::pattern,
                 .default_window = 4096,
                 .window_pattern = 4,
                 .rope_theta = 5e5,
                 .local_rope = LocalRopeRule::unscaled},
    Architecture{
        .name = "ExaoneForCausalLM", .names = &exaone_names, .eps_key = "layer_norm_epsilon", .default_eps = 1e-5},
    Architecture{.name = "Exaone4ForCausalLM",
                 .names = &olmo2_names,
                 .default_eps = 1e-5,
                 .qk_norm = QkNormRule::required,
                 .window = WindowRule::pattern,
                 .default_window = 4096,
                 .window_pattern = 4,
                 .no_rope = NoRopeRule::full_layers_if_window},
    Architecture{.name = "SmolLM3ForCausalLM", .no_rope = NoRopeRule::listed, .rope_theta = 2e6},
    Architecture{.name = "NemotronForCausalLM",
                 .names = &nemotron_names,
                 .norm = NormRule::layer_plus_one,
                 .eps_key = "norm_eps",
                 .default_eps = 1e-5,
                 .partial_rotary_factor = 0.5,
                 .activation = Activation::relu2},
    Architecture{.name = "HunYuanDenseV1ForCausalLM", .names = &hunyuan_names, .qk_norm = QkNormRule::after_rope},
    Architecture{.name = "Ernie4_5ForCausalLM", .interleaved_rope = true, .rope_theta = 5e5},
    Architecture{.name = "Ernie4_5_ForCausalLM", .interleaved_rope = true, .rope_theta = 5e5},
};

/// Architectures that another graph would be needed for.
struct RefusedArchitecture {
    std::string_view prefix;  // of the name
    std::string_view reason;
};
inline constexpr std::array refused_architectures = {
    RefusedArchitecture{"DeepseekV2", "latent attention"},
    RefusedArchitecture{"DeepseekV3", "latent attention and grouped sigmoid routing"},
    RefusedArchitecture{"MiniCPM3", "latent attention"},
    RefusedArchitecture{"DeciLM", "layers with different numbers of key/value heads"},
    RefusedArchitecture{"DeciForCausalLM", "layers with different numbers of key/value heads"},
    RefusedArchitecture{"PhiMoE", "sparse-mixer routing"},
    RefusedArchitecture{"PhimoeForCausalLM", "sparse-mixer routing"},
    RefusedArchitecture{"GraniteMoe", "three-dimensional expert matrices"},
    RefusedArchitecture{"Gemma3n", "alternating updates and per-layer embeddings"},
    RefusedArchitecture{"Gemma4", "per-layer embeddings"},
    RefusedArchitecture{"Llama4", "chunked attention and its own expert routing"},
    RefusedArchitecture{"GptOss", "attention sinks"},
    RefusedArchitecture{"Qwen3Next", "linear-attention layers"},
    RefusedArchitecture{"Qwen3_5", "linear-attention layers"},
    RefusedArchitecture{"Mamba", "state-space layers"},
    RefusedArchitecture{"FalconMamba", "state-space layers"},
    RefusedArchitecture{"FalconH1", "state-space layers"},
    RefusedArchitecture{"Jamba", "state-space layers"},
    RefusedArchitecture{"Zamba", "state-space layers"},
    RefusedArchitecture{"Bamba", "state-space layers"},
    RefusedArchitecture{"NemotronH", "state-space layers"},
    RefusedArchitecture{"Rwkv", "state-space layers"},
    RefusedArchitecture{"RecurrentGemma", "state-space layers"},
};

constexpr const Architecture* find_architecture(std::string_view name) {
    for (const Architecture& a : architectures)
        if (a.name == name) return &a;
    return nullptr;
}
/// Whether a plain file of this architecture holds the module's weight as (in, out): GPT-2's Conv1D.
constexpr bool stored_transposed(const Architecture& architecture, std::string_view module) {
    return architecture.transposed_c && module.substr(module.rfind('.') + 1).starts_with("c_");
}
constexpr const RefusedArchitecture* find_refused_architecture(std::string_view name) {
    for (const RefusedArchitecture& a : refused_architectures)
        if (name.starts_with(a.prefix)) return &a;
    return nullptr;
}

}  // namespace quantplug::engine
