// The whole command line: parsing it, and running what it asks for.
#pragma once

#include <string>
#include <vector>

#include "host_stub/cli/commands/commands.h"

namespace quantplug::host {

/// Everything that a command line can say. Only the arguments of `command` are filled.
struct CommandLine {
    std::string command;  // empty: help or version was asked for
    std::string text;     // then: what to print
    PluginsArguments plugins;
    InfoArguments info;
    GenerateArguments generate;
    ChatArguments chat;
    TokenizeArguments tokenize;
    DetokenizeArguments detokenize;
    PerplexityArguments perplexity;
    BenchArguments bench;
    DequantizeArguments dequantize;
    ImportGgufArguments import_gguf;
    QuantizeArguments quantize;
};

/// Parses the arguments (without the program's name) into `line`. Throws UsageError with one sentence.
void parse_command_line(const std::vector<std::string>& arguments, CommandLine& line);

/// The program: parses, runs, prints errors. The exit code is the answer. `start`: read first thing in main().
int run_command_line(const std::vector<std::string>& arguments, std::chrono::steady_clock::time_point start);

}  // namespace quantplug::host
