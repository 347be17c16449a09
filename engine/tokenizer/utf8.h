// UTF-8 with invalid input: each maximal subpart of an ill-formed sequence counts as one U+FFFD (Unicode 15,
// section 3.9, "U+FFFD Substitution of Maximal Subparts"; what Python's errors="replace" and Rust's from_utf8_lossy
// do).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quantplug::engine {

inline constexpr char32_t replacement_character = 0xFFFD;

struct Utf8Char {
    char32_t code;    // U+FFFD where !valid
    uint32_t length;  // bytes consumed, at least 1
    bool valid;
    bool truncated;  // !valid, and the text ended inside the sequence: more bytes could make it valid
};

/// The character at text[pos]; pos < text.size().
Utf8Char utf8_at(std::string_view text, size_t pos);

/// The character that ends right before text[pos], of valid UTF-8; pos > 0.
Utf8Char utf8_before(std::string_view text, size_t pos);

bool is_valid_utf8(std::string_view text);

/// `text` with U+FFFD for what is not UTF-8.
std::string to_valid_utf8(std::string_view text);

void append_utf8(std::string& out, char32_t code);

/// Bytes of a character by its first byte, of valid UTF-8.
inline uint32_t utf8_length(char first) {
    const auto b = static_cast<uint8_t>(first);
    return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

/// Unicode's White_Space property: what Rust, Python and the Ruby syntax of Oniguruma call white space.
bool is_white_space(char32_t code);

/// GPT-2's printable stand-ins of bytes (encoder.py, bytes_to_unicode): byte 0x20 is U+0120, and so on.
char32_t byte_to_char(uint8_t byte);

/// The byte that a character stands for, or -1.
int char_to_byte(char32_t code);

/// Every byte of `text` as its stand-in.
std::string map_bytes(std::string_view text);

}  // namespace quantplug::engine
