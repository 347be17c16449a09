// What config.json and the tensors make of a folder, and what is refused before any weight is read.
#include "engine/model/decoder.h"

#include <doctest/doctest.h>

#include <map>
#include <set>

#include "checkpoint_files.h"
#include "tests/support/refusal.h"
#include "tiny_folders.h"

namespace quantplug::test {

using engine::Code;
using engine::Decoder;

namespace {

Decoder decoder_of(const TinyFolder& tiny) { return engine::read_decoder(tiny.open(), PlainFormat()); }

std::vector<int32_t> windows_of(const TinyFolder& tiny) {
    std::vector<int32_t> windows;
    for (const auto& layer : decoder_of(tiny).spec.layers) windows.push_back(layer.window);
    return windows;
}
using Windows = std::vector<int32_t>;

/// These matrices are quantised, with one byte stored for every two weights and 10 more a matrix.
class SomeQuantised : public PlainFormat {
 public:
    explicit SomeQuantised(std::set<std::string> modules) : modules_(std::move(modules)) {}
    bool has(const engine::ModelFolder&, const std::string& module) const override {
        return modules_.count(module) != 0;
    }
    engine::StoredMatrix describe(const engine::ModelFolder&, const std::string&, int32_t in,
                                  int32_t out) const override {
        engine::StoredMatrix stored;
        stored.shape.in_features = in;
        stored.shape.out_features = out;
        stored.stored_bytes = uint64_t(in) * uint64_t(out) / 2 + 10;
        return stored;
    }

 private:
    std::set<std::string> modules_;
};

}  // namespace

TEST_CASE("decoder: every form of the table is read, and nothing in its files is left over") {
    std::set<std::string> seen;
    for (const auto& entry : std::filesystem::directory_iterator(data_dir() / "tiny")) {
        if (!entry.is_directory()) continue;
        const std::string name = entry.path().filename().string();
        CAPTURE(name);
        const TinyFolder tiny(name);
        const Decoder d = decoder_of(tiny);
        seen.insert(d.config.architecture);
        CHECK(d.warnings.empty());
        CHECK(d.architecture.name == d.config.architecture);
        std::map<std::string, int64_t> left;  // values of every tensor that no part has
        for (const auto& [tensor, stored] : tiny.tensors)
            left[tensor] = int64_t(stored.bytes.size() / engine::size_of(stored.type));
        uint64_t values = 0;
        for (const auto& [tensor, count] : left) values += uint64_t(count);
        for (const engine::LinearPart& l : d.linears) {
            left[l.tensor] -= int64_t(l.shape.in_features) * l.shape.out_features;
            if (!l.bias_tensor.empty()) left[l.bias_tensor] -= l.shape.out_features;
        }
        for (const engine::NormPart& n : d.norms)
            for (const std::string& tensor : n.tensors) left[tensor] -= n.size / int32_t(n.tensors.size());
        for (const auto& entry_left : left) {
            CAPTURE(entry_left.first);
            CHECK(entry_left.second == 0);
        }
        CHECK(d.n_params() == values);
    }
    CHECK(seen.size() >= 28);
}

TEST_CASE("decoder: rows of the table have different names, and slots that a graph needs") {
    std::set<std::string_view> names;
    for (const engine::Architecture& row : engine::architectures) {
        CAPTURE(row.name);
        CHECK(names.insert(row.name).second);
        CHECK(engine::find_architecture(row.name) == &row);
        CHECK(engine::find_refused_architecture(row.name) == nullptr);
        CHECK_FALSE(row.names->o.empty());
        CHECK((row.qk_norm == engine::QkNormRule::none || !row.names->q_norm.empty()));
        CHECK((row.moe == engine::MoeRule::none || !row.names->router.empty()));
        CHECK((row.text_architecture.empty() || engine::find_architecture(row.text_architecture)));
    }
    CHECK(engine::find_architecture("llamaForCausalLM") == nullptr);
}

TEST_CASE("decoder: architectures that need another graph are refused by name, with the reason") {
    for (const std::pair<const char*, const char*>& refused :
         {std::pair("DeepseekV3ForCausalLM", "latent attention"), std::pair("MiniCPM3ForCausalLM", "latent attention"),
          std::pair("DeciLMForCausalLM", "key/value heads"), std::pair("PhiMoEForCausalLM", "sparse-mixer"),
          std::pair("GraniteMoeForCausalLM", "three-dimensional"), std::pair("Gemma3nForCausalLM", "per-layer"),
          std::pair("Llama4ForConditionalGeneration", "chunked"), std::pair("GptOssForCausalLM", "sinks"),
          std::pair("Qwen3NextForCausalLM", "linear-attention"), std::pair("FalconMambaForCausalLM", "state-space")})
        CHECK_REFUSED(decoder_of(TinyFolder("llama").with({{"architectures", {refused.first}}})), Code::unimplemented,
                      refused.first, refused.second);
}

TEST_CASE("decoder: the norms' epsilon is the configuration's") {
    TinyFolder tiny("llama");
    tiny.with({{"rms_norm_eps", 1e-5}});
    const Decoder d = decoder_of(tiny);
    CHECK(d.spec.layers[1].mlp_norm.eps == 1e-5f);
    CHECK(d.spec.final_norm.eps == 1e-5f);
}

TEST_CASE("decoder: Mistral's window is on every layer, off where null, 4096 where the key is missing") {
    CHECK(windows_of(TinyFolder("mistral")) == Windows{8, 8});
    CHECK(windows_of(TinyFolder("mistral").with({{"sliding_window", nullptr}})) == Windows{0, 0});
    TinyFolder missing("mistral");
    missing.with({{"sliding_window", "<drop>"}, {"max_position_embeddings", 8192}});
    CHECK(windows_of(missing) == Windows{4096, 4096});
    missing.with({{"sliding_window", nullptr}});
    CHECK(windows_of(missing) == Windows{0, 0});
    // One that the model's own context never leaves counts where a larger context is asked for.
    CHECK(windows_of(TinyFolder("mistral").with({{"sliding_window", 300}})) == Windows{300, 300});
    // Llama has no window, whatever the key says.
    CHECK(windows_of(TinyFolder("llama").with({{"sliding_window", 8}})) == Windows{0, 0});
}

TEST_CASE("decoder: Qwen's window is for the layers from max_window_layers, where it is used at all") {
    for (const char* model : {"qwen2", "qwen3"}) {
        CAPTURE(model);
        const auto windows = [&](const json& changes) {
            return windows_of(TinyFolder(model)
                                  .with({{"layer_types", "<drop>"}, {"sliding_window", 8}, {"max_window_layers", 1}})
                                  .with(changes));
        };
        CHECK(windows({{"use_sliding_window", true}}) == Windows{0, 8});
        CHECK(windows({{"use_sliding_window", true}, {"max_window_layers", 0}}) == Windows{8, 8});
        CHECK(windows({{"use_sliding_window", true}, {"max_window_layers", 2}}) == Windows{0, 0});
        CHECK(windows({{"use_sliding_window", true}, {"max_window_layers", "<drop>"}}) == Windows{0, 0});  // 28
        CHECK(windows({{"use_sliding_window", false}}) == Windows{0, 0});
        CHECK(windows({{"use_sliding_window", "<drop>"}}) == Windows{0, 0});
        CHECK(windows({{"use_sliding_window", true}, {"sliding_window", nullptr}}) == Windows{0, 0});
        CHECK(windows({{"use_sliding_window", true}, {"sliding_window", "<drop>"}}) == Windows{0, 4096});
    }
}

TEST_CASE("decoder: layer_types decides before any rule") {
    CHECK(windows_of(TinyFolder("qwen2")) == Windows{0, 8});
    TinyFolder tiny("mistral");
    tiny.with({{"layer_types", {"sliding_attention", "full_attention"}}});
    CHECK(windows_of(tiny) == Windows{8, 0});
    tiny.with({{"layer_types", {"sliding_attention", "chunked_attention"}}});
    CHECK_REFUSED(decoder_of(tiny), Code::unimplemented, "chunked_attention");
    tiny.with({{"layer_types", {"full_attention"}}});
    CHECK_REFUSED(decoder_of(tiny), Code::invalid_argument, "layer_types");
}

TEST_CASE("decoder: head_dim is the configuration's, the architecture's or hidden_size / heads") {
    TinyFolder llama("mistral");
    llama.with({{"architectures", {"LlamaForCausalLM"}}, {"head_dim", "<drop>"}});
    // 32 / 4 = 8: the tensors are of heads of 16.
    CHECK_REFUSED(decoder_of(llama), Code::invalid_argument, "model.layers.0.self_attn.q_proj.weight");
    llama.with({{"num_attention_heads", 2}, {"num_key_value_heads", 1}});
    for (const char* layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
        const std::string at = layer;
        llama.tensors[at + "q_proj.weight"] = with_rows(llama.tensors[at + "q_proj.weight"], 32);
        llama.tensors[at + "k_proj.weight"] = with_rows(llama.tensors[at + "k_proj.weight"], 16);
        llama.tensors[at + "v_proj.weight"] = with_rows(llama.tensors[at + "v_proj.weight"], 16);
        llama.tensors[at + "o_proj.weight"] = reshaped(llama.tensors[at + "o_proj.weight"], {32, 32});
    }
    CHECK(decoder_of(llama).spec.head_dim == 16);
    // Qwen3's own is 128.
    CHECK_REFUSED(decoder_of(TinyFolder("qwen3").with({{"head_dim", "<drop>"}})), Code::invalid_argument,
                  "model.layers.0.self_attn.q_proj.weight", "512");
    for (const int head_dim : {1, 15, 1026})
        CHECK_REFUSED(decoder_of(TinyFolder("llama").with({{"head_dim", head_dim}})), Code::invalid_argument,
                      "head_dim", std::to_string(head_dim));
    CHECK_REFUSED(decoder_of(TinyFolder("llama").with({{"num_key_value_heads", 3}})), Code::invalid_argument,
                  "num_attention_heads", "4", "3");
}

TEST_CASE("decoder: an unknown architecture with Llama's names is read as Llama, with a warning") {
    TinyFolder tiny("mistral");
    tiny.with({{"architectures", {"NovelForCausalLM"}}});
    const Decoder d = decoder_of(tiny);
    REQUIRE(d.warnings.size() == 1);
    CHECK(d.warnings[0].find("NovelForCausalLM") != std::string::npos);
    CHECK(d.linears.size() == 16);
    CHECK(d.spec.layers[0].window == 0);  // as Llama: no window
    // Frequencies that old files store are no other computation.
    tiny.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] =
        make_tensor(engine::StoredType::f32, {8}, std::vector<float>(8, 1.0f));
    CHECK(decoder_of(tiny).warnings.size() == 1);
}

TEST_CASE("decoder: an unknown architecture with more than Llama's tensors is refused by the tensor's name") {
    for (const char* extra : {"model.layers.0.self_attn.q_norm.weight", "model.layers.1.self_attn.q_norm.weight",
                              "model.layers.0.input_layernorm.bias", "model.layers.0.mlp.experts.0.w1.weight"}) {
        TinyFolder tiny("mistral");
        tiny.with({{"architectures", {"NovelForCausalLM"}}});
        tiny.tensors[extra] = make_tensor(engine::StoredType::f32, {16}, std::vector<float>(16, 1.0f));
        CHECK_REFUSED(decoder_of(tiny), Code::unimplemented, "NovelForCausalLM", extra);
    }
}

TEST_CASE("decoder: of a known architecture, a weight of a layer that is not read is told") {
    TinyFolder tiny("llama");
    tiny.tensors["model.layers.1.mlp.gate.weight"] =
        make_tensor(engine::StoredType::f32, {4}, std::vector<float>(4, 1.0f));
    tiny.tensors["model.layers.1.self_attn.masked_bias"] =
        make_tensor(engine::StoredType::f32, {1}, std::vector<float>(1, 1.0f));
    const Decoder d = decoder_of(tiny);
    REQUIRE(d.warnings.size() == 1);
    CHECK(d.warnings[0].find("model.layers.1.mlp.gate.weight") != std::string::npos);
}

TEST_CASE("decoder: an unknown architecture without Llama's names is refused with those that are supported") {
    for (const char* gone : {"model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"}) {
        TinyFolder tiny("mistral");
        tiny.with({{"architectures", {"NovelLMHeadModel"}}}).without({gone});
        CHECK_REFUSED(decoder_of(tiny), Code::unimplemented, "NovelLMHeadModel", "LlamaForCausalLM",
                      "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM");
    }
    TinyFolder nameless("llama");
    CHECK_REFUSED(decoder_of(nameless.with({{"architectures", "<drop>"}})), Code::invalid_argument, "architectures");
}

TEST_CASE("decoder: a tensor that is missing is named") {
    const TinyFolder whole("qwen3");
    int n = 0;
    for (const auto& entry : whole.tensors) {
        const std::string& name = entry.first;
        if (name.find("embed_tokens") != std::string::npos) continue;
        TinyFolder tiny("qwen3");
        tiny.tensors.erase(name);
        CHECK_REFUSED(decoder_of(tiny), Code::not_found, name);
        ++n;
    }
    CHECK(n == 2 * 11 + 1);
}

TEST_CASE("decoder: a tensor of another shape or type is named") {
    const TinyFolder whole("llama");
    for (const auto& entry : whole.tensors) {
        const std::string& name = entry.first;
        const bool padded = name == "lm_head.weight" || name == "model.embed_tokens.weight";
        TinyFolder tiny("llama");
        Tensor& tensor = tiny.tensors[name];
        const Tensor original = tensor;
        tensor = with_rows(original, original.shape[0] - 1);
        CHECK_REFUSED(decoder_of(tiny), Code::invalid_argument, name);
        tensor = with_rows(original, original.shape[0] + 1);
        if (padded)
            CHECK(decoder_of(tiny).spec.n_vocab == 96);
        else
            CHECK_REFUSED(decoder_of(tiny), Code::invalid_argument, name);
        if (original.shape.size() == 2) {
            tensor = reshaped(original, {original.shape[0], original.shape[1] + 2});
            CHECK_REFUSED(decoder_of(tiny), Code::invalid_argument, name);
            tensor = reshaped(original, {original.shape[0] * original.shape[1]});
            CHECK_REFUSED(decoder_of(tiny), Code::invalid_argument, name);
        }
        tensor = retyped(original, engine::StoredType::i32);
        CHECK_REFUSED(decoder_of(tiny), Code::invalid_argument, name, "I32");
    }
}

TEST_CASE("decoder: an activation that is not known is refused by its name") {
    for (const char* activation : {"mish", "gelu_10", "tanh"})
        CHECK_REFUSED(decoder_of(TinyFolder("llama").with({{"hidden_act", activation}})), Code::unimplemented,
                      "hidden_act", activation);
    CHECK(decoder_of(TinyFolder("llama").with({{"hidden_act", "swish"}})).linears.size() == 16);
    CHECK(decoder_of(TinyFolder("llama").with({{"hidden_act", "<drop>"}})).linears.size() == 16);
    CHECK_REFUSED(decoder_of(TinyFolder("llama").with({{"intermediate_size", "<drop>"}})), Code::invalid_argument,
                  "intermediate_size");
}

TEST_CASE("decoder: the tensors decide whether embedding and head are one") {
    const auto parts = [](const Decoder& d) {
        std::vector<std::string> modules;
        for (const auto& l : d.linears)
            if (l.layer < 0) modules.push_back(l.module);
        return modules;
    };
    using Parts = std::vector<std::string>;
    for (const bool says : {true, false}) {
        CAPTURE(says);
        TinyFolder tiny("llama");
        tiny.with({{"tie_word_embeddings", says}});
        Decoder d = decoder_of(tiny);
        CHECK_FALSE(d.tied);
        CHECK(parts(d) == Parts{"model.embed_tokens", "lm_head"});

        const Tensor head = tiny.tensors["lm_head.weight"];
        d = decoder_of(tiny.without({"lm_head.weight"}));
        CHECK(d.tied);
        CHECK(parts(d) == Parts{"model.embed_tokens"});

        CHECK_REFUSED(decoder_of(tiny.without({"model.embed_tokens.weight"})), Code::not_found,
                      "model.embed_tokens.weight", "lm_head");

        tiny.tensors["lm_head.weight"] = head;
        d = decoder_of(tiny);
        CHECK(d.tied);
        CHECK(parts(d) == Parts{"lm_head"});
    }
}

TEST_CASE("decoder: the number of parameters is that of the tensors, without padding rows") {
    for (const char* model : {"llama", "llama3_rope", "mistral", "qwen2", "qwen3"}) {
        CAPTURE(model);
        TinyFolder tiny(model);
        uint64_t values = 0;
        for (const auto& [name, tensor] : tiny.tensors) values += tensor.bytes.size() / sizeof(float);
        CHECK(decoder_of(tiny).n_params() == values);
        Tensor& embedding = tiny.tensors["model.embed_tokens.weight"];
        embedding = with_rows(embedding, 128);
        CHECK(decoder_of(tiny).n_params() == values);
    }
}

TEST_CASE("decoder: bits per weight count what the quantised matrices store") {
    const TinyFolder tiny("llama");
    const Decoder plain = decoder_of(tiny);
    CHECK(plain.bits_per_weight(false) == 0);
    CHECK(plain.bits_per_weight(true) == 0);
    CHECK(plain.largest_matrix_bytes() == 0);

    const SomeQuantised format({"model.layers.0.mlp.gate_proj", "model.layers.1.self_attn.q_proj", "lm_head"});
    const Decoder d = engine::read_decoder(tiny.open(), format);
    CHECK(d.bits_per_weight(false) == doctest::Approx(4 + 20 * 8.0 / (2 * 32 * 64)));
    CHECK(d.bits_per_weight(true) == doctest::Approx(4 + 10 * 8.0 / (32 * 96)));
    CHECK(d.largest_matrix_bytes() == 32 * 96 / 2 + 10);
    // Their plain twins are not read: the shapes are the format's, without a bias here.
    CHECK(d.n_params() == plain.n_params() - 64 - 64);
}

TEST_CASE("decoder: a norm of a head may be stored once for each head") {
    TinyFolder tiny("qwen3");
    const std::string name = "model.layers.0.self_attn.q_norm.weight";
    tiny.tensors[name] = make_tensor(engine::StoredType::f32, {4, 16}, std::vector<float>(64, 1.5f));
    CHECK(decoder_of(tiny).n_params() == decoder_of(TinyFolder("qwen3")).n_params());
    tiny.tensors[name] = make_tensor(engine::StoredType::f32, {4, 8}, std::vector<float>(32, 1.5f));
    CHECK_REFUSED(decoder_of(tiny), Code::invalid_argument, name);
}

}  // namespace quantplug::test
