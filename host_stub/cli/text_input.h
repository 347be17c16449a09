// Text and token ids that a command is given.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::host {

/// The whole file, "-" being standard input. Throws quantplug::Error with the file's name.
std::string read_text(const std::string& path);

/// `text` where it was given; otherwise the file; otherwise standard input, unless that is a terminal (UsageError that
/// says what to give: `what`, "-p TEXT, -f FILE or text on standard input"). Giving both is a UsageError.
std::string text_argument(bool has_text, const std::string& text, const std::string& file, const std::string& what);

/// Lines of `text` without their line feeds; a line feed at the very end begins no further line. They point into
/// `text`, which must outlive them.
std::vector<std::string_view> split_lines(std::string_view text);

}  // namespace quantplug::host
