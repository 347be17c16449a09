// Chat templates and requests. A template of any bytes ends in a text or an Error, within its limits, and marks lie
// inside of the text; so do the JSON of a request and an answer with calls of tools.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "engine/base/error.h"
#include "engine/chat/chat_json.h"
#include "engine/chat/jinja/template.h"
#include "engine/chat/messages.h"
#include "engine/chat/tool_calls.h"

using namespace quantplug::engine;

namespace {

template <typename Function>
void attempt(Function function) {
    try {
        function();
    } catch (const Error&) {
    }
}

void render(std::string_view source) {
    const OrderedJson messages = OrderedJson::parse(
        R"([{"role": "user", "content": "Hi <b>\n"}, {"role": "assistant", "content": null,
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2.5, true, "é"]}}}]}])");
    const OrderedJson text = "text", number = 3;
    const jinja::Variable variables[] = {
        {"messages", &messages, true}, {"tools", &messages, true}, {"s", &text, false}, {"i", &number, false}};
    jinja::Limits limits;
    limits.steps = 100'000;
    limits.bytes = 16 << 20;
    limits.text_bytes = 1 << 20;
    const jinja::Text out = jinja::Template(source, "fuzz").render(variables, 0, limits);
    size_t at = 0;
    for (const jinja::Mark& mark : out.marks()) {
        if (mark.begin < at || mark.end <= mark.begin || mark.end > out.size()) std::abort();
        at = mark.end;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size > 1 << 15) return 0;
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    attempt([&] { render(text); });
    attempt([&] {
        OrderedJson request = parse_chat_object(text, "fuzz");
        OrderedJson& messages = request["messages"];
        check_messages(messages);
        join_parts(messages);
        parse_arguments(messages);
        (void)printed_arguments(messages);
        alias_reasoning(messages);
    });
    for (const ToolFormat format : {ToolFormat::any, ToolFormat::hermes, ToolFormat::llama3, ToolFormat::mistral})
        (void)parse_tool_calls(text, format, {"f"});
    return 0;
}
