// From arguments to a plugin and a loaded model.
#pragma once

#include <filesystem>
#include <quantplug/host.hpp>
#include <string>
#include <string_view>

#include "host_stub/cli/arguments.h"
#include "host_stub/cli/console.h"
#include "host_stub/registry/registry.h"

namespace quantplug::host {

/// The plugins of one run of the program. Must outlive what it gives out.
class Backends {
 public:
    /// `backend`: BackendArguments::backend. Loads nothing yet.
    Backends(Console& console, const std::string& backend);

    Registry& registry() { return registry_; }

    /// The plugin that loads `folder`: the one that --backend names, otherwise the best score of all probes, the first
    /// of equals. Throws NOT_FOUND or FAILED_PRECONDITION with each plugin's reason.
    const Plugin& for_model(const std::string& folder);

    /// The plugin that offers the tool: the one that --backend names; otherwise, where `folder` is not empty, the best
    /// probe of it among those that have the tool; otherwise the first that has it.
    const Plugin& for_tool(const std::string& tool, const std::string& folder = {});

    /// The plugin whose quantiser makes `format`.
    const Plugin& for_format(const std::string& format);

 private:
    const Plugin* chosen();  // by --backend; null: none was named
    std::vector<const Plugin*> all();
    const Plugin& best_probe(const std::vector<const Plugin*>& plugins, const std::string& folder);

    std::string backend_;
    bool backend_is_path_;
    Host host_;
    Registry registry_;
};

/// Throws an Error that says what to do unless `path` is a folder: it is not there, a GGUF file, another file.
void require_model_folder(const std::string& path);

/// The load options that the arguments give. Throws UsageError where one is given twice.
Options load_options(const ModelArguments& arguments);

/// Loads with a progress bar; Ctrl-C cancels (Error with QP_CANCELLED).
Model load_model(const Plugin& plugin, const std::string& folder, const Options& options, Console& console);

/// Whether the plugin lists the load option `key`.
bool has_load_option(const Plugin& plugin, std::string_view key);

/// Loads the tokenizer alone where the plugin has the option `vocab_only`, everything where it has not.
Model load_tokenizer(const Plugin& plugin, const std::string& folder, Options options, Console& console);

}  // namespace quantplug::host
