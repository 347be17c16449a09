#include "engine/checkpoint/json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/checkpoint/file.h"

namespace quantplug::engine {

namespace {

/// Checks the depth and replaces the literals NaN, Infinity and -Infinity (Python's json writes them) by null, outside
/// strings.
std::string prepare(std::string_view text, const std::string& name, int max_depth) {
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    std::string out;
    size_t copied = 0;
    int depth = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '"') {
            for (++i; i < text.size() && text[i] != '"'; ++i)
                if (text[i] == '\\') ++i;
        } else if (c == '[' || c == '{') {
            if (++depth > max_depth)
                fail(Code::invalid_argument, name, " is nested deeper than ", max_depth, " levels (byte ", i, ")");
        } else if (c == ']' || c == '}') {
            --depth;
        } else if (c == 'N' || c == 'I' || c == '-') {
            for (const std::string_view literal : {"NaN", "Infinity", "-Infinity"}) {
                if (!text.substr(i).starts_with(literal)) continue;
                out.append(text.substr(copied, i - copied)).append("null");
                i += literal.size() - 1;
                copied = i + 1;
                break;
            }
        }
    }
    out.append(text.substr(std::min(copied, text.size())));
    return out;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& name, const JsonLimits& limits) {
    if (text.size() > limits.max_bytes)
        fail(Code::resource_exhausted, name, " has ", text.size(), " bytes, more than the ", limits.max_bytes,
             " that such a file may have");
    const std::string clean = prepare(text, name, limits.max_depth);
    try {
        return Json::parse(clean);
    } catch (const Json::parse_error& error) {
        fail(Code::invalid_argument, name, " is not valid JSON near byte ", error.byte, ": it is damaged or truncated");
    } catch (const Json::exception&) {
        fail(Code::invalid_argument, name, " is not valid JSON: a number in it is out of range");
    }
}

Json read_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
    return parse_json(read_text_file(path, limits.max_bytes), path.string(), limits);
}

JsonObject::JsonObject(const Json& value, std::string name, std::string path)
    : value_(&value), name_(std::move(name)), path_(std::move(path)) {
    if (!value.is_object())
        fail(Code::invalid_argument, name_, path_.empty() ? "" : ": ", path_, " is not a JSON object");
}

const Json* JsonObject::lookup(std::string_view key) const {
    const Json* value = value_;
    while (true) {
        const size_t dot = key.find('.');
        const auto found = value->find(std::string(key.substr(0, dot)));
        if (found == value->end()) return nullptr;
        value = &*found;
        if (dot == std::string_view::npos) return value;
        if (!value->is_object()) return nullptr;
        key.remove_prefix(dot + 1);
    }
}

const Json* JsonObject::find(std::string_view key) const {
    const Json* value = lookup(key);
    return value && !value->is_null() ? value : nullptr;
}

bool JsonObject::is_null(std::string_view key) const {
    const Json* value = lookup(key);
    return value && value->is_null();
}

std::string JsonObject::where(std::string_view key) const {
    return concat(name_, ": ", path_, path_.empty() ? "" : ".", printable(key));
}

namespace {

[[noreturn]] void wrong_type(const JsonObject& object, std::string_view key, const char* expected, const Json& found) {
    fail(Code::invalid_argument, object.where(key), " must be ", expected, ", found ", found.type_name(),
         found.is_primitive() ? " " : "",
         found.is_primitive() ? printable(found.dump(-1, ' ', true, Json::error_handler_t::replace), 40)
                              : std::string());
}

/// No double at or beyond 2^63 is cast.
int64_t saturated(double value) {
    if (value >= 0x1p63) return std::numeric_limits<int64_t>::max();
    if (value < -0x1p63) return std::numeric_limits<int64_t>::min();
    return int64_t(value);
}

std::optional<int64_t> as_integer(const Json& value) {
    if (value.is_number_unsigned()) {
        constexpr uint64_t largest = uint64_t(std::numeric_limits<int64_t>::max());
        return int64_t(std::min(value.get<uint64_t>(), largest));
    }
    if (value.is_number_integer()) return value.get<int64_t>();
    if (!value.is_number_float()) return std::nullopt;
    const double number = value.get<double>();
    if (std::isnan(number) || std::trunc(number) != number) return std::nullopt;
    return saturated(number);
}

std::optional<double> as_number(const Json& value) {
    if (!value.is_number()) return std::nullopt;
    const double number = value.get<double>();
    if (!std::isfinite(number)) return std::nullopt;
    return number;
}

template <typename T, typename Convert>
std::vector<T> as_list(const JsonObject& object, std::string_view key, const char* expected, Convert convert) {
    std::vector<T> values;
    const Json* value = object.find(key);
    if (!value) return values;
    const auto add = [&](const Json& item) {
        if (item.is_null()) return;
        std::optional<T> converted = convert(item);
        if (!converted) wrong_type(object, key, expected, item);
        values.push_back(std::move(*converted));
    };
    if (value->is_array())
        for (const Json& item : *value) add(item);
    else
        add(*value);
    return values;
}

}  // namespace

std::optional<int64_t> JsonObject::integer(std::string_view key) const {
    const Json* value = find(key);
    if (!value) return std::nullopt;
    const auto converted = as_integer(*value);
    if (!converted) wrong_type(*this, key, "an integer", *value);
    return converted;
}

std::optional<double> JsonObject::number(std::string_view key) const {
    const Json* value = find(key);
    if (!value) return std::nullopt;
    const auto converted = as_number(*value);
    if (!converted) wrong_type(*this, key, "a finite number", *value);
    return converted;
}

std::optional<bool> JsonObject::boolean(std::string_view key) const {
    const Json* value = find(key);
    if (!value) return std::nullopt;
    if (value->is_boolean()) return value->get<bool>();
    const auto number = as_integer(*value);
    if (!number || (*number != 0 && *number != 1)) wrong_type(*this, key, "true or false", *value);
    return *number == 1;
}

std::optional<std::string> JsonObject::string(std::string_view key) const {
    const Json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_string()) wrong_type(*this, key, "a string", *value);
    return value->get<std::string>();
}

std::optional<JsonObject> JsonObject::object(std::string_view key) const {
    const Json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_object()) wrong_type(*this, key, "an object", *value);
    return JsonObject(*value, name_, concat(path_, path_.empty() ? "" : ".", key));
}

std::vector<int64_t> JsonObject::integers(std::string_view key) const {
    return as_list<int64_t>(*this, key, "an integer or a list of integers", as_integer);
}

std::vector<double> JsonObject::numbers(std::string_view key) const {
    return as_list<double>(*this, key, "a number or a list of numbers", as_number);
}

std::vector<std::string> JsonObject::strings(std::string_view key) const {
    return as_list<std::string>(*this, key, "a string or a list of strings", [](const Json& item) {
        return item.is_string() ? std::optional(item.get<std::string>()) : std::nullopt;
    });
}

}  // namespace quantplug::engine
