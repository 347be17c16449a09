// Fields of the small objects of a tokenizer.json, with errors that name the file, the object and the key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/tokenizer/regex.h"

namespace quantplug::engine {

/// "type" of an object; `role` ("normalizer", ...) stands in the error.
std::string type_of(const nlohmann::json& json, std::string_view name, std::string_view role);

std::string string_field(const nlohmann::json& json, const char* key, std::string_view name);
bool bool_field(const nlohmann::json& json, const char* key, bool missing, std::string_view name);
/// 0 .. INT32_MAX.
int32_t int_field(const nlohmann::json& json, const char* key, std::string_view name);
/// A string of exactly one character.
std::string char_field(const nlohmann::json& json, const char* key, std::string_view name);
/// "pattern": {"String": ...} or {"Regex": ...}.
Regex pattern_field(const nlohmann::json& json, std::string_view name);

/// The parts of nested Sequence objects in order, `list_key` holding each one's list; any other object is its own part.
/// At most 64 parts.
std::vector<const nlohmann::json*> flatten_sequence(const nlohmann::json& json, const char* list_key,
                                                    std::string_view name, std::string_view role);

/// `text`, at most 60 bytes of it and printable, in quotes: for errors.
std::string in_quotes(std::string_view text);

inline constexpr int json_depth_limit = 64;

}  // namespace quantplug::engine
