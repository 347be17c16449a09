// Calls of tools in answers: the forms of Hermes and Qwen, Llama 3 and Mistral, and what only looks like one.
#include <doctest/doctest.h>

#include <random>

#include "engine/chat/tool_calls.h"

namespace quantplug::test {
namespace {

using engine::parse_tool_calls;
using engine::ParsedAnswer;
using engine::ToolFormat;

const std::vector<std::string> tools{"get_weather", "now"};

/// "content|name(arguments)|name(arguments)".
std::string parsed(std::string_view text, ToolFormat format, const std::vector<std::string>& names = tools) {
    const ParsedAnswer answer = parse_tool_calls(text, format, names);
    std::string out = answer.content;
    for (const auto& call : answer.calls) out += "|" + call.name + "(" + call.arguments + ")";
    return out;
}

TEST_CASE("Hermes and Qwen: <tool_call>") {
    const auto hermes = [](std::string_view text) { return parsed(text, ToolFormat::hermes); };
    CHECK(hermes("Let me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"b\": 1, \"a\": "
                 "\"Z\xC3\xBCrich\"}}\n"
                 "</tool_call>") == "Let me see.|get_weather({\"b\":1,\"a\":\"Z\xC3\xBCrich\"})");
    CHECK(hermes("<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": "
                 "\"now\"}</tool_call>") == "|now({})|now({})");
    CHECK(hermes("<tool_call>{\"name\": \"now\", \"arguments\": \"{\\\"x\\\": 2}\"}") == "|now({\"x\": 2})");
    for (const char* text :
         {"<tool_call>{\"name\": \"now\", </tool_call>", "<tool_call>", "<tool_call>[]</tool_call>",
          "<tool_call>{\"arguments\": {}}</tool_call>", "{\"name\": \"now\", \"arguments\": {}}", ""})
        CHECK(hermes(text) == text);
    CHECK(hermes("<tool_call>broken</tool_call> then <tool_call>{\"name\": \"now\"}</tool_call>") ==
          "<tool_call>broken</tool_call> then|now({})");
}

TEST_CASE("a reasoning block is not looked into") {
    constexpr const char* call = "<tool_call>{\"name\": \"now\"}</tool_call>";
    CHECK(parsed(std::string("<think>maybe ") + call + "</think>\n" + call, ToolFormat::hermes) ==
          std::string("<think>maybe ") + call + "</think>|now({})");
    const std::string unfinished = std::string("<think>maybe ") + call;
    CHECK(parsed(unfinished, ToolFormat::hermes) == unfinished);
}

TEST_CASE("Llama 3: JSON with parameters, <|python_tag|>, <function=...>") {
    const auto llama = [](std::string_view text) { return parsed(text, ToolFormat::llama3); };
    CHECK(llama("{\"name\": \"get_weather\", \"parameters\": {\"city\": \"A\"}}") == "|get_weather({\"city\":\"A\"})");
    CHECK(llama("<|python_tag|>{\"name\": \"now\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": {\"x\": "
                "1}}<|eom_id|>") == "|now({})|now({\"x\":1})");
    CHECK(llama("Sure. <function=now>{\"x\": [1]}</function>") == "Sure.|now({\"x\": [1]})");
    for (const char* text :
         {"{\"name\": \"Bob\", \"parameters\": {}}", "{\"name\": \"now\", \"parameters\": {}} is JSON", "{\"age\": 3}",
          "<|python_tag|>print(1)", "<function=now>{broken", "Plain text."})
        CHECK(llama(text) == text);
}

TEST_CASE("Mistral: [TOOL_CALLS] with a list, or a name and [ARGS]; ids of nine letters and digits") {
    const auto mistral = [](std::string_view text) { return parsed(text, ToolFormat::mistral); };
    CHECK(mistral("[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {\"a\": 1}}, {\"name\": \"get_weather\", "
                  "\"arguments\": {}}]") == "|now({\"a\":1})|get_weather({})");
    CHECK(mistral("[TOOL_CALLS]now[ARGS]{\"a\": 1}[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{}") ==
          "|now({\"a\": 1})|get_weather({})");
    // Special tokens are not in the text of an answer that was decoded without them.
    CHECK(mistral("[{\"name\": \"now\", \"arguments\": {}}]") == "|now({})");
    CHECK(mistral("now{\"a\": 1}") == "|now({\"a\": 1})");
    for (const char* text : {"[1, 2]", "[TOOL_CALLS]", "[TOOL_CALLS] nothing",
                             "[{\"name\": \"Bob\", \"arguments\": {}}]", "set {1}", "[TOOL_CALLS][{\"name\": \"now\""})
        CHECK(mistral(text) == text);
    const ParsedAnswer answer = parse_tool_calls(
        "[TOOL_CALLS][{\"name\": \"a\"}, {\"name\": \"a\", \"id\": \"given\"}]", ToolFormat::mistral, {});
    REQUIRE(answer.calls.size() == 2);
    CHECK(answer.calls[0].id.size() == 9);
    CHECK(answer.calls[0].id.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") ==
          std::string::npos);
    CHECK(answer.calls[1].id == "given");
}

TEST_CASE("without a known format the markers tell") {
    CHECK(parsed("<tool_call>{\"name\": \"now\"}</tool_call>", ToolFormat::any) == "|now({})");
    CHECK(parsed("[TOOL_CALLS][{\"name\": \"now\"}]", ToolFormat::any) == "|now({})");
    CHECK(parsed("<function=now>{}</function>", ToolFormat::any) == "|now({})");
    CHECK(parsed("{\"name\": \"now\", \"parameters\": {}}", ToolFormat::any) ==
          "{\"name\": \"now\", \"parameters\": {}}");
}

TEST_CASE("any text is content or calls") {
    const unsigned seed = std::random_device()();
    CAPTURE(seed);
    std::mt19937 random(seed);
    const std::vector<std::string> pieces{"<tool_call>",
                                          "</tool_call>",
                                          "[TOOL_CALLS]",
                                          "[ARGS]",
                                          "[CALL_ID]",
                                          "<|python_tag|>",
                                          "<function=",
                                          ">",
                                          "</function>",
                                          "{",
                                          "}",
                                          "[",
                                          "]",
                                          "\"name\"",
                                          ":",
                                          ",",
                                          "\"a\"",
                                          "\"arguments\"",
                                          "\\",
                                          "\"",
                                          " ",
                                          "now",
                                          "<think>",
                                          "</think>"};
    for (int i = 0; i < 3000; ++i) {
        std::string text;
        for (unsigned n = random() % 20; n > 0; --n) text += pieces[random() % pieces.size()];
        for (const ToolFormat format : {ToolFormat::any, ToolFormat::hermes, ToolFormat::llama3, ToolFormat::mistral}) {
            const ParsedAnswer answer = parse_tool_calls(text, format, tools);
            if (answer.calls.empty()) CHECK(answer.content == text);
        }
    }
    parse_tool_calls(std::string(100'000, '['), ToolFormat::mistral, tools);
    parse_tool_calls("<tool_call>" + std::string(100'000, '{'), ToolFormat::hermes, tools);
}

}  // namespace
}  // namespace quantplug::test
