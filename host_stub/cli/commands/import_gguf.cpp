// quantplug import-gguf: a plain Hugging Face folder from a GGUF file.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/tool_run.h"
#include "host_stub/cli/utf8.h"

namespace quantplug::host {

int run_import_gguf(const ImportGgufArguments& arguments, Program& program) {
    nlohmann::json request = {{"in", arguments.file}, {"out", arguments.out}, {"dtype", arguments.dtype}};
    add_tool_options(request, arguments.options);
    std::error_code ignored;
    if (std::filesystem::is_directory(arguments.file, ignored))
        throw Error(QP_INVALID_ARGUMENT, arguments.file + " is a folder; give the GGUF file itself");
    Backends backends(program.console, arguments.backend);
    const Plugin& plugin = backends.for_tool("import-gguf");
    const auto call = [&](const std::string& json, const JsonEventFn& on_event) {
        plugin.run_tool("import-gguf", json, on_event);
    };
    nlohmann::json result = run_json_call(call, request, program.console);
    result.erase("event");
    if (program.console.json()) {
        program.console.write_json(result);
        return kExitDone;
    }
    const auto text = [&](const char* key) {
        const auto found = result.find(key);
        if (found == result.end()) return std::string("?");
        return printable(found->is_string() ? found->get<std::string>() : found->dump());
    };
    program.console.write_text("wrote " + arguments.out + ": " + text("architecture") + ", tokenizer " +
                               text("tokenizer") + ", " + text("tensors") + " tensors, " + text("bytes") + " bytes\n");
    return kExitDone;
}

}  // namespace quantplug::host
