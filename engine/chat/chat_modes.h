// Prompt formats by name, for models that bring no template of their own.
#pragma once

#include <span>
#include <string_view>

namespace quantplug::engine {

struct ChatMode {
    std::string_view name;
    std::string_view about;
    std::string_view source;  // a template; variables user_name and bot_name have defaults
    std::string_view stop;    // a string that ends an answer; empty where a token does
};

std::span<const ChatMode> chat_modes();
const ChatMode* find_chat_mode(std::string_view name);  // null: none

}  // namespace quantplug::engine
