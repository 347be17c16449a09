// A configuration and a row of the table as the numbers of a ModelSpec.
#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/model/decoder_reader.h"
#include "engine/model/rope.h"

namespace quantplug::engine {

namespace {

constexpr int64_t max_experts = 4096;

struct ActivationName {
    std::string_view name;
    Activation activation;
};
constexpr std::array activation_names = {
    ActivationName{"silu", Activation::silu},
    ActivationName{"swish", Activation::silu},
    ActivationName{"gelu", Activation::gelu},
    ActivationName{"gelu_new", Activation::gelu_tanh},
    ActivationName{"gelu_pytorch_tanh", Activation::gelu_tanh},
    ActivationName{"gelu_fast", Activation::gelu_tanh},
    ActivationName{"quick_gelu", Activation::quick_gelu},
    ActivationName{"relu", Activation::relu},
    ActivationName{"relu2", Activation::relu2},
};

}  // namespace

void DecoderReader::shapes() {
    const ModelConfig& c = d_.config;
    kernels::ModelSpec& s = d_.spec;
    int64_t inner = c.intermediate_size;
    if (inner <= 0 && row_.four_hidden) inner = 4 * c.hidden_size;
    if (row_.half_inner) inner /= 2;
    if (inner <= 0) fail(Code::invalid_argument, folder_.name(), "/config.json: intermediate_size is missing");
    const int64_t head_dim = c.head_dim              ? *c.head_dim
                             : row_.default_head_dim ? row_.default_head_dim
                                                     : c.hidden_size / c.n_heads;
    if (head_dim < 2 || head_dim > 1024 || head_dim % 2 != 0)
        fail(Code::invalid_argument, folder_.name(), "/config.json: head_dim is ", head_dim,
             "; even numbers from 2 to 1024 are supported");
    if (c.n_heads > 8192)
        fail(Code::invalid_argument, folder_.name(), "/config.json: num_attention_heads is ", c.n_heads,
             "; up to 8192 are supported");
    if (c.n_kv_heads <= 0 || c.n_heads % c.n_kv_heads != 0)
        fail(Code::invalid_argument, folder_.name(), "/config.json: num_attention_heads ", c.n_heads,
             " is no multiple of num_key_value_heads ", c.n_kv_heads);
    eps_ = float(keys_.number({row_.eps_key}).value_or(c.norm_eps.value_or(row_.default_eps)));
    if (row_.fixed_eps) eps_ = float(row_.default_eps);
    s.hidden_size = int32_t(c.hidden_size);
    s.intermediate_size = int32_t(inner);
    s.n_vocab = int32_t(c.n_vocab);
    s.n_heads = int32_t(c.n_heads);
    s.n_kv_heads = int32_t(c.n_kv_heads);
    s.head_dim = int32_t(head_dim);
    s.max_positions = int32_t(std::min<int64_t>(c.max_positions, 1 << 24));
    if (row_.context_is_limit) {
        if (const auto length = keys_.integer({"seq_length"}); length && *length > 0)
            s.max_positions = int32_t(std::min<int64_t>(*length, s.max_positions));
        d_.position_limit = s.max_positions;
    }
    if (const auto width = keys_.integer({"word_embed_proj_dim"});
        width && !row_.names->project_in.empty() && *width != c.hidden_size) {
        if (*width < 1 || *width > c.hidden_size)
            fail(Code::invalid_argument, folder_.name(), "/config.json: word_embed_proj_dim is ", *width,
                 ", expected 1 to ", c.hidden_size);
        s.embedding_size = int32_t(*width);
    }
    s.layers.resize(size_t(c.n_layers));
    attention_numbers();
    constants();
    ropes();
    experts_numbers();
}

void DecoderReader::attention_numbers() {
    const ModelConfig& c = d_.config;
    kernels::ModelSpec& s = d_.spec;
    double scale = 1.0 / std::sqrt(double(s.head_dim));
    if (row_.query_scalar > 0) scale = 1.0 / std::sqrt(number("query_pre_attn_scalar", row_.query_scalar));
    if (row_.constants == ConstantsRule::granite) scale = number("attention_multiplier", scale);
    if (row_.alibi == AlibiRule::mpt) scale = number("attn_config.softmax_scale", scale);
    if (row_.inverse_layer_scale) {
        if (!keys_.boolean({"scale_attn_weights"}).value_or(true)) scale = 1;
        if (keys_.boolean({"scale_attn_by_inverse_layer_idx"}).value_or(false))
            for (size_t i = 0; i < s.layers.size(); ++i) s.layers[i].attention_scale = float(scale / double(i + 1));
    }
    if (!(scale > 0) || !std::isfinite(scale))
        fail(Code::invalid_argument, folder_.name(), "/config.json: the scale of attention scores is ", scale,
             ", expected a positive number");
    s.attention_scale = float(scale);
    if (row_.soft_caps) {
        const auto cap = [&](std::string_view key, double by_class) {
            const double value = keys_.is_null(key) ? 0.0 : number(key, by_class);
            if (value < 0) fail(Code::invalid_argument, folder_.name(), "/config.json: ", key, " is ", value);
            return float(value);
        };
        s.attention_softcap = cap("attn_logit_softcapping", row_.attention_softcap);
        s.logit_softcap = cap("final_logit_softcapping", row_.logit_softcap);
    }
    if (row_.clips_qkv) {
        const double clip = keys_.number({"clip_qkv", "attn_config.clip_qkv"}).value_or(0);
        if (clip < 0) fail(Code::invalid_argument, folder_.name(), "/config.json: clip_qkv is ", clip);
        s.clip_qkv = float(clip);
    }
    if (keys_.boolean({"apply_residual_connection_post_layernorm"}).value_or(false))
        fail(Code::unimplemented, folder_.name(),
             "/config.json: apply_residual_connection_post_layernorm is true, which is not supported");
    if (row_.alibi != AlibiRule::none && (row_.alibi != AlibiRule::baichuan || c.hidden_size != 4096)) alibi();
    if (row_.block == BlockRule::falcon && keys_.boolean({"alibi"}).value_or(false))
        fail(Code::unimplemented, folder_.name(), "/config.json: alibi is true, which is not supported for ",
             row_.name);
}

/// Slopes 2^(-8h/p), p a power of two, and what each family does where the number of heads is none.
void DecoderReader::alibi() {
    const int32_t heads = d_.spec.n_heads;
    std::vector<float>& slopes = d_.spec.alibi_slopes;
    int32_t p = 1;
    if (row_.alibi == AlibiRule::mpt) {
        if (!keys_.boolean({"attn_config.alibi"}).value_or(true))
            fail(Code::unimplemented, folder_.name(), "/config.json: attn_config.alibi is false: learned positions of ",
                 row_.name, " are not supported");
        while (p < heads) p *= 2;
        const double most = number("attn_config.alibi_bias_max", 8);
        std::vector<float> all;
        for (int32_t h = 1; h <= p; ++h) all.push_back(float(std::pow(2.0, -most * h / p)));
        if (p != heads) {
            std::vector<float> reordered;
            for (const size_t first : {1, 0})
                for (size_t h = first; h < all.size(); h += 2) reordered.push_back(all[h]);
            all = std::move(reordered);
        }
        all.resize(size_t(heads));
        slopes = std::move(all);
        return;
    }
    while (p * 2 <= heads) p *= 2;
    for (int32_t h = 1; h <= p; ++h) slopes.push_back(float(std::pow(2.0, -8.0 * h / p)));
    for (int32_t m = 1; m <= heads - p; ++m) slopes.push_back(float(std::pow(2.0, -4.0 * (2 * m - 1) / p)));
}

void DecoderReader::constants() {
    kernels::ModelSpec& s = d_.spec;
    const double layers = double(s.layers.size());
    if (row_.constants == ConstantsRule::granite) {
        s.embedding_scale = float(number("embedding_multiplier", 1));
        s.residual_scale = float(number("residual_multiplier", 1));
        s.logit_scale = float(1 / number("logits_scaling", 1));
    } else if (row_.constants == ConstantsRule::minicpm) {
        s.embedding_scale = float(number("scale_emb", 1));
        if (keys_.number({"scale_depth"})) s.residual_scale = float(number("scale_depth", 1) / std::sqrt(layers));
        if (const auto base = keys_.number({"dim_model_base"})) s.logit_scale = float(*base / s.hidden_size);
    } else if (row_.constants == ConstantsRule::cohere) {
        s.logit_scale = float(number("logit_scale", 0.0625));
    }
    for (const float value : {s.embedding_scale, s.residual_scale, s.logit_scale})
        if (!std::isfinite(value) || value == 0)
            fail(Code::invalid_argument, folder_.name(),
                 "/config.json: a multiplier of embedding, residual or logits is ", value);
}

void DecoderReader::ropes() {
    const ModelConfig& c = d_.config;
    kernels::ModelSpec& s = d_.spec;
    if (row_.no_rope == NoRopeRule::always || (row_.alibi == AlibiRule::baichuan && !s.alibi_slopes.empty())) return;
    const auto add = [&](RopeConfig rope) {
        if (!rope.theta) rope.theta = row_.rope_theta * number("rope_ratio", 1);
        if (!rope.partial_rotary_factor) rope.partial_rotary_factor = row_.partial_rotary_factor;
        s.ropes.push_back(rope_spec(rope, s.head_dim));
        s.ropes.back().interleaved = row_.interleaved_rope;
    };
    add(c.rope);
    if (const auto local = c.rope_by_layer_type.find("sliding_attention"); local != c.rope_by_layer_type.end()) {
        add(local->second);
    } else if (row_.local_rope != LocalRopeRule::same) {
        RopeConfig plain;
        plain.theta = c.rope.theta;
        plain.partial_rotary_factor = c.rope.partial_rotary_factor;
        if (row_.local_rope == LocalRopeRule::own_theta) plain.theta = number("rope_local_base_freq", 10000);
        add(plain);
    }
}

void DecoderReader::experts_numbers() {
    kernels::ModelSpec& s = d_.spec;
    if (row_.moe == MoeRule::none) return;
    const auto size = [&](std::initializer_list<std::string_view> names, int64_t most) -> int64_t {
        const int64_t value = keys_.integer(names).value_or(0);
        if (value < 0 || value > most)
            fail(Code::invalid_argument, folder_.name(), "/config.json: ", *names.begin(), " is ", value,
                 ", expected 0 to ", most);
        return value;
    };
    s.n_experts = int32_t(size({"num_local_experts", "num_experts", "ffn_config.moe_num_experts"}, max_experts));
    if (s.n_experts == 0) return;
    const int64_t top_k = size({"num_experts_per_tok", "ffn_config.moe_top_k"}, s.n_experts);
    if (top_k == 0) fail(Code::invalid_argument, folder_.name(), "/config.json: num_experts_per_tok is missing");
    if (row_.moe == MoeRule::dbrx && number("ffn_config.moe_normalize_expert_weights", 1) != 1)
        fail(Code::unimplemented, folder_.name(), "/config.json: ffn_config.moe_normalize_expert_weights is ",
             number("ffn_config.moe_normalize_expert_weights", 1), "; 1 and null are supported");
    s.expert_intermediate_size = int32_t(size({"moe_intermediate_size"}, 1 << 22));
    if (s.expert_intermediate_size == 0) s.expert_intermediate_size = s.intermediate_size;
    if (!row_.names->shared_gate.empty())
        s.shared_intermediate_size = int32_t(size({"shared_expert_intermediate_size"}, 1 << 22));
}

kernels::Activation DecoderReader::activation() const {
    std::string name = d_.config.activation;
    if (name.empty()) name = keys_.string({"ffn_config.ffn_act_fn.name"}).value_or("");
    if (name.empty()) return row_.activation;
    for (const ActivationName& known : activation_names)
        if (known.name == name)
            return row_.gelu_is_tanh && known.activation == Activation::gelu ? Activation::gelu_tanh : known.activation;
    std::string names;
    for (const ActivationName& known : activation_names) names += concat(names.empty() ? "" : ", ", known.name);
    fail(Code::unimplemented, folder_.name(), "/config.json: hidden_act ", name, " is not supported; ", names, " are");
}

kernels::Block DecoderReader::block() {
    const auto key = [&](std::string_view name, bool missing) { return keys_.boolean({name}).value_or(missing); };
    bool parallel = false;
    second_norm_ = true;
    switch (row_.block) {
        case BlockRule::sequential:
            break;
        case BlockRule::parallel:
            parallel = true;
            break;
        case BlockRule::residual_key:
            parallel = key("use_parallel_residual", true);
            break;
        case BlockRule::residual_key_one_norm:
            parallel = key("use_parallel_residual", false);
            second_norm_ = !parallel;
            break;
        case BlockRule::falcon:
            if (key("new_decoder_architecture", false)) {
                parallel = true;
                second_norm_ = keys_.integer({"num_ln_in_parallel_attn"}).value_or(2) == 2;
            } else {
                parallel = key("parallel_attn", true);
                second_norm_ = !parallel;
            }
            break;
        case BlockRule::opt:
            if (key("do_layer_norm_before", true)) break;
            final_norm_ = false;
            return kernels::Block::post;
    }
    return parallel ? kernels::Block::parallel : kernels::Block::sequential;
}

DecoderReader::LayerKind DecoderReader::kind_of(int32_t i) const {
    const ModelConfig& c = d_.config;
    LayerKind kind;
    const bool used = c.use_sliding_window.value_or(false);
    switch (row_.window) {
        case WindowRule::none:
            break;
        case WindowRule::all:
            kind.sliding = true;
            break;
        case WindowRule::from_layer:
            kind.sliding = used && i >= c.max_window_layers.value_or(28);
            break;
        case WindowRule::even_below:
            kind.sliding = used && i % 2 == 0 && i < c.max_window_layers.value_or(28);
            break;
        case WindowRule::if_used:
            kind.sliding = used;
            break;
        case WindowRule::even:
            kind.sliding = i % 2 == 0;
            break;
        case WindowRule::pattern: {
            const int64_t pattern = c.sliding_window_pattern.value_or(row_.window_pattern);
            kind.sliding = pattern > 0 && (i + 1) % pattern != 0;
            break;
        }
    }
    if (!c.layer_types.empty()) {
        const std::string& type = c.layer_types[size_t(i)];
        if (type != "full_attention" && type != "sliding_attention")
            fail(Code::unimplemented, folder_.name(), "/config.json: layer type ", type, " is not supported");
        kind.sliding = type == "sliding_attention";
    }
    const int64_t window = c.sliding_window_off ? 0 : c.sliding_window.value_or(row_.default_window);
    kind.window = kind.sliding ? int32_t(window) : 0;  // read_model_config allows 0 to 2^30

    if (row_.no_rope == NoRopeRule::full_layers) kind.rope = kind.sliding;
    if (row_.no_rope == NoRopeRule::full_layers_if_window) kind.rope = kind.sliding || window == 0;
    if (row_.no_rope == NoRopeRule::listed) {
        if (const JsonObject* level = keys_.value_of("no_rope_layers")) {
            const std::vector<int64_t> listed = level->integers("no_rope_layers");
            if (listed.size() != size_t(c.n_layers))
                fail(Code::invalid_argument, level->where("no_rope_layers"), " has ", listed.size(), " entries for ",
                     c.n_layers, " layers");
            kind.rope = listed[size_t(i)] != 0;
        } else {
            const int64_t interval = keys_.integer({"no_rope_layer_interval"}).value_or(4);
            kind.rope = interval < 1 || (i + 1) % interval != 0;
        }
    }

    kind.sparse = row_.moe != MoeRule::none && d_.spec.n_experts > 0;
    if (kind.sparse && row_.moe == MoeRule::qwen) {
        const int64_t step = std::max<int64_t>(1, keys_.integer({"decoder_sparse_step"}).value_or(1));
        kind.sparse = (i + 1) % step == 0;
        if (const JsonObject* level = keys_.value_of("mlp_only_layers"))
            for (const int64_t dense : level->integers("mlp_only_layers")) kind.sparse = kind.sparse && dense != i;
    }
    return kind;
}

}  // namespace quantplug::engine
