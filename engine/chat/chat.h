// Chats of one model: messages to a prompt, and an answer to content and calls of tools. JSON in and out, as
// quantplug/ext/chat.h says.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat/chat_templates.h"
#include "engine/tokenizer/tokenizer.h"

namespace quantplug::engine {

/// Immutable; any thread. The tokenizer must outlive it.
class Chat {
 public:
    /// `stop_ids`: what ends a generation of the model anyway.
    Chat(ChatTemplates templates, const Tokenizer& tokenizer, std::vector<int32_t> stop_ids);

    /// Errors: invalid_argument (the request; what the template raises or cannot do), not_found (no template, no such
    /// template or mode), resource_exhausted (the template's work has no end).
    std::string render(std::string_view request_json) const;
    std::string parse(std::string_view request_json) const;
    std::string describe() const;

 private:
    struct Request;
    struct Source;
    Source choose(const Request& request) const;
    std::vector<int32_t> stop_ids(const Source& source, const Request& request) const;

    ChatTemplates templates_;
    const Tokenizer& tokenizer_;
    std::vector<int32_t> stop_ids_;
};

}  // namespace quantplug::engine
