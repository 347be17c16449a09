// The messages of a chat request, checked and brought to the form that templates expect.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/chat/chat_json.h"

namespace quantplug::engine {

/// invalid_argument, with the number of the message: no object, no role, content that is neither a string, null nor a
/// list of {"type": "text", "text"}.
void check_messages(const OrderedJson& messages);
/// The names of tools in the form of OpenAI ({"type": "function", "function": {"name"}}) or bare ({"name"}).
/// invalid_argument where one has no name.
std::vector<std::string> tool_names(const OrderedJson& tools);

bool has_parts(const OrderedJson& messages);
/// Lists of text parts become one string, a line each.
void join_parts(OrderedJson& messages);
void fill_null_content(OrderedJson& messages);  // null becomes ""

/// Arguments of calls that are JSON text become objects, which is what templates print; true where there were any.
bool parse_arguments(OrderedJson& messages);
/// What Python prints for the arguments that parse_arguments made, where that differs from JSON: a template that writes
/// this wants them as text.
std::vector<std::string> printed_arguments(const OrderedJson& messages);

/// As transformers does: the reasoning of a message under all of its names (reasoning_content, thinking).
void alias_reasoning(OrderedJson& messages);

}  // namespace quantplug::engine
