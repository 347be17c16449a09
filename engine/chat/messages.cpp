#include "engine/chat/messages.h"

#include <nlohmann/json.hpp>

#include "engine/base/error.h"

namespace quantplug::engine {
namespace {

void check_content(const OrderedJson& content, size_t index) {
    if (content.is_string() || content.is_null()) return;
    if (!content.is_array())
        fail(Code::invalid_argument, "messages[", index, "]: content is neither a string, null nor a list of parts");
    for (const OrderedJson& part : content) {
        const auto type = part.is_object() ? part.find("type") : part.end();
        if (!part.is_object() || type == part.end() || !type->is_string())
            fail(Code::invalid_argument, "messages[", index, "]: a part of content has no type");
        if (*type != "text")
            fail(Code::invalid_argument, "messages[", index, "]: a part of content is of type '",
                 type->get<std::string>(), "', this model reads text only");
        const auto text = part.find("text");
        if (text == part.end() || !text->is_string())
            fail(Code::invalid_argument, "messages[", index, "]: a part of content has no text");
    }
}

template <typename Json, typename Function>
void for_each_arguments(Json& messages, Function function) {
    for (auto& message : messages) {
        const auto calls = message.find("tool_calls");
        if (calls == message.end() || !calls->is_array()) continue;
        for (auto& call : *calls) {
            if (!call.is_object()) continue;
            const auto body = call.find("function");
            auto& holder = body != call.end() && body->is_object() ? *body : call;
            const auto arguments = holder.find("arguments");
            if (arguments != holder.end()) function(*arguments);
        }
    }
}

}  // namespace

void check_messages(const OrderedJson& messages) {
    if (!messages.is_array()) fail(Code::invalid_argument, "messages is no list");
    for (size_t i = 0; i < messages.size(); ++i) {
        const OrderedJson& message = messages[i];
        if (!message.is_object()) fail(Code::invalid_argument, "messages[", i, "] is no object");
        const auto role = message.find("role");
        if (role == message.end() || !role->is_string())
            fail(Code::invalid_argument, "messages[", i, "] has no role: give \"system\", \"user\" or \"assistant\"");
        if (const auto content = message.find("content"); content != message.end()) check_content(*content, i);
    }
}

std::vector<std::string> tool_names(const OrderedJson& tools) {
    std::vector<std::string> out;
    if (!tools.is_array()) fail(Code::invalid_argument, "tools is no list");
    for (size_t i = 0; i < tools.size(); ++i) {
        const OrderedJson* tool = &tools[i];
        if (!tool->is_object()) fail(Code::invalid_argument, "tools[", i, "] is no object");
        if (const auto body = tool->find("function"); body != tool->end() && body->is_object()) tool = &*body;
        const auto name = tool->find("name");
        if (name == tool->end() || !name->is_string()) fail(Code::invalid_argument, "tools[", i, "] has no name");
        out.push_back(name->get<std::string>());
    }
    return out;
}

bool has_parts(const OrderedJson& messages) {
    for (const OrderedJson& message : messages)
        if (const auto content = message.find("content"); content != message.end() && content->is_array()) return true;
    return false;
}

void join_parts(OrderedJson& messages) {
    for (OrderedJson& message : messages) {
        const auto content = message.find("content");
        if (content == message.end() || !content->is_array()) continue;
        std::string text;
        bool first = true;
        for (const OrderedJson& part : *content) {
            if (!first) text += '\n';
            first = false;
            text += part.at("text").get_ref<const std::string&>();
        }
        *content = std::move(text);
    }
}

void fill_null_content(OrderedJson& messages) {
    for (OrderedJson& message : messages) {
        OrderedJson& content = message["content"];
        if (content.is_null()) content = "";
    }
}

bool parse_arguments(OrderedJson& messages) {
    bool found = false;
    for_each_arguments(messages, [&](OrderedJson& arguments) {
        if (!arguments.is_string()) return;
        auto json = try_parse_json(arguments.get_ref<const std::string&>());
        if (!json || !json->is_object()) return;
        arguments = std::move(*json);
        found = true;
    });
    return found;
}

std::vector<std::string> printed_arguments(const OrderedJson& messages) {
    std::vector<std::string> out;
    for_each_arguments(messages, [&](const OrderedJson& arguments) {
        if (arguments.is_object() && !arguments.empty()) out.push_back("{'" + arguments.begin().key() + "': ");
    });
    return out;
}

void alias_reasoning(OrderedJson& messages) {
    for (OrderedJson& message : messages) {
        const OrderedJson* reasoning = nullptr;
        for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
            const auto it = message.find(name);
            if (!reasoning && it != message.end() && !it->is_null()) reasoning = &*it;
        }
        if (!reasoning) continue;
        const OrderedJson value = *reasoning;
        if (!message.contains("thinking")) message["thinking"] = value;
        message["reasoning_content"] = value;
    }
}

}  // namespace quantplug::engine
