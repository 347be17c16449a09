#include "engine/chat/chat.h"

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/base/error.h"
#include "engine/chat/chat_json.h"
#include "engine/chat/chat_modes.h"
#include "engine/chat/jinja/template.h"
#include "engine/chat/messages.h"
#include "engine/chat/tool_calls.h"

namespace quantplug::engine {

struct Chat::Request {
    OrderedJson messages = OrderedJson::array(), tools, variables = OrderedJson::object();
    bool add_generation_prompt = true, continue_final_message = false;
    std::string template_name, template_text, mode;

    bool with_tools() const { return tools.is_array() && !tools.empty(); }
};

struct Chat::Source {
    std::string_view text;
    std::string name;
    const ChatMode* mode = nullptr;
};

namespace {

// Not in any text that users write; where it is after rendering, an answer goes on.
constexpr std::string_view continue_tag = "CONTINUE_FINAL_MESSAGE_TAG ";

std::string dumped(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

template <typename Request>
void read(Request& out, const OrderedJson& json) {
    for (const auto& item : json.items()) {
        const std::string& key = item.key();
        const OrderedJson& value = item.value();
        const auto text = [&](std::string& into) {
            if (value.is_null()) return;
            if (!value.is_string()) fail(Code::invalid_argument, "'", key, "' of the chat request is no string");
            into = value.get<std::string>();
            if (into.empty()) fail(Code::invalid_argument, "'", key, "' of the chat request is empty");
        };
        const auto flag = [&](bool& into) {
            if (value.is_null()) return;
            if (!value.is_boolean())
                fail(Code::invalid_argument, "'", key, "' of the chat request is neither true nor false");
            into = value.get<bool>();
        };
        if (key == "messages")
            out.messages = value;
        else if (key == "tools")
            out.tools = value;
        else if (key == "variables")
            out.variables = value.is_null() ? OrderedJson::object() : value;
        else if (key == "add_generation_prompt")
            flag(out.add_generation_prompt);
        else if (key == "continue_final_message")
            flag(out.continue_final_message);
        else if (key == "template")
            text(out.template_name);
        else if (key == "template_text")
            text(out.template_text);
        else if (key == "mode")
            text(out.mode);
        else
            fail(Code::invalid_argument, "the chat request has an unknown key '", key, "'");
    }
    if (!json.contains("messages")) fail(Code::invalid_argument, "the chat request has no messages");
    check_messages(out.messages);
    if (!out.tools.is_null()) (void)tool_names(out.tools);
    if (!out.variables.is_object()) fail(Code::invalid_argument, "'variables' of the chat request is no object");
    for (const char* reserved : {"messages", "tools", "add_generation_prompt"})
        if (out.variables.contains(reserved))
            fail(Code::invalid_argument, "'variables' of the chat request cannot hold '", reserved,
                 "': it is a key of the request");
    if (!out.template_name.empty() + !out.template_text.empty() + !out.mode.empty() > 1)
        fail(Code::invalid_argument, "the chat request names more than one of template, template_text and mode");
    if (!out.continue_final_message) return;
    if (json.contains("add_generation_prompt") && out.add_generation_prompt)
        fail(Code::invalid_argument, "continue_final_message and add_generation_prompt cannot both be true");
    out.add_generation_prompt = false;
    if (out.messages.empty()) fail(Code::invalid_argument, "continue_final_message needs a message to continue");
}

/// One template with everything that it is rendered with but the messages.
class Renderer {
 public:
    Renderer(std::string_view source, std::string name, const ChatTemplates& templates, const Tokenizer& tokenizer,
             const OrderedJson& tools, const OrderedJson& variables)
        : template_(source, std::move(name)), tools_(tools), variables_(variables) {
        special_ = OrderedJson::object();
        for (const auto& [key, token] : templates.special_tokens) special_[key] = token;
        const auto fill = [&](const char* key, std::optional<int32_t> id) {
            if (id && !special_.contains(key)) special_[key] = tokenizer.id_to_token(*id);
        };
        fill("bos_token", tokenizer.bos_id());
        fill("eos_token", tokenizer.eos_id());
    }

    jinja::Text operator()(const OrderedJson& messages, bool add_generation_prompt) const {
        const OrderedJson null, prompt = add_generation_prompt;
        std::vector<jinja::Variable> all{{"documents", &null, false}};
        for (const auto& one : special_.items()) all.push_back({one.key(), &one.value(), false});
        for (const auto& one : variables_.items()) all.push_back({one.key(), &one.value(), true});
        all.push_back({"messages", &messages, true});
        all.push_back({"tools", &tools_, true});
        all.push_back({"add_generation_prompt", &prompt, false});
        return template_.render(all, std::time(nullptr));
    }

 private:
    jinja::Template template_;
    const OrderedJson& tools_;
    const OrderedJson& variables_;
    OrderedJson special_;
};

/// The template reads lists of parts: it writes the text of one, and not the list.
bool reads_parts(const Renderer& render) {
    constexpr const char* word = "Xq7zPart";
    try {
        const OrderedJson messages = OrderedJson::array(
            {{{"role", "user"}, {"content", OrderedJson::array({{{"type", "text"}, {"text", word}}})}}});
        const std::string text = render(messages, true).bytes();
        return text.find(word) != std::string::npos && text.find("'type'") == std::string::npos &&
               text.find("\"type\"") == std::string::npos;
    } catch (const Error&) {
        return false;
    }
}

jinja::Text render_messages(const Renderer& render, OrderedJson messages, bool add_generation_prompt) {
    alias_reasoning(messages);
    if (has_parts(messages) && !reads_parts(render)) join_parts(messages);
    const OrderedJson as_given = messages;
    if (!parse_arguments(messages)) return render(messages, add_generation_prompt);
    std::optional<jinja::Text> text;
    std::optional<Error> error;
    try {
        text = render(messages, add_generation_prompt);
        const std::vector<std::string> printed = printed_arguments(messages);
        const bool as_python = std::any_of(printed.begin(), printed.end(), [&](const std::string& one) {
            return text->bytes().find(one) != std::string::npos;
        });
        if (!as_python) return *text;
    } catch (const Error& one) {
        if (one.code() != Code::invalid_argument) throw;
        error = one;
    }
    try {
        return render(as_given, add_generation_prompt);
    } catch (const Error&) {
        if (error) throw *error;
        return *text;
    }
}

/// The place in the last message where its answer goes on gets a tag.
void tag_final_message(OrderedJson& messages) {
    OrderedJson& last = messages.back();
    const auto content = last.find("content");
    if (content != last.end() && content->is_string()) {
        *content = content->get<std::string>().append(continue_tag);
        return;
    }
    if (content != last.end() && content->is_array() && !content->empty()) {
        OrderedJson& text = content->back()["text"];
        text = text.get<std::string>().append(continue_tag);
        return;
    }
    fail(Code::invalid_argument, "continue_final_message needs content in the last message");
}

jinja::Text cut_at_tag(const jinja::Text& text) {
    const std::string_view bare = continue_tag.substr(0, continue_tag.size() - 1);
    const size_t at = text.bytes().rfind(bare);
    if (at == std::string::npos)
        fail(Code::invalid_argument,
             "the chat template does not write the last message, which cannot be continued then");
    size_t end = at;
    // Trimmed by the template: the space in front of the tag would have been, too.
    if (!std::string_view(text.bytes()).substr(at).starts_with(continue_tag))
        while (end > 0 && std::string_view(" \t\r\n").find(text.bytes()[end - 1]) != std::string_view::npos) --end;
    return text.slice(0, end);
}

}  // namespace

Chat::Chat(ChatTemplates templates, const Tokenizer& tokenizer, std::vector<int32_t> stop_ids)
    : templates_(std::move(templates)), tokenizer_(tokenizer), stop_ids_(std::move(stop_ids)) {}

Chat::Source Chat::choose(const Request& request) const {
    if (!request.template_text.empty()) return {request.template_text, "template_text", nullptr};
    const auto names = [](const auto& list) {
        std::string out;
        for (const auto& one : list) out.append(out.empty() ? "" : ", ").append(one.name);
        return out;
    };
    if (!request.mode.empty()) {
        const ChatMode* mode = find_chat_mode(request.mode);
        if (!mode) fail(Code::not_found, "there is no chat mode '", request.mode, "': there are ", names(chat_modes()));
        if (request.with_tools())
            fail(Code::invalid_argument, "the chat mode '", request.mode,
                 "' knows no tools: leave them out, or use the model's own template");
        return {mode->source, concat("mode ", mode->name), mode};
    }
    if (!request.template_name.empty()) {
        const auto* entry = templates_.find(request.template_name);
        if (!entry)
            fail(Code::not_found, "the model has no chat template '", request.template_name,
                 templates_.entries.empty() ? "': it has none" : "': it has ", names(templates_.entries));
        return {entry->source, entry->file, nullptr};
    }
    const auto* entry = templates_.choose(request.with_tools());
    if (!entry) fail(Code::not_found, "the model has no chat template: name a mode, one of ", names(chat_modes()));
    return {entry->source, entry->file, nullptr};
}

// What follows an answer in the template's own words: where that is a special token, it ends a turn.
std::vector<int32_t> Chat::stop_ids(const Source& source, const Request& request) const {
    std::vector<int32_t> out = stop_ids_;
    try {
        constexpr std::string_view answer = "Xq7zAnswer";
        const OrderedJson messages = OrderedJson::array(
            {{{"role", "user"}, {"content", "Hello"}}, {{"role", "assistant"}, {"content", answer}}});
        const OrderedJson no_tools;
        const Renderer render(source.text, source.name, templates_, tokenizer_, no_tools, request.variables);
        const std::string text = render(messages, false).bytes();
        size_t at = text.rfind(answer);
        if (at == std::string::npos) return out;
        at = text.find_first_not_of(" \t\r\n", at + answer.size());
        if (at == std::string::npos) return out;
        const std::vector<int32_t> ids =
            tokenizer_.encode(std::string_view(text).substr(at), Tokenizer::Bos::off, true);
        if (!ids.empty() && tokenizer_.is_special(ids[0]) && ids[0] != tokenizer_.bos_id()) out.push_back(ids[0]);
    } catch (const Error&) {  // a template that wants other messages tells nothing
    }
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
}

std::string Chat::render(std::string_view request_json) const {
    Request request;
    read(request, parse_chat_object(request_json, "the chat request"));
    const Source source = choose(request);
    const Renderer render(source.text, source.name, templates_, tokenizer_, request.tools, request.variables);
    OrderedJson messages = request.messages;
    if (source.mode) fill_null_content(messages);
    if (request.continue_final_message) tag_final_message(messages);
    jinja::Text text = render_messages(render, std::move(messages), request.add_generation_prompt);
    if (request.continue_final_message) text = cut_at_tag(text);

    std::vector<ByteRange> plain;
    for (const jinja::Mark& mark : text.marks()) plain.push_back({mark.begin, mark.end});
    // The template's own BOS, or the tokenizer's; Bos::automatic would put an EOS behind, too.
    const auto bos_id = tokenizer_.bos_id();
    const std::string bos = bos_id ? tokenizer_.id_to_token(*bos_id) : "";
    const bool written = !bos.empty() && text.bytes().starts_with(bos) && !touches(plain, 0, bos.size());
    const bool wanted = tokenizer_.adds_bos() && !written && bos_id;
    const std::vector<int32_t> ids =
        tokenizer_.encode_marked(text.bytes(), wanted ? Tokenizer::Bos::on : Tokenizer::Bos::off, plain);

    OrderedJson out;
    out["prompt"] = text.bytes();
    out["ids"] = ids;
    out["stop"] = OrderedJson::array();
    if (source.mode && !source.mode->stop.empty()) out["stop"].push_back(source.mode->stop);
    if (source.mode && source.mode->name == "raw") {
        const std::string user = request.variables.contains("user_name") && request.variables["user_name"].is_string()
                                     ? request.variables["user_name"].get<std::string>()
                                     : "User";
        out["stop"] = OrderedJson::array({"\n" + user + ":"});
    }
    out["stop_ids"] = stop_ids(source, request);
    return dumped(out);
}

std::string Chat::parse(std::string_view request_json) const {
    const OrderedJson json = parse_chat_object(request_json, "the parse request");
    std::optional<std::string> text;
    std::vector<std::string> tools;
    std::optional<ToolFormat> format;
    for (const auto& [key, value] : json.items()) {
        if (key == "text") {
            if (!value.is_string()) fail(Code::invalid_argument, "'text' of the parse request is no string");
            text = value.get<std::string>();
        } else if (key == "tools") {
            if (!value.is_null()) tools = tool_names(value);
        } else if (key == "format") {
            if (value.is_null()) continue;
            if (value.is_string()) format = tool_format_of(value.get<std::string>());
            if (!format)
                fail(Code::invalid_argument, "'format' of the parse request must be hermes, llama3 or mistral");
        } else {
            fail(Code::invalid_argument, "the parse request has an unknown key '", key, "'");
        }
    }
    if (!text) fail(Code::invalid_argument, "the parse request has no text");
    if (!format) {
        const auto* entry = templates_.choose(true);
        format = entry ? tool_format_in(entry->source) : ToolFormat::any;
    }
    const ParsedAnswer answer = parse_tool_calls(*text, *format, tools);
    OrderedJson out;
    out["content"] = nullptr;
    if (!answer.content.empty()) out["content"] = answer.content;
    out["tool_calls"] = OrderedJson::array();
    for (const ToolCall& call : answer.calls)
        out["tool_calls"].push_back({{"id", call.id},
                                     {"type", "function"},
                                     {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    return dumped(out);
}

std::string Chat::describe() const {
    OrderedJson out;
    out["templates"] = OrderedJson::array();
    for (const auto& entry : templates_.entries) out["templates"].push_back(entry.name);
    const auto* entry = templates_.choose(false);
    out["source"] = nullptr;
    if (entry) out["source"] = std::filesystem::path(entry->file).filename().string();
    out["modes"] = OrderedJson::array();
    for (const ChatMode& mode : chat_modes()) out["modes"].push_back(mode.name);
    out["tool_format"] = nullptr;
    const auto* with_tools = templates_.choose(true);
    const ToolFormat format = with_tools ? tool_format_in(with_tools->source) : ToolFormat::any;
    if (format != ToolFormat::any) out["tool_format"] = name_of(format);
    return dumped(out);
}

}  // namespace quantplug::engine
