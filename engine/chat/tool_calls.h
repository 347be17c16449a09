// Calls of tools in a model's answer.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine {

enum class ToolFormat {
    any,     // whatever a marker says
    hermes,  // <tool_call>{"name", "arguments"}</tool_call>: Hermes, Qwen
    llama3,  // {"name", "parameters"}, perhaps behind <|python_tag|>; <function=name>{...}</function>
    mistral  // [TOOL_CALLS][{"name", "arguments"}], [TOOL_CALLS]name[ARGS]{...}
};

std::optional<ToolFormat> tool_format_of(std::string_view name);
std::string_view name_of(ToolFormat format);
/// By what a template writes; any where it tells nothing.
ToolFormat tool_format_in(std::string_view template_source);

struct ToolCall {
    std::string id, name;
    std::string arguments;  // JSON
};

struct ParsedAnswer {
    std::string content;  // what is outside of the calls
    std::vector<ToolCall> calls;
};

/// Damaged calls, and text that only looks like one, stay content. Nothing is looked for inside of a reasoning block
/// (in front of the last </think>, or behind a <think> without an end). `tools` are the names that exist; without any,
/// every name counts.
ParsedAnswer parse_tool_calls(std::string_view text, ToolFormat format, const std::vector<std::string>& tools);

}  // namespace quantplug::engine
