// Values as text: Python's str(), repr() and json.dumps().
#pragma once

#include <optional>
#include <string>

#include "engine/chat/jinja/value.h"

namespace quantplug::engine::jinja {

/// float.__repr__: the shortest digits that read back as the same number.
std::string float_repr(double value);

Text to_text(Context& context, const Value& value);  // str()
void append_text(Context& context, Text& out, const Value& value);
void append_repr(Context& context, Text& out, const Value& value);

/// json.dumps of transformers' tojson filter.
struct JsonStyle {
    bool ensure_ascii = false, sort_keys = false;
    std::optional<std::string> indent;  // of one level
    std::string item_separator = ", ", key_separator = ": ";
};
Text to_json(Context& context, const Value& value, const JsonStyle& style);

}  // namespace quantplug::engine::jinja
