#include "engine/tokenizer/json_fields.h"

#include "engine/checkpoint/file.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {

using nlohmann::json;

namespace {

const json& field(const json& object, const char* key, std::string_view name) {
    const auto it = object.find(key);
    if (it == object.end()) {
        const auto type = object.find("type");
        fail(Code::invalid_argument, name, ": key '", key, "' is missing in ",
             type != object.end() && type->is_string() ? in_quotes(type->get_ref<const std::string&>()) : "an object");
    }
    return *it;
}

}  // namespace

std::string in_quotes(std::string_view text) { return concat("'", printable(text, 60), "'"); }

std::string type_of(const json& object, std::string_view name, std::string_view role) {
    if (!object.is_object()) fail(Code::invalid_argument, name, ": a ", role, " is no object");
    const auto it = object.find("type");
    if (it == object.end() || !it->is_string()) fail(Code::invalid_argument, name, ": a ", role, " has no 'type'");
    return printable(it->get_ref<const std::string&>(), 60);
}

std::string string_field(const json& object, const char* key, std::string_view name) {
    const json& value = field(object, key, name);
    if (!value.is_string()) fail(Code::invalid_argument, name, ": key '", key, "' is no string");
    return value.get<std::string>();
}

bool bool_field(const json& object, const char* key, bool missing, std::string_view name) {
    const auto it = object.find(key);
    if (it == object.end() || it->is_null()) return missing;
    if (!it->is_boolean()) fail(Code::invalid_argument, name, ": key '", key, "' is neither true nor false");
    return it->get<bool>();
}

int32_t int_field(const json& object, const char* key, std::string_view name) {
    const json& value = field(object, key, name);
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX)
        fail(Code::invalid_argument, name, ": key '", key, "' is no number from 0 to ", INT32_MAX);
    return static_cast<int32_t>(value.get<uint64_t>());
}

std::string char_field(const json& object, const char* key, std::string_view name) {
    std::string text = string_field(object, key, name);
    if (text.empty() || utf8_at(text, 0).length != text.size())
        fail(Code::invalid_argument, name, ": key '", key, "' is not one character");
    return text;
}

Regex pattern_field(const json& object, std::string_view name) {
    const json& pattern = field(object, "pattern", name);
    if (pattern.is_object() && pattern.contains("String")) return Regex::literal(string_field(pattern, "String", name));
    if (pattern.is_object() && pattern.contains("Regex"))
        return Regex::compile(string_field(pattern, "Regex", name), name);
    fail(Code::invalid_argument, name, ": a 'pattern' is neither {\"String\": ...} nor {\"Regex\": ...}");
}

std::vector<const json*> flatten_sequence(const json& object, const char* list_key, std::string_view name,
                                          std::string_view role) {
    constexpr size_t limit = 64;
    std::vector<const json*> parts;
    std::vector<const json*> open{&object};  // a stack, the next part last
    while (!open.empty()) {
        const json* top = open.back();
        open.pop_back();
        if (type_of(*top, name, role) != "Sequence") {
            parts.push_back(top);
        } else {
            const json& list = field(*top, list_key, name);
            if (!list.is_array()) fail(Code::invalid_argument, name, ": key '", list_key, "' is no list");
            for (size_t i = list.size(); i-- > 0 && open.size() <= limit;) open.push_back(&list[i]);
        }
        if (parts.size() + open.size() > limit)
            fail(Code::invalid_argument, name, ": a ", role, " has more than ", limit, " parts");
    }
    return parts;
}

}  // namespace quantplug::engine
