// JSON of chat requests, where the order of keys counts: the schemas of tools are printed as they were given.
#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace quantplug::engine {

using OrderedJson = nlohmann::ordered_json;

inline constexpr size_t max_chat_bytes = size_t{64} << 20;
inline constexpr int max_chat_depth = 64;

/// An object. Escapes of lone surrogates are read as U+FFFD; of equal keys the last value wins; a number beyond 64 bits
/// is a float. invalid_argument with `what`: no JSON, no object, nested deeper than max_chat_depth. resource_exhausted:
/// larger than max_chat_bytes.
OrderedJson parse_chat_object(std::string_view text, std::string_view what);

/// The JSON value that begins at text[begin], and where it ends; nothing where it is damaged.
struct JsonPiece {
    std::string_view text;
    size_t end = 0;
};
std::optional<JsonPiece> find_json(std::string_view text, size_t begin);
/// Of a model's text: nothing where it is no JSON.
std::optional<OrderedJson> try_parse_json(std::string_view text);

}  // namespace quantplug::engine
