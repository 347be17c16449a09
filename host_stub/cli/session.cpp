#include "host_stub/cli/session.h"

#include <algorithm>
#include <array>
#include <fstream>

#include "host_stub/cli/failure.h"
#include "host_stub/cli/interrupt.h"

namespace quantplug::host {
namespace {

namespace fs = std::filesystem;

bool looks_like_path(const std::string& backend) {
    return backend.find('/') != std::string::npos || backend.find('.') != std::string::npos;
}

std::string join(const std::vector<std::string>& parts, const char* separator) {
    std::string text;
    for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
    return text;
}

bool has_tool(const Plugin& plugin, const std::string& tool) {
    if (!plugin.has_extension(QP_EXT_TOOLS)) return false;
    const std::vector<qp_tool_info> tools = plugin.tools();
    return std::any_of(tools.begin(), tools.end(),
                       [&](const qp_tool_info& info) { return info.name && tool == info.name; });
}

bool is_gguf(const fs::path& path) {
    std::array<char, 4> magic{};
    std::ifstream file(path, std::ios::binary);
    return file.read(magic.data(), magic.size()) && std::string_view(magic.data(), magic.size()) == "GGUF";
}

}  // namespace

Backends::Backends(Console& console, const std::string& backend)
    : backend_(backend),
      backend_is_path_(looks_like_path(backend)),
      host_([&console](int32_t level, const char* line) { console.log(level, line); }),
      registry_(search_places(backend_is_path_ ? fs::path(backend) : fs::path()), host_.table()) {}

std::vector<const Plugin*> Backends::all() {
    registry_.load_all();
    std::vector<const Plugin*> plugins = registry_.plugins();
    if (!plugins.empty()) return plugins;
    std::vector<std::string> rejected, places;
    for (const Candidate& candidate : registry_.candidates()) rejected.push_back(candidate.rejected);
    for (const SearchPlace& place : registry_.places()) places.push_back(place.path.string());
    throw Error(QP_NOT_FOUND, rejected.empty() ? "no plugin was found in " + join(places, ", ") +
                                                     "; set QUANTPLUG_PLUGIN_PATH to the folder that holds them"
                                               : "no plugin can be used: " + join(rejected, "; "));
}

const Plugin* Backends::chosen() {
    if (backend_.empty()) return nullptr;
    if (backend_is_path_) {
        std::error_code ignored;
        if (fs::is_directory(registry_.places().front().path, ignored))
            throw Error(QP_INVALID_ARGUMENT,
                        "--backend " + backend_ + " is a folder; name a library or a manifest in it");
        if (const Plugin* plugin = registry_.load_place(0)) return plugin;
        throw Error(QP_FAILED_PRECONDITION, "--backend " + backend_ + ": " + registry_.candidates().front().rejected);
    }
    if (const Plugin* plugin = registry_.find(backend_)) return plugin;
    for (const Candidate& candidate : registry_.candidates())
        if (candidate.name == backend_)
            throw Error(QP_FAILED_PRECONDITION, "--backend " + backend_ + ": " + candidate.rejected);
    std::vector<std::string> names;
    for (const Plugin* plugin : all()) names.push_back(plugin->name());
    throw Error(QP_NOT_FOUND, "--backend " + backend_ + ": there is no such plugin; known are " + join(names, ", "));
}

const Plugin& Backends::best_probe(const std::vector<const Plugin*>& plugins, const std::string& folder) {
    const Plugin* best = nullptr;
    int32_t best_score = 0;
    std::vector<std::string> reasons;
    for (const Plugin* plugin : plugins) {
        qp_probe_result result{};
        try {
            result = plugin->probe(folder);
        } catch (const Error& error) {
            reasons.push_back(plugin->name() + ": " + error.what());
            continue;
        }
        if (result.score > best_score) {
            best = plugin;
            best_score = result.score;
        }
        result.reason[sizeof result.reason - 1] = '\0';
        reasons.push_back(plugin->name() + ": " + (result.reason[0] ? result.reason : "not its format"));
    }
    if (!best) throw Error(QP_FAILED_PRECONDITION, "no plugin loads " + folder + " (" + join(reasons, "; ") + ")");
    return *best;
}

const Plugin& Backends::for_model(const std::string& folder) {
    require_model_folder(folder);
    if (const Plugin* plugin = chosen()) return *plugin;
    return best_probe(all(), folder);
}

const Plugin& Backends::for_tool(const std::string& tool, const std::string& folder) {
    if (const Plugin* plugin = chosen()) {
        if (has_tool(*plugin, tool)) return *plugin;
        throw Error(QP_UNIMPLEMENTED, "plugin '" + plugin->name() + "' has no tool " + tool);
    }
    std::vector<const Plugin*> able;
    std::vector<std::string> names;
    for (const Plugin* plugin : all()) {
        names.push_back(plugin->name());
        if (has_tool(*plugin, tool)) able.push_back(plugin);
    }
    if (able.empty()) throw Error(QP_UNIMPLEMENTED, "no plugin has the tool " + tool + " (" + join(names, ", ") + ")");
    return folder.empty() ? *able.front() : best_probe(able, folder);
}

const Plugin& Backends::for_format(const std::string& format) {
    const auto makes = [](const Plugin& plugin) -> std::string {
        if (!plugin.has_extension(QP_EXT_QUANTIZE)) return {};
        const char* name = plugin.quantizer().name;
        return name ? name : "";
    };
    if (const Plugin* plugin = chosen()) {
        if (makes(*plugin) == format) return *plugin;
        throw Error(QP_UNIMPLEMENTED, "plugin '" + plugin->name() + "' does not make " + format + " folders");
    }
    std::vector<std::string> formats;
    for (const Plugin* plugin : all()) {
        const std::string made = makes(*plugin);
        if (made == format) return *plugin;
        if (!made.empty()) formats.push_back(made);
    }
    throw Error(QP_UNIMPLEMENTED, "no plugin makes " + format + " folders" +
                                      (formats.empty() ? "" : "; those that are there make " + join(formats, ", ")));
}

void require_model_folder(const std::string& path) {
    std::error_code failed;
    const fs::file_status status = fs::status(path, failed);
    if (status.type() == fs::file_type::directory) return;
    if (status.type() == fs::file_type::not_found)
        throw Error(QP_NOT_FOUND, "there is no folder " + path + "; models are local folders, nothing is downloaded");
    if (failed) throw Error(QP_PERMISSION_DENIED, path + " cannot be opened: " + failed.message());
    if (status.type() == fs::file_type::regular && is_gguf(path))
        throw Error(
            QP_INVALID_ARGUMENT,
            path + " is a GGUF file; turn it into a model folder first: quantplug import-gguf " + path + " FOLDER");
    throw Error(QP_INVALID_ARGUMENT, path + " is a file; give the folder that holds it");
}

Options load_options(const ModelArguments& arguments) {
    Options options;
    const auto add = [&](const std::string& key, const std::string& value) {
        for (const auto& given : options)
            if (given.first == key) throw UsageError("the option '" + key + "' is given twice");
        options.emplace_back(key, value);
    };
    if (!arguments.device.empty()) add("device", arguments.device);
    if (!arguments.compute.empty()) add("compute", arguments.compute);
    if (arguments.threads) add("threads", std::to_string(*arguments.threads));
    if (arguments.ctx) add("ctx", std::to_string(*arguments.ctx));
    if (arguments.gpu_layers) add("gpu_layers", std::to_string(*arguments.gpu_layers));
    if (arguments.deterministic) add("deterministic", "1");
    for (const std::string& option : arguments.options) {
        const auto [key, value] = parse_option(option);
        add(key, value);
    }
    return options;
}

Model load_model(const Plugin& plugin, const std::string& folder, const Options& options, Console& console) {
    ProgressBar bar(console);
    return plugin.load(folder, options, [&](double fraction, const char* what) {
        bar.update(fraction, what ? what : "");
        return !interrupted();
    });
}

bool has_load_option(const Plugin& plugin, std::string_view key) {
    const std::vector<qp_option_info> known = plugin.load_options();
    return std::any_of(known.begin(), known.end(),
                       [&](const qp_option_info& option) { return option.key && key == option.key; });
}

Model load_tokenizer(const Plugin& plugin, const std::string& folder, Options options, Console& console) {
    if (has_load_option(plugin, "vocab_only")) options.emplace_back("vocab_only", "1");
    return load_model(plugin, folder, options, console);
}

}  // namespace quantplug::host
