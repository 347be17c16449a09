// Whether a file is a plugin, read from its dynamic symbols before any of its code runs.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace quantplug::host {

/// Why the shared library at `path` is not a plugin of this ABI, as the end of a sentence ("is a text file, not a
/// shared library"); empty where it is one. Opens the file for reading, maps nothing, runs nothing.
std::string why_not_a_plugin(const std::filesystem::path& path);

/// The same for a file's bytes in memory.
std::string why_not_a_plugin(std::span<const std::byte> image);

}  // namespace quantplug::host
