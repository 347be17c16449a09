// One level of brackets or tags deeper, for as long as it lives.
#pragma once

#include "engine/chat/jinja/parser.h"

namespace quantplug::engine::jinja {

struct Parser::Nested {
    explicit Nested(Parser& owner) : parser(owner) {
        if (parser.nesting_ >= max_nesting) parser.fail_here("nested deeper than ", max_nesting, " levels");
        ++parser.nesting_;
    }
    ~Nested() { --parser.nesting_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;
    Parser& parser;
};

}  // namespace quantplug::engine::jinja
