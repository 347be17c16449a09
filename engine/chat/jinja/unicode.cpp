#include "engine/chat/jinja/unicode.h"

#include <utf8proc.h>

namespace quantplug::engine::jinja {
namespace {

// What the simple mappings of utf8proc miss of those that Latin text has.
constexpr char32_t sharp_s = 0xDF;

void append_upper(std::string& out, char32_t code) {
    if (code == sharp_s)
        out += "SS";
    else
        append_code_point(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code))));
}

void append_lower(std::string& out, char32_t code) {
    append_code_point(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code))));
}

void append_title(std::string& out, char32_t code) {
    if (code == sharp_s)
        out += "Ss";
    else
        append_code_point(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(code))));
}

utf8proc_category_t category(char32_t code) { return utf8proc_category(static_cast<utf8proc_int32_t>(code)); }

template <typename Function>
void for_each(std::string_view text, Function function) {
    for (size_t i = 0; i < text.size();) {
        const CodePoint one = code_point_at(text, i);
        function(one.code);
        i += one.length;
    }
}

}  // namespace

CodePoint code_point_at(std::string_view text, size_t at) {
    const auto first = static_cast<uint8_t>(text[at]);
    if (first < 0x80) return {first, 1};
    const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
    if (length == 1 || text.size() - at < length) return {first, 1};
    char32_t code = first & (0x7F >> length);
    for (size_t i = 1; i < length; ++i) code = code << 6 | (static_cast<uint8_t>(text[at + i]) & 0x3F);
    return {code, length};
}

size_t code_point_before(std::string_view text, size_t end) {
    size_t at = end - 1;
    while (at > 0 && end - at < 4 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
    return at;
}

size_t code_points(std::string_view text) {
    size_t n = 0;
    for (const char c : text) n += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
    return n;
}

std::vector<size_t> code_point_offsets(std::string_view text) {
    std::vector<size_t> out;
    out.reserve(text.size() + 1);
    for (size_t i = 0; i < text.size(); i += code_point_at(text, i).length) out.push_back(i);
    out.push_back(text.size());
    return out;
}

bool is_space(char32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_line_end(char32_t c) {
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool is_upper(char32_t code) { return category(code) == UTF8PROC_CATEGORY_LU; }
bool is_lower(char32_t code) {
    return category(code) == UTF8PROC_CATEGORY_LL || code == 0xAA || code == 0xBA;  // ordinals have the property
}

bool is_alpha(char32_t code) {
    const auto c = category(code);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool is_digit(char32_t code) { return category(code) == UTF8PROC_CATEGORY_ND; }
bool is_word_start(char32_t code) { return code == '_' || is_alpha(code); }
bool is_word(char32_t code) {
    const auto c = category(code);
    return code == '_' || is_alpha(code) || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

void append_code_point(std::string& out, char32_t code) {
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xC0 | code >> 6);
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        out += static_cast<char>(0xE0 | code >> 12);
        out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
        out += static_cast<char>(0xF0 | code >> 18);
        out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
        out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    }
}

std::string to_upper(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for_each(text, [&](char32_t code) { append_upper(out, code); });
    return out;
}

std::string to_lower(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for_each(text, [&](char32_t code) { append_lower(out, code); });
    return out;
}

std::string to_title(std::string_view text) {
    std::string out;
    bool inside = false;
    for_each(text, [&](char32_t code) {
        if (inside)
            append_lower(out, code);
        else
            append_title(out, code);
        inside = is_upper(code) || is_lower(code) || category(code) == UTF8PROC_CATEGORY_LT;
    });
    return out;
}

std::string to_capitalized(std::string_view text) {
    std::string out;
    bool first = true;
    for_each(text, [&](char32_t code) {
        if (first)
            append_title(out, code);
        else
            append_lower(out, code);
        first = false;
    });
    return out;
}

}  // namespace quantplug::engine::jinja
