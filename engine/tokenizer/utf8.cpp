#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {

Utf8Char utf8_at(std::string_view text, size_t pos) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t first = byte(pos);
    if (first < 0x80) return {first, 1, true, false};
    const uint32_t length = first >= 0xC2 && first <= 0xDF   ? 2
                            : (first & 0xF0) == 0xE0         ? 3
                            : first >= 0xF0 && first <= 0xF4 ? 4
                                                             : 0;
    if (length == 0) return {replacement_character, 1, false, false};
    // Only the second byte has a narrower range than 80..BF: no overlong forms, no surrogates, nothing above U+10FFFF.
    uint8_t low = 0x80, high = 0xBF;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
    char32_t code = first & (0xFF >> (length + 1));
    for (uint32_t i = 1; i < length; ++i) {
        if (pos + i >= text.size()) return {replacement_character, i, false, true};
        const uint8_t next = byte(pos + i);
        if (next < low || next > high) return {replacement_character, i, false, false};
        low = 0x80;
        high = 0xBF;
        code = code << 6 | (next & 0x3F);
    }
    return {code, length, true, false};
}

Utf8Char utf8_before(std::string_view text, size_t pos) {
    size_t start = pos - 1;
    while (start > 0 && pos - start < 4 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
    return utf8_at(text.substr(0, pos), start);
}

bool is_valid_utf8(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
        if (static_cast<uint8_t>(text[i]) < 0x80) {
            ++i;
            continue;
        }
        const Utf8Char c = utf8_at(text, i);
        if (!c.valid) return false;
        i += c.length;
    }
    return true;
}

std::string to_valid_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Utf8Char c = utf8_at(text, i);
        if (c.valid)
            out.append(text.substr(i, c.length));
        else
            append_utf8(out, replacement_character);
        i += c.length;
    }
    return out;
}

void append_utf8(std::string& out, char32_t code) {
    const auto put = [&](char32_t b) { out.push_back(static_cast<char>(b)); };
    if (code < 0x80) {
        put(code);
    } else if (code < 0x800) {
        put(0xC0 | code >> 6);
        put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        put(0xE0 | code >> 12);
        put(0x80 | (code >> 6 & 0x3F));
        put(0x80 | (code & 0x3F));
    } else {
        put(0xF0 | code >> 18);
        put(0x80 | (code >> 12 & 0x3F));
        put(0x80 | (code >> 6 & 0x3F));
        put(0x80 | (code & 0x3F));
    }
}

bool is_white_space(char32_t c) {
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// Bytes that print as themselves keep their value; the 68 others are U+0100 on, in order.
char32_t byte_to_char(uint8_t b) {
    if (b <= 0x20) return 0x100 + b;
    if (b >= 0x7F && b <= 0xA0) return 0x100 + 33 + (b - 0x7F);
    if (b == 0xAD) return 0x100 + 67;
    return b;
}

int char_to_byte(char32_t c) {
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xFF && c != 0xAD)) return static_cast<int>(c);
    if (c >= 0x100 && c <= 0x120) return static_cast<int>(c - 0x100);
    if (c >= 0x121 && c <= 0x142) return static_cast<int>(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

std::string map_bytes(std::string_view text) {
    std::string out;
    out.reserve(text.size() * 2);
    for (char b : text) append_utf8(out, byte_to_char(static_cast<uint8_t>(b)));
    return out;
}

}  // namespace quantplug::engine
