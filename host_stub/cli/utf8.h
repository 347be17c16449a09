// Text from files, plugins and the command line, made safe to print.
#pragma once

#include <string>
#include <string_view>

namespace quantplug::host {

/// `text` with each byte that is not part of well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms, at most
/// U+10FFFF) as U+FFFD.
std::string valid_utf8(std::string_view text);

/// One line for a terminal: valid UTF-8, with every control character (C0, DEL, C1) as a space. A file's name or a
/// checkpoint's key must not be able to move the cursor or change colours.
std::string printable(std::string_view text);

}  // namespace quantplug::host
