#include "host_stub/cli/chat_session.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "host_stub/cli/failure.h"
#include "host_stub/cli/sampling.h"
#include "host_stub/cli/utf8.h"

namespace quantplug::host {
namespace {

using Json = nlohmann::json;

Json parse_result(const std::string& text) {
    Json result = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!result.is_object()) throw Error(QP_INTERNAL, "the plugin's chat gave no JSON object: report it to its author");
    return result;
}

template <class T>
T value_of(const Json& object, const char* key) {
    try {
        return object.at(key).get<T>();
    } catch (const Json::exception&) {
        throw Error(QP_INTERNAL,
                    "the plugin's chat gave no '" + std::string(key) + "' of the right type: report it to its author");
    }
}

std::string list(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + printable(name);
    return text;
}

}  // namespace

bool ChatHistory::forget_oldest() {
    if (messages_.empty()) return false;
    const auto next = std::find_if(messages_.begin() + 1, messages_.end(),
                                   [](const ChatMessage& message) { return message.role == "user"; });
    if (next == messages_.end()) return false;
    messages_.erase(messages_.begin(), next);
    return true;
}

std::string ChatHistory::render_request(const std::string& mode) const {
    Json messages = Json::array();
    if (has_system) messages.push_back({{"role", "system"}, {"content", valid_utf8(system)}});
    for (const ChatMessage& message : messages_)
        messages.push_back({{"role", message.role}, {"content", valid_utf8(message.content)}});
    Json request = {{"messages", std::move(messages)}, {"add_generation_prompt", true}};
    if (!mode.empty()) request["mode"] = valid_utf8(mode);
    return request.dump();
}

ChatSession::ChatSession(const Model& model, Settings settings)
    : model_(model), chat_(model), settings_(std::move(settings)), n_ctx_(model.info().n_ctx) {
    check_template();
}

void ChatSession::check_template() const {
    const Json about = parse_result(chat_.describe());
    const auto modes = value_of<std::vector<std::string>>(about, "modes");
    if (!settings_.mode.empty()) {
        if (std::find(modes.begin(), modes.end(), settings_.mode) == modes.end())
            throw UsageError("--mode '" + printable(settings_.mode) + "' is not known; there are " + list(modes));
    } else if (value_of<std::vector<std::string>>(about, "templates").empty()) {
        throw Error(QP_NOT_FOUND, "the model has no chat template; name a format with --mode: " + list(modes));
    }
}

GenerateRequest ChatSession::fit(ChatAnswer& answer) {
    const uint64_t room = settings_.n_tokens ? std::min<uint64_t>(settings_.n_tokens, n_ctx_ / 2) : n_ctx_ / 4;
    GenerateRequest request;
    for (;;) {
        const Json rendered = parse_result(chat_.render(history.render_request(settings_.mode)));
        request.prompt = value_of<std::vector<int32_t>>(rendered, "ids");
        request.stop = value_of<std::vector<std::string>>(rendered, "stop");
        request.stop_ids = value_of<std::vector<int32_t>>(rendered, "stop_ids");
        if (n_ctx_ == 0 || request.prompt.size() + room <= n_ctx_ || !history.forget_oldest()) return request;
        ++answer.n_forgotten;
    }
}

ChatAnswer ChatSession::turn(const std::string& text, const EventFn& on_event) {
    const ChatHistory before = history;
    ChatAnswer answer;
    try {
        history.add("user", text);
        GenerateRequest request = fit(answer);
        request.stop.insert(request.stop.end(), settings_.sampling.stop.begin(), settings_.sampling.stop.end());
        request.max_tokens = settings_.n_tokens;
        resolve_sampling(settings_.sampling, model_.default_sampling(), settings_.seed, request);
        request.seed(request.sampling.seed + n_turns_);
        answer.n_prompt = request.prompt.size();
        answer.seed = request.sampling.seed;
        answer.end = model_.generate(request, [&](const qp_event& event) {
            if (event.text && event.text_size > 0) answer.text.append(event.text, event.text_size);
            return on_event(event);
        });
    } catch (...) {
        history = before;
        throw;
    }
    history.add("assistant", answer.text);
    ++n_turns_;
    return answer;
}

}  // namespace quantplug::host
