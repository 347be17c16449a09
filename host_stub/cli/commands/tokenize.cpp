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
