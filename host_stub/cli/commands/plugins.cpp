// quantplug plugins: every candidate, and why it was rejected.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "host_stub/cli/commands/commands.h"
#include "host_stub/cli/failure.h"
#include "host_stub/cli/session.h"
#include "host_stub/cli/utf8.h"

namespace quantplug::host {
namespace {

using Json = nlohmann::json;

std::vector<std::string> split_formats(const std::string& formats) {
    std::vector<std::string> result;
    for (size_t at = 0; at < formats.size();) {
        const size_t comma = std::min(formats.find(',', at), formats.size());
        if (comma > at) result.push_back(formats.substr(at, comma - at));
        at = comma + 1;
    }
    return result;
}

Json to_json(const Candidate& candidate) {
    const bool ok = candidate.plugin.has_value();
    return {{"name", candidate.name},
            {"version", ok ? candidate.plugin->version() : ""},
            {"abi", candidate.abi},
            {"path", candidate.path().string()},
            {"status", ok ? "ok" : "rejected"},
            {"reason", candidate.rejected},
            {"formats", ok ? split_formats(candidate.plugin->formats()) : std::vector<std::string>()},
            {"origin", candidate.origin}};
}

std::string padded(const std::string& text, size_t width) {
    return text + std::string(text.size() < width ? width - text.size() : 0, ' ');
}

std::string table(const std::vector<Candidate>& candidates) {
    std::string out = padded("NAME", 12) + padded("VERSION", 12) + padded("FORMATS", 14) + "PATH\n";
    for (const Candidate& candidate : candidates) {
        const bool ok = candidate.plugin.has_value();
        out += padded(candidate.name.empty() ? "-" : printable(candidate.name), 12) +
               padded(ok ? printable(candidate.plugin->version()) : "-", 12) +
               padded(ok ? printable(candidate.plugin->formats()) : "-", 14) + printable(candidate.path().string()) +
               "\n";
        if (!ok) out += "    rejected: " + printable(candidate.rejected) + "\n";
    }
    return out;
}

}  // namespace

int run_plugins(const PluginsArguments& arguments, Program& program) {
    Backends backends(program.console, arguments.backend);
    if (!arguments.backend.empty() && backends.registry().places().front().origin != "--backend")
        throw UsageError("--backend " + arguments.backend + " is no path; every plugin by name is listed anyway");
    backends.registry().load_all();
    const std::vector<Candidate>& candidates = backends.registry().candidates();
    if (program.console.json()) {
        Json list = Json::array();
        for (const Candidate& candidate : candidates) list.push_back(to_json(candidate));
        program.console.write_json({{"plugins", std::move(list)}});
        return kExitDone;
    }
    if (!candidates.empty()) {
        program.console.write_text(table(candidates));
        return kExitDone;
    }
    program.console.write_text("no plugin was found in:\n");
    for (const SearchPlace& place : backends.registry().places())
        program.console.write_text("    " + printable(place.path.string()) + "  (" + place.origin + ")\n");
    return kExitDone;
}

}  // namespace quantplug::host
