// quantplug quantize: an EXL2 or GPTQ folder from a plain one.
#include <cmath>
#include <nlohmann/json.hpp>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/tool_run.h"

namespace quantplug::host {
namespace {

using Json = nlohmann::json;

Json number(double value) {
    const bool whole = value == std::floor(value) && std::abs(value) < 1e9;
    return whole ? Json(static_cast<int64_t>(value)) : Json(value);
}

}  // namespace

int run_quantize(const QuantizeArguments& arguments, Program& program) {
    Json request = {{"in", arguments.in}, {"out", arguments.out}, {"method", arguments.method}};
    if (arguments.bits) request["bits"] = number(*arguments.bits);
    if (arguments.group_size) request["group_size"] = *arguments.group_size;
    if (arguments.head_bits) request["head_bits"] = *arguments.head_bits;
    add_tool_options(request, arguments.options);
    require_model_folder(arguments.in);

    Console& console = program.console;
    Backends backends(console, arguments.backend);
    const Plugin& plugin = backends.for_format(arguments.format);
    if (!arguments.work.empty())
        console.note("--method rtn needs no work folder: " + arguments.work + " is left alone");
    const auto call = [&](const std::string& json, const JsonEventFn& on_event) { plugin.quantize(json, on_event); };
    const Json result = run_json_call(call, request, console, [&](const Json& event) {
        if (console.json()) console.write_json(event);
    });
    if (!console.json()) {
        const auto text = [&](const char* key) {
            const auto found = result.find(key);
            return found == result.end() ? std::string("?") : found->dump();
        };
        console.write_text("wrote " + arguments.out + ": " + text("bits_per_weight") + " bits per weight, " +
                           text("seconds") + " s\n");
    }
    return kExitDone;
}

}  // namespace quantplug::host
