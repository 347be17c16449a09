#include "engine/checkpoint/config.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"
#include "engine/checkpoint/folder.h"

namespace quantplug::engine {

namespace {

// Several times what the largest published models have.
constexpr int64_t max_layers = 10'000;
constexpr int64_t max_hidden = int64_t{1} << 20;
constexpr int64_t max_intermediate = int64_t{1} << 22;
constexpr int64_t max_heads = 1 << 16;
constexpr int64_t max_vocab = int64_t{1} << 24;
constexpr int64_t max_context = int64_t{1} << 30;
constexpr int64_t max_token_id = std::numeric_limits<int32_t>::max();

using Keys = std::initializer_list<std::string_view>;

}  // namespace

ConfigKeys::ConfigKeys(const JsonObject& config) {
    if (const auto text = config.object("text_config")) levels_.push_back(*text);
    levels_.push_back(config);
}

const JsonObject* ConfigKeys::level_of(std::string_view key) const {
    for (const JsonObject& level : levels_)
        if (level.has(key) || level.is_null(key)) return &level;
    return nullptr;
}

const JsonObject* ConfigKeys::value_of(std::string_view key) const {
    for (const JsonObject& level : levels_)
        if (level.has(key)) return &level;
    return nullptr;
}

bool ConfigKeys::is_null(std::string_view key) const {
    const JsonObject* level = level_of(key);
    return level && level->is_null(key);
}

namespace {

template <typename Get>
auto first(const ConfigKeys& keys, Keys names, Get get)
    -> decltype(get(std::declval<const JsonObject&>(), std::string_view())) {
    for (const std::string_view name : names)
        if (const JsonObject* level = keys.value_of(name)) return get(*level, name);
    return std::nullopt;
}

}  // namespace

std::optional<int64_t> ConfigKeys::integer(Keys keys) const {
    return first(*this, keys, [](const JsonObject& level, std::string_view key) { return level.integer(key); });
}
std::optional<double> ConfigKeys::number(Keys keys) const {
    return first(*this, keys, [](const JsonObject& level, std::string_view key) { return level.number(key); });
}
std::optional<bool> ConfigKeys::boolean(Keys keys) const {
    return first(*this, keys, [](const JsonObject& level, std::string_view key) { return level.boolean(key); });
}
std::optional<std::string> ConfigKeys::string(Keys keys) const {
    return first(*this, keys, [](const JsonObject& level, std::string_view key) { return level.string(key); });
}
std::optional<JsonObject> ConfigKeys::object(Keys keys) const {
    return first(*this, keys, [](const JsonObject& level, std::string_view key) { return level.object(key); });
}

namespace {

/// An integer under one of the synonyms, checked against a range; the message names the key that was found.
class Sizes {
 public:
    Sizes(const ConfigKeys& keys, const JsonObject& config) : keys_(keys), config_(config) {}

    std::optional<int64_t> find(Keys names, int64_t least, int64_t most) const {
        for (const std::string_view name : names) {
            const JsonObject* level = keys_.value_of(name);
            if (!level) continue;
            const int64_t value = *level->integer(name);
            if (value < least || value > most)
                fail(Code::invalid_argument, level->where(name), " is ", value, ", expected ", least, " to ", most);
            return value;
        }
        return std::nullopt;
    }
    int64_t need(Keys names, int64_t least, int64_t most, int64_t by_class) const {
        if (const auto value = find(names, least, most)) return *value;
        if (by_class > 0) return by_class;
        fail(Code::invalid_argument, config_.name(), " has no ", *names.begin(),
             ": it is not the configuration of a language model");
    }

 private:
    const ConfigKeys& keys_;
    const JsonObject& config_;
};

std::string rope_type(const JsonObject& rope, const std::string& architecture) {
    auto type = rope.string("rope_type");
    if (!type) type = rope.string("type");
    if (!type) return "default";
    // Phi-3 wrote "su", and at first "yarn", for what is longrope now.
    if (*type == "su" || (*type == "yarn" && architecture.starts_with("Phi3"))) return "longrope";
    return *type;
}

std::optional<double> positive(const JsonObject& object, std::string_view key) {
    const auto value = object.number(key);
    if (value && !(*value > 0))
        fail(Code::invalid_argument, object.where(key), " is ", *value, ", expected a positive number");
    return value;
}

std::optional<double> positive(const ConfigKeys& keys, Keys names) {
    return first(keys, names, [](const JsonObject& level, std::string_view key) { return positive(level, key); });
}

/// `rope` is the dictionary, or null where there is none.
RopeConfig read_rope(const ConfigKeys& keys, const JsonObject* rope, const ModelConfig& config) {
    RopeConfig out;
    out.max_positions = config.max_positions;
    const auto original = first(keys, {"original_max_position_embeddings"},
                                [](const JsonObject& level, std::string_view key) { return level.integer(key); });
    out.original_max_positions = config.max_positions;
    const auto set_original = [&](std::optional<int64_t> value, const std::string& where) {
        if (!value) return;
        if (*value < 1) fail(Code::invalid_argument, where, " is ", *value, ", expected a positive number");
        out.original_max_positions = std::min(*value, max_context);
        out.has_original_max_positions = true;
    };
    if (rope) {
        out.type = rope_type(*rope, config.architecture);
        out.theta = positive(*rope, "rope_theta");
        out.partial_rotary_factor = positive(*rope, "partial_rotary_factor");
        out.factor = positive(*rope, "factor");
        out.low_freq_factor = positive(*rope, "low_freq_factor");
        out.high_freq_factor = positive(*rope, "high_freq_factor");
        out.beta_fast = positive(*rope, "beta_fast");
        out.beta_slow = positive(*rope, "beta_slow");
        out.mscale = rope->number("mscale");
        out.mscale_all_dim = rope->number("mscale_all_dim");
        out.attention_factor = rope->number("attention_factor");
        out.alpha = rope->number("alpha");
        out.truncate = rope->boolean("truncate");
        out.short_factor = rope->numbers("short_factor");
        out.long_factor = rope->numbers("long_factor");
        out.mrope_section = rope->integers("mrope_section");
        set_original(rope->integer("original_max_position_embeddings"),
                     rope->where("original_max_position_embeddings"));
    }
    set_original(original, "config.json: original_max_position_embeddings");
    if (!out.theta) out.theta = positive(keys, {"rope_theta", "attn_config.rope_theta", "rotary_emb_base"});
    if (!out.partial_rotary_factor) {
        out.partial_rotary_factor = positive(keys, {"partial_rotary_factor", "rotary_pct", "rope_pct"});
        const auto rotary_dim = keys.integer({"rotary_dim"});
        if (!out.partial_rotary_factor && rotary_dim && *rotary_dim > 0)
            out.partial_rotary_factor =
                double(*rotary_dim) / double(config.head_dim.value_or(config.hidden_size / config.n_heads));
    }
    if (out.partial_rotary_factor && *out.partial_rotary_factor > 1)
        fail(Code::invalid_argument, "config.json: partial_rotary_factor is ", *out.partial_rotary_factor,
             ", expected at most 1");
    return out;
}

void read_ropes(const ConfigKeys& keys, ModelConfig& config) {
    const auto dictionary = keys.object({"rope_parameters", "rope_scaling"});
    if (!dictionary) {
        config.rope = read_rope(keys, nullptr, config);
        return;
    }
    // One dictionary per layer type: {"full_attention": {...}, "sliding_attention": {...}}.
    for (const auto& [type, value] : dictionary->value().items())
        if (value.is_object() &&
            (type == "full_attention" || type == "sliding_attention" || type == "chunked_attention")) {
            const JsonObject one = *dictionary->object(type);
            config.rope_by_layer_type[type] = read_rope(keys, &one, config);
        }
    const auto full = config.rope_by_layer_type.find("full_attention");
    config.rope = full != config.rope_by_layer_type.end() ? full->second : read_rope(keys, &*dictionary, config);
}

void read_window(const ConfigKeys& keys, const Sizes& sizes, ModelConfig& config) {
    config.sliding_window = sizes.find({"sliding_window"}, 0, std::numeric_limits<int64_t>::max());
    if (config.sliding_window) config.sliding_window = std::min(*config.sliding_window, max_context);
    config.sliding_window_off = keys.is_null("sliding_window") || config.sliding_window == 0;
    if (config.sliding_window_off) config.sliding_window.reset();
    config.use_sliding_window = keys.boolean({"use_sliding_window"});
    config.max_window_layers = sizes.find({"max_window_layers"}, 0, std::numeric_limits<int64_t>::max());
    // EXAONE 4 spells one period out: "LLLG".
    const JsonObject* pattern = keys.value_of("sliding_window_pattern");
    if (pattern && pattern->find("sliding_window_pattern")->is_string()) {
        const std::string letters = *pattern->string("sliding_window_pattern");
        if (letters.empty() || letters.find_first_not_of('L') != letters.size() - 1 || letters.back() != 'G')
            fail(Code::unimplemented, pattern->where("sliding_window_pattern"), " is \"", printable(letters),
                 "\", where a number or LLLG is read");
        config.sliding_window_pattern = int64_t(letters.size());
    } else {
        config.sliding_window_pattern = sizes.find({"sliding_window_pattern"}, 0, max_layers);
    }
    if (const JsonObject* level = keys.value_of("layer_types")) {
        config.layer_types = level->strings("layer_types");
        if (config.layer_types.size() != size_t(config.n_layers))
            fail(Code::invalid_argument, level->where("layer_types"), " has ", config.layer_types.size(),
                 " entries for ", config.n_layers, " layers");
    }
}

void read_special_ids(const ConfigKeys& keys, const JsonObject& generation, ModelConfig& config) {
    std::set<int64_t> eos;
    const auto add = [&](const JsonObject& object) {
        // -1 stands for "none" in some files.
        for (const int64_t id : object.integers("eos_token_id"))
            if (id >= 0 && id <= max_token_id) eos.insert(id);
    };
    add(generation);
    if (const JsonObject* level = keys.value_of("eos_token_id")) add(*level);
    config.eos_ids.assign(eos.begin(), eos.end());

    const auto single = [&](std::string_view key) -> std::optional<int64_t> {
        std::vector<int64_t> ids;
        if (const JsonObject* level = keys.value_of(key)) ids = level->integers(key);
        if (ids.empty()) ids = generation.integers(key);
        if (ids.empty() || ids.front() < 0 || ids.front() > max_token_id) return std::nullopt;
        return ids.front();
    };
    config.bos_id = single("bos_token_id");
    config.pad_id = single("pad_token_id");
}

int64_t read_kv_heads(const ConfigKeys& keys, const Sizes& sizes, int64_t n_heads, const ClassDefaults& defaults) {
    if (keys.boolean({"multi_query"}).value_or(defaults.multi_query) &&
        !keys.boolean({"new_decoder_architecture"}).value_or(false))
        return 1;
    const auto found =
        sizes.find({"num_key_value_heads", "attn_config.kv_n_heads", "num_kv_heads", "n_head_kv"}, 1, max_heads);
    if (found) return *found;
    if (keys.boolean({"multi_query_attention"}).value_or(true))
        if (const auto groups = sizes.find({"multi_query_group_num"}, 1, max_heads)) return *groups;
    return defaults.n_kv_heads > 0 ? defaults.n_kv_heads : n_heads;
}

}  // namespace

std::string architecture_name(const JsonObject& json) {
    auto names = json.strings("architectures");
    if (names.empty())
        if (const auto text = json.object("text_config")) names = text->strings("architectures");
    return names.empty() ? std::string() : names.front();
}

ModelConfig read_model_config(const JsonObject& json, const JsonObject& generation, const ClassDefaults& defaults) {
    const ConfigKeys keys(json);
    const Sizes sizes(keys, json);
    ModelConfig config;
    config.architecture = architecture_name(json);
    if (config.architecture.empty())
        fail(Code::invalid_argument, json.name(), " has no \"architectures\": it does not say which model this is");
    config.model_type = json.string("model_type").value_or("");

    config.n_layers =
        sizes.need({"num_hidden_layers", "n_layers", "n_layer", "num_layers"}, 1, max_layers, defaults.n_layers);
    config.hidden_size = sizes.need({"hidden_size", "d_model", "n_embd"}, 1, max_hidden, defaults.hidden_size);
    config.n_heads = sizes.need({"num_attention_heads", "n_heads", "n_head"}, 1, max_heads, defaults.n_heads);
    config.n_kv_heads = read_kv_heads(keys, sizes, config.n_heads, defaults);
    if (config.n_heads % config.n_kv_heads != 0)
        fail(Code::invalid_argument, json.name(), ": num_attention_heads is ", config.n_heads,
             ", no multiple of the number of key/value heads, ", config.n_kv_heads);
    config.head_dim = sizes.find({"head_dim", "kv_channels"}, 1, 1 << 16);
    config.intermediate_size =
        sizes
            .find({"intermediate_size", "ffn_config.ffn_hidden_size", "n_inner", "ffn_dim", "ffn_hidden_size"}, 1,
                  max_intermediate)
            .value_or(defaults.intermediate_size);
    config.n_vocab = sizes.need({"vocab_size", "padded_vocab_size"}, 1, max_vocab, defaults.n_vocab);
    const auto positions = sizes.find({"max_position_embeddings", "max_sequence_length", "model_max_length",
                                       "max_seq_len", "n_positions", "seq_length"},
                                      1, std::numeric_limits<int64_t>::max());
    if (positions) config.max_positions = std::min(*positions, max_context);
    config.norm_eps = positive(keys, {"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon",
                                      "norm_eps", "layernorm_epsilon"});
    if (config.norm_eps && *config.norm_eps > 1)
        fail(Code::invalid_argument, json.name(), ": the norms' epsilon is ", *config.norm_eps, ", expected at most 1");

    read_ropes(keys, config);
    read_window(keys, sizes, config);
    config.tie_word_embeddings = keys.boolean({"tie_word_embeddings"});
    config.attention_bias = keys.boolean({"attention_bias"});
    config.mlp_bias = keys.boolean({"mlp_bias"});
    config.activation =
        keys.string({"hidden_activation", "hidden_act", "activation_function", "activation"}).value_or("");
    config.dtype = keys.string({"dtype", "torch_dtype"}).value_or("");
    read_special_ids(keys, generation, config);
    return config;
}

ModelConfig read_model_config(const ModelFolder& folder, const ClassDefaults& defaults) {
    if (!folder.has_config())
        fail(Code::not_found, folder.name(), " has no config.json: it is no complete model folder");
    return read_model_config(folder.config(), folder.generation_config(), defaults);
}

}  // namespace quantplug::engine
