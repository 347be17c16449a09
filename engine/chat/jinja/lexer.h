// A template's source to tokens, with jinja2's white-space control under trim_blocks and lstrip_blocks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"

namespace quantplug::engine::jinja {

enum class TokenKind {
    data,
    block_begin,
    block_end,
    variable_begin,
    variable_end,
    name,
    string,
    integer,
    real,
    op,
    end,
};

struct Token {
    TokenKind kind = TokenKind::end;
    int line = 1;
    std::string text;  // of strings: with their escapes undone

    bool is(TokenKind wanted, std::string_view value) const { return kind == wanted && text == value; }
    bool is_op(std::string_view value) const { return is(TokenKind::op, value); }
    bool is_name(std::string_view value) const { return is(TokenKind::name, value); }
};

/// The last token is `end`. Errors (invalid_argument) have `name` and the line.
std::vector<Token> tokenize(std::string_view source, const std::string& name);

template <typename... Parts>
[[noreturn]] void syntax_error(const std::string& name, int line, const Parts&... parts) {
    fail(Code::invalid_argument, name, ", line ", line, ": ", parts...);
}

}  // namespace quantplug::engine::jinja
