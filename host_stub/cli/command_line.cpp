#include "host_stub/cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <new>
#include <nlohmann/json.hpp>

#include "host_stub/cli/failure.h"
#include "host_stub/cli/interrupt.h"
#include "host_stub/cli/spelling.h"

namespace quantplug::host {
namespace {

constexpr const char* kDescription = "Loads EXL2 and GPTQ language models through plugins.";

// One row a command: its name, its flags, its output flags, and how it runs.
struct Command {
    const char* name;
    const char* help;
    std::function<void(CLI::App&, CommandLine&)> add;
    std::function<const OutputArguments&(const CommandLine&)> output;
    std::function<int(const CommandLine&, Program&)> run;
};

template <class Arguments>
Command make_command(const char* name, const char* help, Arguments CommandLine::*arguments,
                     void (*add)(CLI::App&, Arguments&), int (*run)(const Arguments&, Program&)) {
    return {name, help, [=](CLI::App& app, CommandLine& line) { add(app, line.*arguments); },
            [=](const CommandLine& line) -> const OutputArguments& { return line.*arguments; },
            [=](const CommandLine& line, Program& program) { return run(line.*arguments, program); }};
}

std::vector<Command> all_commands() {
    return {
        make_command("plugins", "List the plugins that are found.", &CommandLine::plugins, add_plugins, run_plugins),
        make_command("info", "What a model folder is and the memory it takes.", &CommandLine::info, add_info, run_info),
        make_command("generate", "Go on with a text.", &CommandLine::generate, add_generate, run_generate),
        make_command("chat", "Talk to a model through its chat template.", &CommandLine::chat, add_chat, run_chat),
        make_command("tokenize", "Text to token ids.", &CommandLine::tokenize, add_tokenize, run_tokenize),
        make_command("detokenize", "Token ids to text.", &CommandLine::detokenize, add_detokenize, run_detokenize),
        make_command("perplexity", "How well a model predicts a text.", &CommandLine::perplexity, add_perplexity,
                     run_perplexity),
        make_command("bench", "How fast a model, or a known shape, is here.", &CommandLine::bench, add_bench,
                     run_bench),
        make_command("dequantize", "A plain folder from a quantised one.", &CommandLine::dequantize, add_dequantize,
                     run_dequantize),
        make_command("import-gguf", "A plain folder from a GGUF file.", &CommandLine::import_gguf, add_import_gguf,
                     run_import_gguf),
        make_command("quantize", "An EXL2 or GPTQ folder from a plain one.", &CommandLine::quantize, add_quantize,
                     run_quantize),
    };
}

std::string one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
}

// CLI11 names unexpected arguments from back to front and flags after their values.
std::string unexpected(const std::vector<std::string>& extras, const std::string& command) {
    const auto flag =
        std::find_if(extras.begin(), extras.end(), [](const std::string& extra) { return extra.rfind('-', 0) == 0; });
    if (flag != extras.end()) return *flag + " is not a flag of " + command;
    return "'" + (extras.empty() ? "" : extras.front()) + "' is one argument too many for " + command;
}

void require_known_command(const std::vector<std::string>& arguments, const std::vector<Command>& commands) {
    if (arguments.empty() || arguments.front().rfind('-', 0) == 0) return;
    std::string names;
    for (const Command& command : commands) {
        if (arguments.front() == command.name) return;
        names += (names.empty() ? "" : ", ") + std::string(command.name);
    }
    throw UsageError("there is no command '" + arguments.front() + "'; there are " + names);
}

void write_json_error(Console& console, int32_t code, const std::string& sentence) {
    try {
        console.write_json({{"error", {{"code", code_name(code)}, {"message", sentence}}}});
    } catch (const std::exception&) {  // stdout is gone; stderr has the sentence
    }
}

int interrupted_exit(Console& console, const Error& error) {
    console.note("interrupted");
    if (console.json()) write_json_error(console, error.code(), error.what());
    return kExitInterrupted;
}

void report(Console& console, bool json, int32_t code, const std::string& sentence) {
    console.end_progress();
    console.error(sentence);
    if (json) write_json_error(console, code, sentence);
}

}  // namespace

void parse_command_line(const std::vector<std::string>& arguments, CommandLine& line) {
    CLI::App app(kDescription, "quantplug");
    app.require_subcommand(1);
    app.set_version_flag("--version", "quantplug " QP_HOST_VERSION);
    app.footer(
        "Example: quantplug generate models/smollm2-exl2 -p \"The capital of France is\"\n"
        "Each command has its own --help.");
    const std::vector<Command> commands = all_commands();
    require_known_command(arguments, commands);
    for (const Command& command : commands) command.add(*app.add_subcommand(command.name, command.help), line);

    std::vector<std::string> reversed = expand_spellings(arguments);
    std::reverse(reversed.begin(), reversed.end());  // CLI11 takes them from the back
    try {
        app.parse(reversed);
    } catch (const CLI::CallForHelp&) {
        line.text = app.help();
        return;
    } catch (const CLI::CallForVersion& version) {
        line.text = std::string(version.what()) + "\n";
        return;
    } catch (const CLI::ParseError& error) {
        const std::vector<CLI::App*> chosen = app.get_subcommands();
        const std::string command = chosen.empty() ? "quantplug" : "quantplug " + chosen.back()->get_name();
        const bool extra = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
        throw UsageError((extra ? unexpected(app.remaining(true), command) : one_line(error.what())) + " (see " +
                         command + " --help)");
    }
    line.command = app.get_subcommands().back()->get_name();
}

int run_command_line(const std::vector<std::string>& arguments, std::chrono::steady_clock::time_point start) {
    install_interrupt_handlers();
    Console console;
    Program program{console, start};
    bool json = std::find(arguments.begin(), arguments.end(), "--json") != arguments.end();
    try {
        CommandLine line;
        parse_command_line(arguments, line);
        if (line.command.empty()) {
            console.write_text(line.text);
            return kExitDone;
        }
        const std::vector<Command> commands = all_commands();
        const auto command =
            std::find_if(commands.begin(), commands.end(), [&](const Command& c) { return c.name == line.command; });
        const OutputArguments& output = command->output(line);
        json = output.json;
        console.configure(output.verbosity(), output.progress, json);
        return command->run(line, program);
    } catch (const UsageError& error) {
        report(console, json, QP_INVALID_ARGUMENT, error.what());
        return kExitUsage;
    } catch (const BrokenPipe&) {
        return kExitFailed;
    } catch (const Error& error) {
        if (error.code() == QP_CANCELLED && interrupted()) return interrupted_exit(console, error);
        report(console, json, error.code(), error.what());
    } catch (const std::bad_alloc&) {
        report(console, json, QP_RESOURCE_EXHAUSTED, "out of memory");
    } catch (const std::exception& error) {
        report(console, json, QP_INTERNAL, error.what());
    }
    return kExitFailed;
}

}  // namespace quantplug::host
