#include "engine/tools/import_gguf_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <set>
#include <span>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"

namespace quantplug::engine {

namespace {

using OrderedJson = nlohmann::ordered_json;

struct Architecture {
    std::string_view gguf, hugging_face, model_type;
    bool permuted;  // q and k rows, by convert_hf_to_gguf's permute()
    bool qk_norm;
};
constexpr std::array<Architecture, 3> architectures{{
    {"llama", "LlamaForCausalLM", "llama", true, false},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", false, false},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", false, true},
}};

class Mapper {
 public:
    explicit Mapper(const GgufFile& file) : file_(file), name_(file.source().name()) {}

    ImportedModel run() {
        read_architecture();
        read_sizes();
        map_tensors();
        OrderedJson config = write_config();
        return {std::string(architecture_.hugging_face), n_vocab_, max_positions_, std::move(tensors_), config.dump(2)};
    }

 private:
    std::string key(std::string_view name) const { return concat(architecture_.gguf, ".", name); }

    int64_t size(std::string_view name, int64_t most) const {
        const auto value = file_.integer(key(name));
        if (!value) fail(Code::invalid_argument, name_, " has no metadata key ", key(name));
        return in_range(name, *value, most);
    }
    int64_t in_range(std::string_view name, int64_t value, int64_t most) const {
        if (value < 1 || value > most)
            fail(Code::invalid_argument, name_, ": ", key(name), " is ", value, ", expected 1 to ", most);
        return value;
    }
    /// A size that may be stored once per layer, then the same for all.
    int64_t size_of_layers(std::string_view name, int64_t fallback, int64_t most) const {
        const auto values = file_.integers(key(name));
        if (values.empty()) return fallback;
        if (std::any_of(values.begin(), values.end(), [&](int64_t value) { return value != values.front(); }))
            fail(Code::unimplemented, name_, ": ", key(name), " differs between layers, which is not supported");
        return in_range(name, values.front(), most);
    }

    void read_architecture() {
        const auto name = file_.string("general.architecture");
        if (!name) fail(Code::invalid_argument, name_, " has no metadata key general.architecture");
        const auto row =
            std::find_if(architectures.begin(), architectures.end(), [&](const auto& a) { return a.gguf == *name; });
        if (row == architectures.end())
            fail(Code::unimplemented, name_, " has the architecture \"", printable(*name),
                 "\", supported are llama, qwen2 and qwen3");
        architecture_ = *row;
        if (file_.integer("split.count").value_or(1) > 1)
            fail(Code::unimplemented, name_, " is one of ", *file_.integer("split.count"),
                 " parts: merge them with llama-gguf-split first");
        const auto type = file_.string("general.type");
        if (type && *type != "model")
            fail(Code::unimplemented, name_, " holds \"", printable(*type), "\", not a model");
        if (file_.integer(key("expert_count")).value_or(0) > 0)
            fail(Code::unimplemented, name_, " is a mixture of experts (", key("expert_count"),
                 "), which the import does not support");
    }

    void read_sizes() {
        n_layers_ = size("block_count", 10'000);
        hidden_ = size("embedding_length", 1 << 20);
        intermediate_ = size_of_layers("feed_forward_length", 0, 1 << 22);
        n_heads_ = size_of_layers("attention.head_count", 0, 1 << 16);
        if (n_heads_ == 0 || intermediate_ == 0)
            fail(Code::invalid_argument, name_, " has no metadata key ",
                 key(n_heads_ == 0 ? "attention.head_count" : "feed_forward_length"));
        n_kv_heads_ = size_of_layers("attention.head_count_kv", n_heads_, 1 << 16);
        if (n_heads_ % n_kv_heads_ != 0)
            fail(Code::invalid_argument, name_, ": ", key("attention.head_count"), " is ", n_heads_,
                 ", no multiple of ", n_kv_heads_, " key/value heads");
        max_positions_ = size("context_length", int64_t{1} << 30);
        const auto head_dim = file_.integer(key("attention.key_length"));
        if (!head_dim && hidden_ % n_heads_ != 0)
            fail(Code::invalid_argument, name_, ": ", key("embedding_length"), " is ", hidden_, ", no multiple of ",
                 n_heads_, " heads");
        head_dim_ = head_dim ? in_range("attention.key_length", *head_dim, 1 << 16) : hidden_ / n_heads_;
        if (head_dim_ % 2 != 0)
            fail(Code::unimplemented, name_, " has heads of ", head_dim_, " values, expected an even number");
        for (const char* other : {"attention.value_length", "rope.dimension_count"})
            if (const auto value = file_.integer(key(other)); value && *value != head_dim_)
                fail(Code::unimplemented, name_, ": ", key(other), " is ", *value, " but the heads have ", head_dim_,
                     " values, which is not supported");
        eps_ = file_.number(key("attention.layer_norm_rms_epsilon")).value_or(0);
        if (!(eps_ > 0 && eps_ <= 1))
            fail(Code::invalid_argument, name_, ": ", key("attention.layer_norm_rms_epsilon"), " is ", eps_);
        theta_ = file_.number(key("rope.freq_base")).value_or(10000);
        if (!(theta_ > 0 && std::isfinite(theta_)))
            fail(Code::invalid_argument, name_, ": ", key("rope.freq_base"), " is ", theta_);
    }

    /// Returns whether it is there.
    bool map(const std::string& from, const std::string& to, std::vector<int64_t> shape, bool required,
             int64_t permuted_heads = 0) {
        const GgufTensor* tensor = file_.find(from);
        if (!tensor) {
            if (required) fail(Code::not_found, name_, " has no tensor \"", from, "\": the model is incomplete");
            return false;
        }
        if (tensor->shape != shape) {
            std::string expected;
            for (const int64_t n : shape) expected += concat(expected.empty() ? "" : ", ", n);
            fail(Code::invalid_argument, name_, ": tensor \"", from, "\" is ", tensor->describe(), ", expected [",
                 expected, "]");
        }
        used_.insert(from);
        tensors_.push_back({tensor, to, permuted_heads});
        return true;
    }

    void map_tensors() {
        const GgufTensor* embedding = file_.find("token_embd.weight");
        if (!embedding) fail(Code::not_found, name_, " has no tensor \"token_embd.weight\": the model is incomplete");
        n_vocab_ = embedding->shape.front();
        if (n_vocab_ > 1 << 24) fail(Code::invalid_argument, name_, " has a vocabulary of ", n_vocab_);
        map("token_embd.weight", "model.embed_tokens.weight", {n_vocab_, hidden_}, true);

        const int64_t q = n_heads_ * head_dim_, kv = n_kv_heads_ * head_dim_;
        const int64_t q_permuted = architecture_.permuted ? n_heads_ : 0,
                      k_permuted = architecture_.permuted ? n_kv_heads_ : 0;
        for (int64_t i = 0; i < n_layers_; ++i) {
            const std::string from = concat("blk.", i, "."), to = concat("model.layers.", i, ".");
            const auto matrix = [&](const char* gguf, const char* name, int64_t out, int64_t in, int64_t permuted = 0) {
                map(from + gguf + ".weight", to + name + ".weight", {out, in}, true, permuted);
                return map(from + gguf + ".bias", to + name + ".bias", {out}, false, permuted);
            };
            map(from + "attn_norm.weight", to + "input_layernorm.weight", {hidden_}, true);
            attention_bias_ |= matrix("attn_q", "self_attn.q_proj", q, hidden_, q_permuted);
            attention_bias_ |= matrix("attn_k", "self_attn.k_proj", kv, hidden_, k_permuted);
            attention_bias_ |= matrix("attn_v", "self_attn.v_proj", kv, hidden_);
            attention_bias_ |= matrix("attn_output", "self_attn.o_proj", hidden_, q);
            if (architecture_.qk_norm) {
                map(from + "attn_q_norm.weight", to + "self_attn.q_norm.weight", {head_dim_}, true);
                map(from + "attn_k_norm.weight", to + "self_attn.k_norm.weight", {head_dim_}, true);
            }
            map(from + "ffn_norm.weight", to + "post_attention_layernorm.weight", {hidden_}, true);
            mlp_bias_ |= matrix("ffn_gate", "mlp.gate_proj", intermediate_, hidden_);
            mlp_bias_ |= matrix("ffn_up", "mlp.up_proj", intermediate_, hidden_);
            mlp_bias_ |= matrix("ffn_down", "mlp.down_proj", hidden_, intermediate_);
        }
        map("output_norm.weight", "model.norm.weight", {hidden_}, true);
        tied_ = !map("output.weight", "lm_head.weight", {n_vocab_, hidden_}, false);

        for (const GgufTensor& tensor : file_.tensors())
            if (!used_.contains(tensor.name) && tensor.name != "rope_freqs.weight")
                fail(Code::unimplemented, name_, ": the tensor \"", printable(tensor.name), "\" has no place in a ",
                     architecture_.gguf, " model, which is not supported");
    }

    OrderedJson rope_scaling() const {
        OrderedJson factors = rope_factors();
        const std::string type = file_.string(key("rope.scaling.type")).value_or("none");
        const auto factor =
            file_.number(key(file_.number(key("rope.scaling.factor")) ? "rope.scaling.factor" : "rope.scale_linear"));
        const bool scaled = factor && *factor != 0 && *factor != 1;
        if (scaled && !(*factor > 0 && std::isfinite(*factor)))
            fail(Code::invalid_argument, name_, ": the rope scaling factor is ", *factor);
        const bool linear = type == "linear" || (type == "none" && scaled && !file_.string(key("rope.scaling.type")));
        if (linear && scaled) {
            if (!factors.is_null())
                fail(Code::unimplemented, name_, " has both rope_freqs.weight and linear rope scaling");
            return {{"rope_type", "linear"}, {"factor", *factor}};
        }
        if (type == "yarn" && scaled) {
            if (std::abs(file_.number(key("rope.scaling.attn_factor")).value_or(1) - 1) > 1e-6 || !factors.is_null())
                fail(Code::unimplemented, name_, ": YaRN with ", key("rope.scaling.attn_factor"),
                     " or rope_freqs.weight is not supported");
            OrderedJson yarn{{"rope_type", "yarn"}, {"factor", *factor}};
            yarn["original_max_position_embeddings"] =
                file_.integer(key("rope.scaling.original_context_length")).value_or(max_positions_);
            if (const auto beta = file_.number(key("rope.scaling.yarn_beta_fast"))) yarn["beta_fast"] = *beta;
            if (const auto beta = file_.number(key("rope.scaling.yarn_beta_slow"))) yarn["beta_slow"] = *beta;
            return yarn;
        }
        if (type != "none" && type != "linear" && type != "yarn")
            fail(Code::unimplemented, name_, ": the rope scaling \"", printable(type), "\" is not supported");
        return factors;
    }

    /// Llama 3's scaling is stored as its divisors of the frequencies; the rule's parameters are found and checked, or
    /// it is refused. Formula: architectures of Llama 3.1, low_freq_factor 1, high_freq_factor 4, original context
    /// 8192.
    OrderedJson rope_factors() const {
        const GgufTensor* tensor = file_.find("rope_freqs.weight");
        if (!tensor) return nullptr;
        if (tensor->type->name != "F32" || tensor->shape != std::vector<int64_t>{head_dim_ / 2})
            fail(Code::invalid_argument, name_, ": tensor \"rope_freqs.weight\" is ", tensor->describe(),
                 ", expected F32 [", head_dim_ / 2, "]");
        std::vector<float> stored(size_t(head_dim_ / 2));
        file_.source().read(tensor->offset, std::as_writable_bytes(std::span(stored)));
        if (std::all_of(stored.begin(), stored.end(), [](float f) { return f == 1.0f; })) return nullptr;
        constexpr double low = 1, high = 4, original = 8192;
        const double factor = *std::max_element(stored.begin(), stored.end());
        for (size_t t = 0; t < stored.size(); ++t) {
            const double wavelength = 2 * std::numbers::pi * std::pow(theta_, 2 * double(t) / double(head_dim_));
            double expected = 1;
            if (wavelength > original / low) {
                expected = factor;
            } else if (wavelength >= original / high) {
                const double smooth = (original / wavelength - low) / (high - low);
                expected = 1 / ((1 - smooth) / factor + smooth);
            }
            if (!(std::abs(stored[t] - expected) <= 1e-4 * expected))
                fail(Code::unimplemented, name_, ": rope_freqs.weight does not follow Llama 3's rule (index ", t,
                     " is ", stored[t], ", expected ", expected, ")");
        }
        return {{"rope_type", "llama3"},
                {"factor", factor},
                {"low_freq_factor", low},
                {"high_freq_factor", high},
                {"original_max_position_embeddings", int64_t(original)}};
    }

    OrderedJson write_config() const {
        OrderedJson config;
        config["architectures"] = {architecture_.hugging_face};
        config["model_type"] = architecture_.model_type;
        if (architecture_.gguf == "llama") {
            config["attention_bias"] = attention_bias_;
            config["mlp_bias"] = mlp_bias_;
        }
        config["hidden_act"] = "silu";
        config["hidden_size"] = hidden_;
        config["intermediate_size"] = intermediate_;
        config["num_hidden_layers"] = n_layers_;
        config["num_attention_heads"] = n_heads_;
        config["num_key_value_heads"] = n_kv_heads_;
        config["head_dim"] = head_dim_;
        config["max_position_embeddings"] = max_positions_;
        config["rms_norm_eps"] = eps_;
        config["rope_theta"] = theta_;
        config["rope_scaling"] = rope_scaling();
        config["tie_word_embeddings"] = tied_;
        config["use_cache"] = true;
        config["vocab_size"] = n_vocab_;
        return config;
    }

    const GgufFile& file_;
    const std::string& name_;
    Architecture architecture_{};
    int64_t n_layers_ = 0, hidden_ = 0, intermediate_ = 0, n_heads_ = 0, n_kv_heads_ = 0, head_dim_ = 0;
    int64_t n_vocab_ = 0, max_positions_ = 0;
    double eps_ = 0, theta_ = 0;
    bool attention_bias_ = false, mlp_bias_ = false, tied_ = false;
    std::vector<ImportedTensor> tensors_;
    std::set<std::string> used_;
};

}  // namespace

ImportedModel map_gguf_model(const GgufFile& file) { return Mapper(file).run(); }

}  // namespace quantplug::engine
