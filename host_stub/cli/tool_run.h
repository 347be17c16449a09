// Runs a tool or a quantiser of a plugin: progress, Ctrl-C, the last event.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <quantplug/host.hpp>
#include <string>
#include <vector>

#include "host_stub/cli/console.h"

namespace quantplug::host {

/// Something that takes JSON arguments and gives JSON events: Plugin::run_tool or Plugin::quantize.
using JsonCall = std::function<void(const std::string& arguments_json, const JsonEventFn& on_event)>;
using JsonEvent = std::function<void(const nlohmann::json& event)>;

/// Runs `call`, draws its progress, hands each event to `on_event` (may be empty) and returns the last one ("done").
/// Ctrl-C cancels. Throws INTERNAL where an event is no JSON object or the last one is missing.
nlohmann::json run_json_call(const JsonCall& call, const nlohmann::json& arguments, Console& console,
                             const JsonEvent& on_event = {});

/// Adds --option KEY=VALUE to a tool's arguments: a value that reads as JSON is passed so, another one as text. Throws
/// UsageError where a key is there already.
void add_tool_options(nlohmann::json& arguments, const std::vector<std::string>& options);

}  // namespace quantplug::host
