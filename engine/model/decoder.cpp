#include "engine/model/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "engine/base/error.h"
#include "engine/checkpoint/folder.h"
#include "engine/model/rope.h"

namespace quantplug::engine {

namespace {

constexpr std::array plain_types = {StoredType::f16, StoredType::bf16, StoredType::f32};

kernels::DType dtype_of(StoredType type) {
    return type == StoredType::f32    ? kernels::DType::f32
           : type == StoredType::bf16 ? kernels::DType::bf16
                                      : kernels::DType::f16;
}

std::string known_names() {
    std::string names;
    for (const Architecture& a : architectures) {
        if (!names.empty()) names += ", ";
        names += a.name;
    }
    return names;
}

/// Builds a Decoder part by part.
class Reader {
 public:
    Reader(const ModelFolder& folder, const Format& format) : folder_(folder), format_(format) {}

    Decoder read() {
        d_.config = read_model_config(folder_);
        choose_architecture();
        shapes();
        for (int32_t i = 0; i < int32_t(d_.config.n_layers); ++i) layer(i);
        d_.spec.final_norm.kind = kernels::NormSpec::rms;
        d_.spec.final_norm.eps = eps_;
        norm("model.norm.weight", d_.spec.hidden_size, -1, nullptr);
        embedding_and_head();
        if (unknown_) refuse_unread_tensors();
        return std::move(d_);
    }

 private:
    bool matrix_exists(const std::string& module) const {
        return format_.has(folder_, module) || folder_.has(module + ".weight");
    }

    void choose_architecture() {
        if (const Architecture* known = find_architecture(d_.config.architecture)) {
            architecture_ = *known;
            return;
        }
        if (!matrix_exists("model.layers.0.self_attn.q_proj") || !matrix_exists("model.layers.0.mlp.gate_proj"))
            fail(Code::unimplemented, folder_.name(), ": architecture ", d_.config.architecture, " is not supported; ",
                 known_names(), " are");
        unknown_ = true;
        architecture_ = architectures[0];
        d_.warnings.push_back(concat("architecture ", d_.config.architecture,
                                     " is not known; its tensors have Llama's names and are read as Llama"));
    }

    void shapes() {
        const ModelConfig& c = d_.config;
        kernels::ModelSpec& s = d_.spec;
        if (c.intermediate_size <= 0)
            fail(Code::invalid_argument, folder_.name(), "/config.json: intermediate_size is missing");
        if (!c.activation.empty() && c.activation != "silu" && c.activation != "swish")
            fail(Code::unimplemented, folder_.name(), "/config.json: hidden_act ", c.activation,
                 " is not supported; silu is");
        const int64_t head_dim = c.head_dim                       ? *c.head_dim
                                 : architecture_.default_head_dim ? architecture_.default_head_dim
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
        eps_ = float(c.norm_eps.value_or(1e-6));
        s.hidden_size = int32_t(c.hidden_size);
        s.intermediate_size = int32_t(c.intermediate_size);
        s.n_vocab = int32_t(c.n_vocab);
        s.n_heads = int32_t(c.n_heads);
        s.n_kv_heads = int32_t(c.n_kv_heads);
        s.head_dim = int32_t(head_dim);
        s.attention_scale = float(1.0 / std::sqrt(double(head_dim)));
        s.max_positions = int32_t(std::min<int64_t>(c.max_positions, 1 << 24));
        s.ropes.push_back(rope_spec(c.rope, s.head_dim));
        s.layers.resize(size_t(c.n_layers));
    }

    int32_t window_of(int32_t i) const {
        const ModelConfig& c = d_.config;
        const int64_t window = c.sliding_window_off ? 0 : c.sliding_window.value_or(architecture_.default_window);
        bool on = false;
        if (architecture_.window == WindowRule::all) on = true;
        if (architecture_.window == WindowRule::from_layer)
            on = c.use_sliding_window.value_or(false) && i >= c.max_window_layers.value_or(28);
        if (!c.layer_types.empty()) {
            const std::string& type = c.layer_types[size_t(i)];
            if (type != "full_attention" && type != "sliding_attention")
                fail(Code::unimplemented, folder_.name(), "/config.json: layer type ", type, " is not supported");
            on = type == "sliding_attention";
        }
        return on ? int32_t(window) : 0;  // read_model_config allows 0 to 2^30
    }

    void layer(int32_t i) {
        using L = kernels::LayerSpec;
        const kernels::ModelSpec& s = d_.spec;
        L& spec = d_.spec.layers[size_t(i)];
        spec.window = window_of(i);
        const std::string prefix = concat("model.layers.", i, ".");
        const int32_t q = s.n_heads * s.head_dim,
                      kv = s.n_kv_heads * s.head_dim;  // at most 2^23, by shapes()
        norm(prefix + "input_layernorm.weight", s.hidden_size, i, &L::attention_norm);
        linear(prefix + "self_attn.q_proj", s.hidden_size, q, i, &L::q);
        linear(prefix + "self_attn.k_proj", s.hidden_size, kv, i, &L::k);
        linear(prefix + "self_attn.v_proj", s.hidden_size, kv, i, &L::v);
        if (architecture_.qk_norm) {
            norm(prefix + "self_attn.q_norm.weight", s.head_dim, i, &L::q_norm);
            norm(prefix + "self_attn.k_norm.weight", s.head_dim, i, &L::k_norm);
        }
        linear(prefix + "self_attn.o_proj", q, s.hidden_size, i, &L::o);
        norm(prefix + "post_attention_layernorm.weight", s.hidden_size, i, &L::mlp_norm);
        linear(prefix + "mlp.gate_proj", s.hidden_size, s.intermediate_size, i, &L::gate);
        linear(prefix + "mlp.up_proj", s.hidden_size, s.intermediate_size, i, &L::up);
        linear(prefix + "mlp.down_proj", s.intermediate_size, s.hidden_size, i, &L::down);
    }

    void norm(const std::string& name, int32_t size, int32_t i, kernels::NormSpec kernels::LayerSpec::*slot) {
        // An EXL2 file holds the norm of a head as (heads, head_dim), one row repeated.
        const TensorInfo& t = folder_.tensor(name);
        const bool repeated = t.shape.size() == 2 && t.shape[1] == size && t.shape[0] > 0;
        if (!repeated) {
            const int64_t shape[] = {size};
            folder_.tensor(name, shape, plain_types);
        }
        if (slot) {
            kernels::NormSpec& spec = d_.spec.layers[size_t(i)].*slot;
            spec.kind = kernels::NormSpec::rms;
            spec.eps = eps_;
        }
        d_.norms.push_back({name, size, i, slot});
    }

    LinearPart part(const std::string& module, int32_t in, int32_t out) const {
        LinearPart p;
        p.module = module;
        if (format_.has(folder_, module)) {
            StoredMatrix stored = format_.describe(folder_, module, in, out);
            p.shape = std::move(stored.shape);
            p.stored_bytes = stored.stored_bytes;
            p.quantised = true;
            return p;
        }
        const int64_t shape[] = {-1, in};
        const TensorInfo& t = folder_.tensor(module + ".weight", shape, plain_types);
        // An embedding or head may have padding rows; any other matrix has exactly its size.
        const bool padded = module == "model.embed_tokens" || module == "lm_head";
        if (t.shape[0] < out || (!padded && t.shape[0] != out))
            fail(Code::invalid_argument, folder_.file_of(t), ": tensor ", t.name, " has ", t.shape[0],
                 " rows where config.json asks for ", out);
        p.shape.in_features = in;
        p.shape.out_features = out;
        p.shape.dtype = dtype_of(t.type);
        p.stored_bytes = t.bytes;
        if (const TensorInfo* bias = folder_.find(module + ".bias")) {
            const int64_t size[] = {out};
            folder_.tensor(bias->name, size, plain_types);
            p.bias_tensor = bias->name;
            p.shape.has_bias = true;
            p.stored_bytes += bias->bytes;
        }
        return p;
    }

    void linear(const std::string& module, int32_t in, int32_t out, int32_t i,
                kernels::Matrix kernels::LayerSpec::*slot) {
        LinearPart p = part(module, in, out);
        p.layer = i;
        p.slot = slot;
        d_.linears.push_back(std::move(p));
    }

    /// Whatever tie_word_embeddings says, the tensors decide: a stored head wins, and either stands in for the other.
    void embedding_and_head() {
        const bool has_embedding = matrix_exists("model.embed_tokens");
        const bool has_head = matrix_exists("lm_head");
        if (!has_embedding && !has_head)
            fail(Code::not_found, folder_.name(),
                 ": neither model.embed_tokens.weight nor lm_head is there; the checkpoint is incomplete");
        d_.tied = has_embedding != has_head;
        const auto add = [&](const char* module, kernels::Matrix kernels::ModelSpec::*slot) {
            LinearPart p = part(module, d_.spec.hidden_size, d_.spec.n_vocab);
            p.model_slot = slot;
            d_.linears.push_back(std::move(p));
        };
        if (has_embedding) add("model.embed_tokens", &kernels::ModelSpec::embedding);
        if (has_head) add("lm_head", &kernels::ModelSpec::head);
    }

    /// A tensor of a layer that Llama does not have means another computation: no guess.
    void refuse_unread_tensors() const {
        constexpr std::string_view layers = "model.layers.", first = "model.layers.0.";
        for (const TensorInfo& t : folder_.tensors()) {
            std::string_view rest = t.name;
            if (!rest.starts_with(layers) || rest.ends_with(".rotary_emb.inv_freq")) continue;
            rest.remove_prefix(layers.size());
            rest.remove_prefix(std::min(rest.find('.'), rest.size() - 1) + 1);  // what follows the layer's number
            const bool read =
                std::any_of(d_.norms.begin(), d_.norms.end(),
                            [&](const NormPart& n) { return n.layer == 0 && n.tensor.substr(first.size()) == rest; }) ||
                std::any_of(d_.linears.begin(), d_.linears.end(), [&](const LinearPart& l) {
                    return l.layer == 0 && rest.starts_with(l.module.substr(first.size()) + ".");
                });
            if (!read)
                fail(Code::unimplemented, folder_.name(), ": architecture ", d_.config.architecture,
                     " is not supported: Llama has no tensor ", t.name);
        }
    }

    const ModelFolder& folder_;
    const Format& format_;
    Architecture architecture_{};
    bool unknown_ = false;
    float eps_ = 1e-6f;
    Decoder d_;
};

}  // namespace

uint64_t Decoder::n_params() const {
    uint64_t n = 0;
    for (const LinearPart& l : linears) {
        n += uint64_t(l.shape.in_features) * uint64_t(l.shape.out_features);
        if (l.shape.has_bias) n += uint64_t(l.shape.out_features);
    }
    for (const NormPart& p : norms) n += uint64_t(p.size);
    return n;
}

double Decoder::bits_per_weight(bool head) const {
    double bits = 0, weights = 0;
    for (const LinearPart& l : linears) {
        if (!l.quantised || (l.layer < 0) != head) continue;
        bits += 8.0 * double(l.stored_bytes);
        weights += double(l.shape.in_features) * double(l.shape.out_features);
    }
    return weights > 0 ? bits / weights : 0;
}

uint64_t Decoder::largest_matrix_bytes() const {
    uint64_t largest = 0;
    for (const LinearPart& l : linears)
        if (l.quantised) largest = std::max(largest, l.stored_bytes);
    return largest;
}

Decoder read_decoder(const ModelFolder& folder, const Format& format) { return Reader(folder, format).read(); }

}  // namespace quantplug::engine
