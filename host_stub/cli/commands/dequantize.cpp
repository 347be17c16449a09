// quantplug dequantize: a plain Hugging Face folder from a quantised one.
#include <nlohmann/json.hpp>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/tool_run.h"

namespace quantplug::host {

int run_dequantize(const DequantizeArguments& arguments, Program& program) {
    nlohmann::json request = {{"in", arguments.folder}, {"out", arguments.out}, {"dtype", arguments.dtype}};
    add_tool_options(request, arguments.options);
    require_model_folder(arguments.folder);
    Backends backends(program.console, arguments.backend);
    const Plugin& plugin = backends.for_tool("dequantize", arguments.folder);
    const auto call = [&](const std::string& json, const JsonEventFn& on_event) {
        plugin.run_tool("dequantize", json, on_event);
    };
    nlohmann::json result = run_json_call(call, request, program.console);
    result.erase("event");
    if (program.console.json())
        program.console.write_json(result);
    else
        program.console.write_text("wrote " + arguments.out + ": " + result.value("tensors", nlohmann::json()).dump() +
                                   " tensors, " + result.value("bytes", nlohmann::json()).dump() + " bytes\n");
    return kExitDone;
}

}  // namespace quantplug::host
