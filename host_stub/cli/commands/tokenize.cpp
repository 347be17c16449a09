// quantplug tokenize: text to token ids. No weights are loaded.
#include <nlohmann/json.hpp>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/interrupt.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/text_input.h"
#include "host_stub/cli/tokens.h"

namespace quantplug::host {
namespace {

void write_ids(const std::vector<int32_t>& ids, Console& console) {
    if (console.json()) {
        console.write_json({{"ids", ids}});
        return;
    }
    std::string line;
    for (const int32_t id : ids) line += (line.empty() ? "" : ",") + std::to_string(id);
    console.write_text(line + "\n");
}

}  // namespace

void add_tokenize(CLI::App& command, TokenizeArguments& arguments) {
    add_model_arguments(command, arguments);
    CLI::Option* text = command.add_option("-p,--prompt", arguments.input.text, "the text")->type_name("TEXT");
    command.add_option("-f,--file", arguments.input.file, "the text from a file; - is standard input")
        ->type_name("FILE");
    command.callback([text, &arguments] { arguments.input.has_text = text->count() > 0; });
    command.add_flag("--lines", arguments.input.lines, "one result per line of the input");
    add_special(command, arguments.special, "text like <|im_start|> is the token (default off)");
    add_bos(command, arguments.bos);
    add_output_arguments(command, arguments);
    command.footer("Example: the ids of a text\n  quantplug tokenize models/smollm2-exl2 -p \"Hello world\"");
}

int run_tokenize(const TokenizeArguments& arguments, Program& program) {
    const Options options = load_options(arguments);
    const std::string text = text_argument(arguments.input.has_text, arguments.input.text, arguments.input.file,
                                           "-p TEXT, -f FILE or text on standard input");
    Backends backends(program.console, arguments.backend);
    const Plugin& plugin = backends.for_model(arguments.model);
    const Model model = load_tokenizer(plugin, arguments.model, options, program.console);
    const uint32_t flags = tokenize_flags(arguments.bos, arguments.special);
    if (!arguments.input.lines) {
        write_ids(model.tokenize(text, flags), program.console);
        return kExitDone;
    }
    for (const std::string_view line : split_lines(text)) {
        if (interrupted()) return kExitInterrupted;
        write_ids(model.tokenize(std::string(line), flags), program.console);
    }
    return kExitDone;
}

}  // namespace quantplug::host
