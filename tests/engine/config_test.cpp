#include "engine/checkpoint/config.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "checkpoint_files.h"

using namespace quantplug::engine;
using namespace quantplug::test;

namespace {

constexpr const char* base = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128})";

/// The base with these keys set; a key set to the string "<drop>" is removed.
ModelConfig read(const std::string& changes = "{}", const std::string& generation = "{}") {
    Json document = parse_json(base, "config.json");
    document.update(parse_json(changes, "changes"));
    for (auto it = document.begin(); it != document.end();) it = *it == "<drop>" ? document.erase(it) : std::next(it);
    const Json other = parse_json(generation, "generation_config.json");
    return read_model_config(JsonObject(document, "config.json"), JsonObject(other, "generation_config.json"));
}

}  // namespace

TEST_CASE("config: what is missing stays missing") {
    const ModelConfig config = read();
    CHECK(config.architecture == "LlamaForCausalLM");
    CHECK(config.hidden_size == 64);
    CHECK(config.n_layers == 2);
    CHECK(config.n_kv_heads == 4);
    CHECK_FALSE(config.head_dim);
    CHECK_FALSE(config.norm_eps);
    CHECK_FALSE(config.rope.theta);
    CHECK(config.rope.type == "default");
    CHECK(config.max_positions == 2048);
    CHECK(config.rope.original_max_positions == 2048);
    CHECK_FALSE(config.sliding_window);
    CHECK_FALSE(config.sliding_window_off);
    CHECK_FALSE(config.tie_word_embeddings);
    CHECK(config.eos_ids.empty());
    CHECK_FALSE(config.bos_id);
    CHECK(config.activation.empty());
}

TEST_CASE("config: null is missing, but an explicit null switches the window off") {
    const ModelConfig config =
        read(R"({"num_key_value_heads": null, "head_dim": null, "rope_scaling": null, "sliding_window": null,
        "rope_theta": null, "eos_token_id": null, "tie_word_embeddings": null})");
    CHECK(config.n_kv_heads == 4);
    CHECK_FALSE(config.head_dim);
    CHECK(config.rope.type == "default");
    CHECK(config.sliding_window_off);
    CHECK(read(R"({"sliding_window": 0})").sliding_window_off);
    CHECK(read(R"({"sliding_window": 4096})").sliding_window == 4096);
    const ModelConfig qwen = read(R"({"sliding_window": 32768, "use_sliding_window": false, "max_window_layers": 21,
        "layer_types": ["full_attention", "sliding_attention"]})");
    CHECK(qwen.use_sliding_window == false);
    CHECK(qwen.max_window_layers == 21);
    CHECK(qwen.layer_types[1] == "sliding_attention");
}

TEST_CASE("config: rotary embeddings in every writer's form") {
    const ModelConfig llama3 =
        read(R"({"rope_theta": 500000.0, "max_position_embeddings": 131072, "rope_scaling": {"factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}})");
    CHECK(llama3.rope.type == "llama3");
    CHECK(llama3.rope.theta == 500000.0);
    CHECK(llama3.rope.factor == 8.0);
    CHECK(llama3.rope.low_freq_factor == 1.0);
    CHECK(llama3.rope.original_max_positions == 8192);

    const ModelConfig five =
        read(R"({"rope_parameters": {"rope_type": "linear", "type": "dynamic", "factor": 4, "rope_theta": 1e6,
        "partial_rotary_factor": 0.5}, "rope_theta": 7, "dtype": "bfloat16"})");
    CHECK(five.rope.type == "linear");
    CHECK(five.rope.theta == 1e6);
    CHECK(five.rope.partial_rotary_factor == 0.5);
    CHECK(five.dtype == "bfloat16");

    CHECK(read(R"({"rope_scaling": {}})").rope.type == "default");
    CHECK(read(R"({"rope_scaling": {"type": "yarn", "factor": 4}})").rope.type == "yarn");
    CHECK(read(R"({"rope_scaling": {"type": "su", "long_factor": [1, 2.5], "short_factor": [1, 1]}})").rope.type ==
          "longrope");
    CHECK(read(R"({"rope_scaling": {"type": "su", "long_factor": [1, 2.5], "short_factor": [1, 1]}})")
              .rope.long_factor[1] == 2.5);
    CHECK(read(R"({"architectures": ["Phi3ForCausalLM"], "rope_scaling": {"type": "yarn"}})").rope.type == "longrope");
    CHECK(read(R"({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}})").rope.mrope_section ==
          std::vector<int64_t>{16, 24, 24});
    // The top level's original length beats the dictionary's.
    CHECK(
        read(
            R"({"original_max_position_embeddings": 4096, "rope_scaling": {"type": "yarn", "original_max_position_embeddings": 64}})")
            .rope.original_max_positions == 4096);
    CHECK_FALSE(
        read(R"({"rope_scaling": {"type": "yarn"}, "max_position_embeddings": 512})").rope.has_original_max_positions);

    const ModelConfig layered =
        read(R"({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}})");
    CHECK(layered.rope.theta == 1e6);
    CHECK(layered.rope.type == "linear");
    CHECK(layered.rope_by_layer_type.at("sliding_attention").theta == 1e4);
}

TEST_CASE("config: nesting and synonyms") {
    const ModelConfig nested =
        read(R"({"architectures": ["LlavaForConditionalGeneration"], "hidden_size": 1, "text_config":
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2.0, "rms_norm_eps": 1e-5, "eos_token_id": 9,
        "vocab_size": null}})");
    CHECK(nested.hidden_size == 32);
    CHECK(nested.n_layers == 3);
    CHECK(nested.n_heads == 2);
    CHECK(nested.n_vocab == 128);
    CHECK(nested.norm_eps == 1e-5);
    CHECK(nested.eos_ids == std::vector<int64_t>{9});

    const ModelConfig gpt = read(R"({"hidden_size": "<drop>", "n_embd": 48, "num_hidden_layers": "<drop>", "n_layer": 5,
        "num_attention_heads": "<drop>", "n_head": 6, "intermediate_size": null, "layer_norm_epsilon": 1e-5, "n_positions": 1024,
        "multi_query": true, "activation_function": "gelu_new"})");
    CHECK(gpt.hidden_size == 48);
    CHECK(gpt.n_layers == 5);
    CHECK(gpt.n_kv_heads == 1);
    CHECK(gpt.intermediate_size == 0);
    CHECK(gpt.max_positions == 1024);
    CHECK(gpt.activation == "gelu_new");
    CHECK(read(R"({"multi_query": true, "new_decoder_architecture": true, "num_kv_heads": 2})").n_kv_heads == 2);
    CHECK(read(R"({"attn_config": {"kv_n_heads": 2, "rope_theta": 5e5}})").rope.theta == 5e5);
    CHECK(read(R"({"kv_channels": 128})").head_dim == 128);
    CHECK(read(R"({"rotary_dim": 8})").rope.partial_rotary_factor == 0.5);
}

TEST_CASE("config: stop ids are the union") {
    CHECK(read(R"({"eos_token_id": 2})", R"({"eos_token_id": [128001, 128009, 2]})").eos_ids ==
          std::vector<int64_t>{2, 128001, 128009});
    CHECK(read(R"({"eos_token_id": [5, -1], "bos_token_id": 1})").eos_ids == std::vector<int64_t>{5});
    CHECK(read(R"({"eos_token_id": 1e30})").eos_ids.empty());
    CHECK(read("{}", R"({"bos_token_id": 3, "pad_token_id": 0})").bos_id == 3);
    CHECK(read(R"({"bos_token_id": -1})").bos_id == std::nullopt);
}

TEST_CASE("config: huge contexts are read, absurd sizes refused with their key") {
    CHECK(read(R"({"max_position_embeddings": 1e30})").max_positions == int64_t{1} << 30);
    CHECK(read(R"({"sliding_window": 1e30})").sliding_window == int64_t{1} << 30);
    const auto refused = [](const char* changes, const char* key) {
        CHECK_REFUSED(read(changes), Code::invalid_argument, "config.json", key);
    };
    refused(R"({"num_hidden_layers": 10001})", "num_hidden_layers");
    refused(R"({"num_hidden_layers": 0})", "num_hidden_layers");
    refused(R"({"num_hidden_layers": -1})", "num_hidden_layers");
    refused(R"({"num_hidden_layers": 1e30})", "num_hidden_layers");
    refused(R"({"num_hidden_layers": 2.5})", "num_hidden_layers");
    refused(R"({"num_hidden_layers": "two"})", "num_hidden_layers");
    refused(R"({"num_hidden_layers": [2]})", "num_hidden_layers");
    refused(R"({"num_hidden_layers": null})", "num_hidden_layers");
    refused(R"({"hidden_size": 1048577})", "hidden_size");
    refused(R"({"hidden_size": 18446744073709551615})", "hidden_size");
    refused(R"({"num_attention_heads": 0})", "num_attention_heads");
    refused(R"({"num_key_value_heads": 0})", "num_key_value_heads");
    refused(R"({"num_key_value_heads": 3})", "multiple");
    refused(R"({"num_key_value_heads": 8})", "multiple");
    refused(R"({"head_dim": 0})", "head_dim");
    refused(R"({"head_dim": 100000})", "head_dim");
    refused(R"({"intermediate_size": 1e9})", "intermediate_size");
    refused(R"({"vocab_size": 0})", "vocab_size");
    refused(R"({"vocab_size": 100000000})", "vocab_size");
    refused(R"({"max_position_embeddings": 0})", "max_position_embeddings");
    refused(R"({"rms_norm_eps": 0})", "rms_norm_eps");
    refused(R"({"rms_norm_eps": 7})", "epsilon");
    refused(R"({"rope_theta": -1})", "rope_theta");
    refused(R"({"rope_scaling": {"type": "linear", "factor": 0}})", "rope_scaling.factor");
    refused(R"({"rope_scaling": {"type": "linear", "factor": "x"}})", "rope_scaling.factor");
    refused(R"({"rope_scaling": "linear"})", "rope_scaling");
    refused(R"({"rope_scaling": {"type": 7}})", "rope_scaling.type");
    refused(R"({"partial_rotary_factor": 1.5})", "partial_rotary_factor");
    refused(R"({"layer_types": ["full_attention"]})", "layer_types");
    refused(R"({"sliding_window": -4})", "sliding_window");
    refused(R"({"text_config": 7})", "text_config");
    refused(R"({"architectures": []})", "architectures");
    refused(R"({"architectures": [7]})", "architectures");
    refused(R"({"architectures": "<drop>"})", "architectures");
    refused(R"({"hidden_size": "<drop>"})", "hidden_size");
}

TEST_CASE("config: bit flips never crash") {
    const std::string good =
        R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 128, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "eos_token_id": [1, 2]})";
    for (size_t bit = 0; bit < good.size() * 8; ++bit) {
        std::string bad = good;
        bad[bit / 8] = char(bad[bit / 8] ^ (1 << (bit % 8)));
        const Outcome outcome = outcome_of([&] {
            const Json document = parse_json(bad, "config.json"), none = Json::object();
            read_model_config(JsonObject(document, "config.json"), JsonObject(none, "generation_config.json"));
        });
        CHECK((!outcome.code || outcome.mentions({"config.json"})));
    }
}
