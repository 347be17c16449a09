// config.json and generation_config.json as facts, with the synonyms and nestings of the writers resolved. Whether an
// architecture is supported, and the defaults of its class, are the model table's business: what is missing is empty
// here.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/json.h"

namespace quantplug::engine {

class ModelFolder;

struct RopeConfig {
    std::string type = "default";  // default, linear, dynamic, llama3, yarn, longrope, mrope, else as in the file
    std::optional<double> theta, partial_rotary_factor;
    std::optional<double> factor, low_freq_factor, high_freq_factor;
    std::optional<double> beta_fast, beta_slow, mscale, mscale_all_dim, attention_factor, alpha;
    std::optional<bool> truncate;
    /// The top level's original_max_position_embeddings, else the dictionary's, else max_position_embeddings.
    int64_t original_max_positions = 0;
    bool has_original_max_positions = false;  // false: the last of the three
    int64_t max_positions = 0;                // the model's context
    std::vector<double> short_factor, long_factor;
    std::vector<int64_t> mrope_section;
};

/// What a class has where the configuration says nothing; 0: nothing either.
struct ClassDefaults {
    int64_t hidden_size = 0, intermediate_size = 0, n_layers = 0, n_heads = 0, n_kv_heads = 0, n_vocab = 0;
    bool multi_query = false;  // one key/value head
};

struct ModelConfig {
    std::string architecture;  // architectures[0]
    std::string model_type;    // "llama"; may be empty

    int64_t hidden_size = 0, intermediate_size = 0;  // intermediate_size 0: missing
    int64_t n_layers = 0, n_heads = 0, n_kv_heads = 0, n_vocab = 0;
    std::optional<int64_t> head_dim;  // missing: the class's default, else hidden_size / n_heads
    int64_t max_positions = 2048;     // more than 2^30 is read as 2^30
    std::optional<double> norm_eps;

    RopeConfig rope;  // of full-attention layers where `rope_by_layer_type` is filled
    std::map<std::string, RopeConfig> rope_by_layer_type;  // "full_attention", "sliding_attention"

    std::optional<int64_t> sliding_window;
    bool sliding_window_off = false;  // an explicit null, or 0: beats the class's default
    std::optional<bool> use_sliding_window;
    std::optional<int64_t> max_window_layers, sliding_window_pattern;
    std::vector<std::string> layer_types;  // empty, or one per layer

    std::optional<bool> tie_word_embeddings, attention_bias, mlp_bias;
    std::string activation;  // "silu"; empty: missing
    std::string dtype;       // "float16"; empty: missing

    std::vector<int64_t> eos_ids;  // generation_config's and config's, ascending
    std::optional<int64_t> bos_id, pad_id;
};

/// A configuration with `text_config`: looks there first, then at the top.
class ConfigKeys {
 public:
    explicit ConfigKeys(const JsonObject& config);

    /// The first of the synonyms that is there and not null.
    std::optional<int64_t> integer(std::initializer_list<std::string_view> keys) const;
    std::optional<double> number(std::initializer_list<std::string_view> keys) const;
    std::optional<bool> boolean(std::initializer_list<std::string_view> keys) const;
    std::optional<std::string> string(std::initializer_list<std::string_view> keys) const;
    std::optional<JsonObject> object(std::initializer_list<std::string_view> keys) const;
    /// The level that has the key, null included.
    const JsonObject* level_of(std::string_view key) const;
    /// The level whose value is used: the first where the key is neither missing nor null.
    const JsonObject* value_of(std::string_view key) const;
    /// The innermost level that has the key says null.
    bool is_null(std::string_view key) const;

 private:
    std::vector<JsonObject> levels_;
};

/// Reads and checks; numbers that no model has (no heads, 2^20 hidden values, 10,000 layers) are refused with the key's
/// name.
ModelConfig read_model_config(const JsonObject& config, const JsonObject& generation_config,
                              const ClassDefaults& defaults = {});
ModelConfig read_model_config(const ModelFolder& folder, const ClassDefaults& defaults = {});
/// architectures[0], at the top or in text_config; empty where there is none.
std::string architecture_name(const JsonObject& config);

}  // namespace quantplug::engine
