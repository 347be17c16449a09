// Python's view of a UTF-8 string: code points, white space, case.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine::jinja {

size_t code_points(std::string_view text);
/// Bytes before each code point, and the size of the text at the end.
std::vector<size_t> code_point_offsets(std::string_view text);

/// str.isspace of one code point.
bool is_space(char32_t code);
/// Line ends of str.splitlines.
bool is_line_end(char32_t code);

/// The code point at text[at], and how many bytes it has. Bytes that are no UTF-8 count one by one.
struct CodePoint {
    char32_t code;
    size_t length;
};
CodePoint code_point_at(std::string_view text, size_t at);
size_t code_point_before(std::string_view text, size_t end);  // where the last one before `end` begins

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);        // str.title
std::string to_capitalized(std::string_view text);  // str.capitalize

bool is_upper(char32_t code);
bool is_lower(char32_t code);
bool is_alpha(char32_t code);
bool is_digit(char32_t code);       // decimal
bool is_word_start(char32_t code);  // of an identifier
bool is_word(char32_t code);
void append_code_point(std::string& out, char32_t code);

}  // namespace quantplug::engine::jinja
