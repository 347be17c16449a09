// quantplug detokenize: token ids to text. No weights are loaded.
#include <nlohmann/json.hpp>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/interrupt.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/text_input.h"
#include "host_stub/cli/tokens.h"

namespace quantplug::host {
namespace {

void write_result(const std::string& text, Console& console) {
    if (console.json())
        console.write_json({{"text", text}});
    else
        console.write_text(text + "\n");
}

// Ids of a file's line; a mistake in a file is a failure, not wrong usage.
std::vector<int32_t> ids_of_line(std::string_view line, size_t number) {
    try {
        return parse_ids(std::string(line));
    } catch (const UsageError& error) {
        throw Error(QP_INVALID_ARGUMENT, "line " + std::to_string(number) + ": " + error.what());
    }
}

}  // namespace

int run_detokenize(const DetokenizeArguments& arguments, Program& program) {
    const InputArguments& input = arguments.input;
    const Options options = load_options(arguments);
    std::vector<std::vector<int32_t>> sequences;
    if (input.has_ids && input.file.empty()) {
        if (!input.lines) {
            sequences.push_back(parse_ids(input.ids));
        } else {
            for (const std::string_view line : split_lines(input.ids))
                sequences.push_back(parse_ids(std::string(line)));
        }
    } else {
        const std::string text =
            text_argument(input.has_ids, input.ids, input.file, "--ids 1,2,3, -f FILE or ids on standard input");
        std::vector<int32_t> all;
        for (const std::string_view line : split_lines(text)) {
            std::vector<int32_t> ids = ids_of_line(line, sequences.size() + 1);
            all.insert(all.end(), ids.begin(), ids.end());
            sequences.push_back(std::move(ids));
        }
        if (!input.lines) sequences.assign(1, std::move(all));
    }
    Backends backends(program.console, arguments.backend);
    const Plugin& plugin = backends.for_model(arguments.model);
    const Model model = load_tokenizer(plugin, arguments.model, options, program.console);
    for (const std::vector<int32_t>& ids : sequences) {
        if (interrupted()) return kExitInterrupted;
        write_result(model.detokenize(ids, arguments.special ? QP_SPECIAL_TEXT : 0u), program.console);
    }
    return kExitDone;
}

}  // namespace quantplug::host
