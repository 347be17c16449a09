// JSON as found beside checkpoints: written by many tools, partly wrong, and not to be trusted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine {

using Json = nlohmann::json;

struct JsonLimits {
    uint64_t max_bytes = uint64_t{16} << 20;
    int max_depth = 64;
};

/// Parses a document. A UTF-8 BOM is skipped; the literals NaN, Infinity and -Infinity are read as null; of equal keys
/// the last wins. `name` is the file's name for messages. invalid_argument where it is no JSON or nested deeper than
/// the limit, resource_exhausted where it is too large.
Json parse_json(std::string_view text, const std::string& name, const JsonLimits& limits = {});
Json read_json_file(const std::filesystem::path& path, const JsonLimits& limits = {});

/// An object of a parsed document with getters that treat null as missing. Borrows the document. `key` may be a path
/// with dots ("attn_config.kv_n_heads"). A value of another type is an error that names file and key.
class JsonObject {
 public:
    /// `value` is an object of the document called `name`; `path` is where in it ("", "text_config").
    JsonObject(const Json& value, std::string name, std::string path = "");

    const Json& value() const { return *value_; }
    const std::string& name() const { return name_; }

    /// The value, or null where the key is missing or null.
    const Json* find(std::string_view key) const;
    bool has(std::string_view key) const { return find(key) != nullptr; }
    /// The key is there and its value is null ("off", where missing would mean a default).
    bool is_null(std::string_view key) const;

    /// Integral floats count. Numbers beyond int64 (model_max_length is 1e30 in most files) are its largest or smallest
    /// value.
    std::optional<int64_t> integer(std::string_view key) const;
    /// Finite.
    std::optional<double> number(std::string_view key) const;
    std::optional<bool> boolean(std::string_view key) const;
    std::optional<std::string> string(std::string_view key) const;
    std::optional<JsonObject> object(std::string_view key) const;
    /// One integer or a list of them; nulls in a list are left out. Empty where missing.
    std::vector<int64_t> integers(std::string_view key) const;
    std::vector<double> numbers(std::string_view key) const;
    std::vector<std::string> strings(std::string_view key) const;

    /// "config.json: rope_scaling.factor", for messages.
    std::string where(std::string_view key) const;

 private:
    const Json* lookup(std::string_view key) const;

    const Json* value_;
    std::string name_, path_;
};

}  // namespace quantplug::engine
