// Where plugins are looked for, first match first.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quantplug::host {

/// A folder of plugins, or one library or manifest that was named.
struct SearchPlace {
    std::filesystem::path path;  // absolute
    std::string origin;          // "--backend", "QUANTPLUG_PLUGIN_PATH", "beside the program", "user", "system"
    bool named = false;          // named by the user: worth a line in the list if it is not there
};

/// `explicit_path` (may be empty), QUANTPLUG_PLUGIN_PATH (folders or files, separated by colons), beside the program
/// (../lib/quantplug and lib/quantplug from where the executable really lies), the user's (~/.local/lib/quantplug), the
/// system's (/usr/local/lib/quantplug, /usr/lib/quantplug).
std::vector<SearchPlace> search_places(const std::filesystem::path& explicit_path = {});

/// The absolute path of this program's file with symbolic links resolved; empty where /proc does not tell.
std::filesystem::path program_path();

}  // namespace quantplug::host
