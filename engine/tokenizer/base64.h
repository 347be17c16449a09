// Base64 (RFC 4648, section 4) as tokenizer files use it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quantplug::engine {

/// The bytes, or nothing where `text` is no base64: another character, a length that is no multiple of 4, padding
/// anywhere but at the end.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace quantplug::engine
