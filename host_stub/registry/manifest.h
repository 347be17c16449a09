// The JSON file beside a plugin: {"manifest": 1, "name": "exl2", "library": "libquantplug_exl2.so", "abi": 1}.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace quantplug::host {

struct Manifest {
    std::string name;               // [a-z0-9_]+, what --backend takes
    std::filesystem::path library;  // absolute
    uint32_t abi = 0;
    std::string problem;  // the end of a sentence; empty: none. The other fields hold what could be read
};

/// Reads the manifest at `path`. The library is named relative to the manifest's folder and may lie in or below it:
/// absolute names and ".." are refused, so that a manifest copied from elsewhere loads nothing but what lies beside it.
/// Keys that are not known are ignored.
Manifest read_manifest(const std::filesystem::path& path);

/// Whether `name` is a plugin's name: [a-z0-9_]+, at most 64 characters.
bool is_plugin_name(std::string_view name);

}  // namespace quantplug::host
