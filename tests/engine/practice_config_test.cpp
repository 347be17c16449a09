// config.json and its neighbours as people have them, one test a line; named after it.
#include <doctest/doctest.h>

#include <limits>

#include "checkpoint_files.h"
#include "engine/chat/chat_templates.h"
#include "engine/model/decoder.h"
#include "engine/model/model.h"
#include "engine/tokenizer/tokenizer.h"
#include "tiny_folders.h"

namespace quantplug::test {

using engine::Code;
using engine::Decoder;

namespace {

Decoder decoder_of(const TinyFolder& tiny) { return engine::read_decoder(tiny.open(), PlainFormat()); }

void put(const std::filesystem::path& path, const std::string& text) { write_file(path, text); }

bool same_ropes(const Decoder& a, const Decoder& b) {
    if (a.spec.ropes.size() != b.spec.ropes.size()) return false;
    for (size_t i = 0; i < a.spec.ropes.size(); ++i) {
        const kernels::RopeSpec &x = a.spec.ropes[i], &y = b.spec.ropes[i];
        if (x.inv_freq != y.inv_freq || x.long_inv_freq != y.long_inv_freq || x.scale != y.scale ||
            x.length_limit != y.length_limit)
            return false;
    }
    return true;
}

}  // namespace

TEST_CASE("practice: rope_parameters of transformers 5 and rope_theta beside rope_scaling, with type or rope_type") {
    const std::vector<json> kinds = {{{"factor", 4.0}, {"kind", "linear"}},
                                     {{"factor", 4.0}, {"kind", "dynamic"}},
                                     {{"factor", 8.0},
                                      {"low_freq_factor", 1.0},
                                      {"high_freq_factor", 4.0},
                                      {"original_max_position_embeddings", 64},
                                      {"kind", "llama3"}},
                                     {{"factor", 4.0}, {"original_max_position_embeddings", 64}, {"kind", "yarn"}},
                                     {{"short_factor", {1, 1, 1, 1, 2, 2, 2, 2}},
                                      {"long_factor", {1, 2, 3, 4, 5, 6, 7, 8}},
                                      {"original_max_position_embeddings", 64},
                                      {"kind", "longrope"}},
                                     {{"mrope_section", {2, 3, 3}}, {"kind", "mrope"}}};
    const Decoder plain = decoder_of(TinyFolder("llama"));
    for (const json& kind : kinds) {
        json body = kind;
        body.erase("kind");
        const std::string name = kind["kind"];
        CAPTURE(name);
        const auto written = [&](const char* type_key, bool five) {
            json rope = body;
            rope[type_key] = name;
            TinyFolder tiny("llama");
            tiny.with({{"rope_parameters", "<drop>"}, {"rope_theta", "<drop>"}});
            if (five) {
                rope["rope_theta"] = 500.0;
                tiny.with({{"rope_parameters", rope}, {"dtype", "float32"}, {"torch_dtype", "<drop>"}});
            } else {
                tiny.with(
                    {{"rope_scaling", rope}, {"rope_theta", 500.0}, {"torch_dtype", "float32"}, {"dtype", "<drop>"}});
            }
            return decoder_of(tiny);
        };
        const Decoder five = written("rope_type", true);
        CHECK(five.config.dtype == "float32");
        CHECK(same_ropes(five, written("type", true)));
        CHECK(same_ropes(five, written("rope_type", false)));
        CHECK(same_ropes(five, written("type", false)));
        CHECK(same_ropes(five, plain) == (name == "mrope"));
    }
    TinyFolder unread("llama");
    CHECK_REFUSED(decoder_of(unread.with({{"rope_parameters", {{"rope_type", "axial"}}}})), Code::unimplemented,
                  "axial");
}

TEST_CASE("practice: nested text_config") {
    TinyFolder tiny("mistral");
    const Decoder flat = decoder_of(tiny);
    json text = tiny.config;
    text.erase("architectures");
    text["model_type"] = "mistral";
    tiny.config = {{"architectures", {"LlavaForConditionalGeneration"}},
                   {"model_type", "llava"},
                   {"text_config", text},
                   {"hidden_size", 7},
                   {"vision_config", {{"hidden_size", 8}}}};
    const Decoder nested = decoder_of(tiny);
    CHECK(nested.spec.hidden_size == flat.spec.hidden_size);
    CHECK(nested.linears.size() == flat.linears.size());
    CHECK(same_ropes(nested, flat));
    CHECK(nested.spec.layers[1].window == 8);
    tiny.config["text_config"]["model_type"] = "mamba";
    CHECK_REFUSED(decoder_of(tiny), Code::unimplemented, "text_config.model_type", "mamba");
}

TEST_CASE(
    "practice: an explicit head_dim that is not hidden/heads; no num_key_value_heads; use_sliding_window; "
    "layer_types") {
    CHECK(decoder_of(TinyFolder("mistral")).spec.head_dim == 16);  // 32 / 4 is 8
    TinyFolder multi("gpt_neox");
    CHECK_FALSE(multi.config.contains("num_key_value_heads"));
    CHECK(decoder_of(multi).spec.n_kv_heads == 4);
    TinyFolder qwen("qwen2");
    const auto windows = [&](const json& changes) {
        std::vector<int32_t> out;
        for (const auto& layer : decoder_of(qwen.with(changes)).spec.layers) out.push_back(layer.window);
        return out;
    };
    using W = std::vector<int32_t>;
    CHECK(windows({{"sliding_window", 8}, {"use_sliding_window", false}, {"layer_types", "<drop>"}}) == W{0, 0});
    CHECK(windows({{"use_sliding_window", true}, {"max_window_layers", 1}}) == W{0, 8});
    CHECK(windows({{"layer_types", {"sliding_attention", "full_attention"}}}) == W{8, 0});
}

TEST_CASE("practice: nulls everywhere") {
    TinyFolder tiny("llama");
    const Decoder expected = decoder_of(tiny);
    for (const char* key : {"rope_scaling", "rope_theta", "sliding_window", "layer_types", "kv_channels", "torch_dtype",
                            "num_experts", "text_config", "quantization_config", "pretraining_tp", "eos_token_id",
                            "max_window_layers", "use_sliding_window", "sliding_window_pattern",
                            "partial_rotary_factor", "attn_logit_softcapping", "tie_word_embeddings", "hidden_act"})
        tiny.config[key] = nullptr;
    const Decoder d = decoder_of(tiny);
    CHECK(d.linears.size() == expected.linears.size());
    CHECK(same_ropes(d, expected));
    tiny.generation = {{"eos_token_id", nullptr}, {"temperature", nullptr}};
    CHECK(decoder_of(tiny).config.eos_ids.empty());
}

TEST_CASE("practice: numbers that are no int64, NaN and Infinity, a UTF-8 BOM") {
    const TinyFolder tiny("llama");
    tiny.open();
    const TempDir dir;
    std::filesystem::copy_file(data_dir() / "tiny/llama/model.safetensors", dir.path() / "model.safetensors");
    json config = tiny.config;
    config["max_position_embeddings"] = 1e30;
    std::string text = config.dump();
    text.insert(text.size() - 1, R"(, "initializer_range": NaN, "rope_scaling": null, "aux": [Infinity, -Infinity])");
    put(dir.path() / "config.json", "\xEF\xBB\xBF" + text);
    put(dir.path() / "tokenizer_config.json",
        R"({"model_max_length": 1000000000000000019884624838656, "pad_token": null})");
    const auto folder = engine::ModelFolder::open(dir.path());
    CHECK(folder.tokenizer_config().integer("model_max_length") == std::numeric_limits<int64_t>::max());
    CHECK(engine::read_decoder(folder, PlainFormat()).spec.max_positions > 0);
}

TEST_CASE(
    "practice: stop ids are the union of config.json, generation_config.json, the tokenizer's and the template's end "
    "of turn") {
    TinyFolder tiny("llama");
    tiny.with({{"eos_token_id", 9}});
    tiny.generation = {{"eos_token_id", {7, 8}}};
    tiny.tokenizer_config = {{"eos_token", "</s>"}};
    json& vocab = tiny.tokenizer["model"]["vocab"];
    int id = 30;
    for (const char* name : {"<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"}) {
        std::string old;
        for (const auto& [token, number] : vocab.items())
            if (number == id) old = token;
        vocab.erase(old);
        vocab[name] = id;
        tiny.tokenizer["added_tokens"].push_back({{"id", id++},
                                                  {"content", name},
                                                  {"single_word", false},
                                                  {"lstrip", false},
                                                  {"rstrip", false},
                                                  {"normalized", false},
                                                  {"special", true}});
    }
    const auto folder = tiny.open();
    const auto tokenizer = engine::load_tokenizer(folder.path());
    CHECK(engine::find_stop_ids(engine::read_model_config(folder), *tokenizer) ==
          std::vector<int32_t>{2, 7, 8, 9, 30, 31, 32, 33});
    tiny.generation = {{"eos_token_id", 7}};
    const auto one = tiny.open();
    CHECK(engine::read_model_config(one).eos_ids == std::vector<int64_t>{7, 9});
}

TEST_CASE("practice: chat_template.jinja, then tokenizer_config.json's string or list, then chat_template.json") {
    const TempDir dir;
    const auto source = [&] { return engine::load_chat_templates(dir.path()).find("default")->source; };
    put(dir.path() / "chat_template.json", R"({"chat_template": "from json"})");
    CHECK(source() == "from json");
    put(dir.path() / "tokenizer_config.json", R"({"chat_template": "from config"})");
    CHECK(source() == "from config");
    put(dir.path() / "tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "of a list"}, {"name": "rag", "template": "r"}]})");
    CHECK(source() == "of a list");
    put(dir.path() / "chat_template.jinja", "from jinja");
    CHECK(source() == "from jinja");
}

}  // namespace quantplug::test
