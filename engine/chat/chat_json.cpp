#include "engine/chat/chat_json.h"

#include <nlohmann/json.hpp>

#include "engine/base/error.h"

namespace quantplug::engine {
namespace {

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

/// The value of \uXXXX at text[at]; -1: there is none.
int32_t escaped_unit(std::string_view text, size_t at) {
    if (at + 6 > text.size() || text[at] != '\\' || text[at + 1] != 'u') return -1;
    int32_t out = 0;
    for (size_t i = at + 2; i < at + 6; ++i) {
        if (!is_hex(text[i])) return -1;
        const auto c = static_cast<char>(text[i] | 0x20);
        out = out * 16 + (c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return out;
}

/// A copy in which escapes of surrogates without their other half say U+FFFD. False: nested too deeply.
bool prepare(std::string_view text, std::string& out) {
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    out.reserve(text.size());
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (!in_string) {
            if ((c == '[' || c == '{') && ++depth > max_chat_depth) return false;
            if (c == ']' || c == '}') --depth;
            in_string = c == '"';
            out += c;
            continue;
        }
        if (c == '"') in_string = false;
        if (c != '\\' || i + 1 >= text.size()) {
            out += c;
            continue;
        }
        const int32_t unit = escaped_unit(text, i);
        if (unit >= 0xD800 && unit < 0xDC00) {
            const int32_t low = escaped_unit(text, i + 6);
            if (low >= 0xDC00 && low < 0xE000) {
                out.append(text.substr(i, 12));
                i += 11;
                continue;
            }
        }
        if (unit >= 0xD800 && unit < 0xE000) {
            out += "\\ufffd";
            i += 5;
            continue;
        }
        out.append(text.substr(i, 2));
        ++i;
    }
    return true;
}

}  // namespace

OrderedJson parse_chat_object(std::string_view text, std::string_view what) {
    if (text.size() > max_chat_bytes)
        fail(Code::resource_exhausted, what, " has ", text.size(), " bytes, more than the ", max_chat_bytes,
             " that are read");
    std::string clean;
    if (!prepare(text, clean)) fail(Code::invalid_argument, what, " is nested deeper than ", max_chat_depth, " levels");
    try {
        OrderedJson out = OrderedJson::parse(clean);
        if (!out.is_object()) fail(Code::invalid_argument, what, " is no JSON object");
        return out;
    } catch (const OrderedJson::parse_error& error) {
        fail(Code::invalid_argument, what, " is no valid JSON near byte ", error.byte);
    } catch (const OrderedJson::exception&) {
        fail(Code::invalid_argument, what, " is no valid JSON: a number in it is out of range");
    }
}

std::optional<JsonPiece> find_json(std::string_view text, size_t begin) {
    std::string open;
    bool in_string = false;
    if (begin >= text.size() || (text[begin] != '{' && text[begin] != '[')) return std::nullopt;
    for (size_t i = begin; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\') ++i;
            if (c == '"') in_string = false;
            continue;
        }
        if (c == '"') in_string = true;
        if (c == '{' || c == '[') {
            if (open.size() >= static_cast<size_t>(max_chat_depth)) return std::nullopt;
            open += c == '{' ? '}' : ']';
        }
        if (c != '}' && c != ']') continue;
        if (open.back() != c) return std::nullopt;
        open.pop_back();
        if (open.empty()) return JsonPiece{text.substr(begin, i + 1 - begin), i + 1};
    }
    return std::nullopt;
}

std::optional<OrderedJson> try_parse_json(std::string_view text) {
    std::string clean;
    if (text.size() > max_chat_bytes || !prepare(text, clean)) return std::nullopt;
    try {
        return OrderedJson::parse(clean);
    } catch (const OrderedJson::exception&) {
        return std::nullopt;
    }
}

}  // namespace quantplug::engine
