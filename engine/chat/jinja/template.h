// Templates in the language of Python's jinja2, as Hugging Face's chat templates use it: trim_blocks, lstrip_blocks,
// loop controls, `generation` blocks, tojson, raise_exception, strftime_now, and the rules of its immutable sandbox.
#pragma once

#include <ctime>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "engine/chat/jinja/ast.h"
#include "engine/chat/jinja/context.h"
#include "engine/chat/jinja/text.h"

namespace quantplug::engine::jinja {

inline constexpr size_t max_template_bytes = size_t{4} << 20;

struct Variable {
    std::string_view name;
    const nlohmann::ordered_json* value;
    bool marked;  // strings inside came from the user
};

/// Immutable: one may be rendered from several threads at once.
class Template {
 public:
    /// invalid_argument: `name`, the line, and what is wrong or not supported. resource_exhausted: too large.
    Template(std::string_view source, std::string name);

    /// invalid_argument: what Python would raise, and raise_exception with its message. resource_exhausted: the work
    /// goes over the limits.
    Text render(std::span<const Variable> variables, std::time_t now, const Limits& limits = {}) const;

    const std::string& name() const { return name_; }

 private:
    std::string name_;
    Syntax syntax_;
};

}  // namespace quantplug::engine::jinja
