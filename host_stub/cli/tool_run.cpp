#include "host_stub/cli/tool_run.h"

#include <nlohmann/json.hpp>

#include "host_stub/cli/arguments.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/interrupt.h"

namespace quantplug::host {
namespace {

using Json = nlohmann::json;

std::string text_of(const Json& event, const char* key) {
    const auto found = event.find(key);
    return found != event.end() && found->is_string() ? found->get<std::string>() : "";
}

double fraction_of(const Json& event) {
    const auto found = event.find("fraction");
    return found != event.end() && found->is_number() ? found->get<double>() : 0;
}

}  // namespace

Json run_json_call(const JsonCall& call, const Json& arguments, Console& console, const JsonEvent& on_event) {
    Json last;
    ProgressBar bar(console);
    call(arguments.dump(-1, ' ', false, Json::error_handler_t::replace), [&](const char* text) {
        Json event = Json::parse(text ? text : "", nullptr, /*allow_exceptions=*/false);
        if (!event.is_object()) throw Error(QP_INTERNAL, "the plugin sent an event that is no JSON object");
        const std::string kind = text_of(event, "event");
        if (kind == "progress") bar.update(fraction_of(event), text_of(event, "what"));
        if (on_event) on_event(event);
        if (kind == "done") last = std::move(event);
        return !interrupted();
    });
    if (last.is_null()) throw Error(QP_INTERNAL, "the plugin ended without its last event");
    return last;
}

void add_tool_options(Json& arguments, const std::vector<std::string>& options) {
    for (const std::string& option : options) {
        const auto [key, value] = parse_option(option);
        if (arguments.contains(key)) throw UsageError("the option '" + key + "' is given twice");
        Json parsed = Json::parse(value, nullptr, /*allow_exceptions=*/false);
        arguments[key] = parsed.is_discarded() ? Json(value) : std::move(parsed);
    }
}

}  // namespace quantplug::host
