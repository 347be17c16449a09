// Opens a plugin's library and reads its entry.
#pragma once

#include <quantplug/plugin.h>

#include <filesystem>

namespace quantplug::host {

/// The entry of the library at `path` (absolute). The library stays mapped until the process ends. Throws
/// quantplug::Error with a sentence that says why it cannot be used: not a plugin, cannot be loaded (with the loader's
/// own words), or an entry that does not fit.
const qp_entry* open_library(const std::filesystem::path& path);

}  // namespace quantplug::host
