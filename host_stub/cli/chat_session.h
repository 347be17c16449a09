// A conversation with a model: its messages, and one turn after the other through chat/1 and generate.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <quantplug/host.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "host_stub/cli/arguments.h"

namespace quantplug::host {

struct ChatMessage {
    std::string role, content;
};

/// What was said; the system message stands before it and is never forgotten.
class ChatHistory {
 public:
    std::string system;
    bool has_system = false;

    void add(std::string role, std::string content) { messages_.push_back({std::move(role), std::move(content)}); }
    void remove_last() { messages_.pop_back(); }
    void clear() { messages_.clear(); }

    /// Forgets the oldest turn: the first message and what follows it up to the next of the user. False where there is
    /// one turn only.
    bool forget_oldest();

    /// A request of chat/1's render. `mode`: empty for the model's own template.
    std::string render_request(const std::string& mode) const;

 private:
    std::vector<ChatMessage> messages_;
};

/// One answer. `end` has no borrowed pointers.
struct ChatAnswer {
    std::string text;
    uint64_t n_prompt = 0;
    uint32_t n_forgotten = 0;  // turns that did not fit any more
    uint64_t seed = 0;
    qp_event end = make<qp_event>();
};

class ChatSession {
 public:
    struct Settings {
        std::string mode;
        SamplingArguments sampling;
        uint32_t n_tokens = 0;  // 0: until the context is full
        uint64_t seed = 0;      // of the first turn where --seed is not given; the k-th turn adds k
    };

    /// Throws UsageError where there is no such mode, NOT_FOUND where the model has no template and no mode is named.
    ChatSession(const Model& model, Settings settings);

    ChatHistory history;

    /// Says `text` and answers. Where the context would be full, the oldest turns go first: a quarter of it, or what
    /// n_tokens asks for up to a half, is kept free for the answer. A cancelled answer is part of the history as far as
    /// it went; after an exception the history is as before.
    ChatAnswer turn(const std::string& text, const EventFn& on_event);

 private:
    void check_template() const;
    GenerateRequest fit(ChatAnswer& answer);

    Model model_;
    Chat chat_;
    Settings settings_;
    uint64_t n_ctx_;
    uint64_t n_turns_ = 0;
};

}  // namespace quantplug::host
