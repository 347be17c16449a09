#include "host_stub/cli/utf8.h"

#include <cstdint>

namespace quantplug::host {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// Length of the well-formed character at the start of `text` (not empty), or 0. `code` is its code point.
size_t character_length(std::string_view text, uint32_t& code) {
    const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[i])); };
    const uint32_t lead = byte(0);
    size_t length = 0;
    if (lead < 0x80) {
        code = lead;
        return 1;
    }
    if (lead >= 0xc2 && lead <= 0xdf) {
        length = 2;
        code = lead & 0x1f;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        length = 3;
        code = lead & 0x0f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        length = 4;
        code = lead & 0x07;
    }
    if (length == 0 || text.size() < length) return 0;
    for (size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return 0;
        code = (code << 6) | (byte(i) & 0x3f);
    }
    if (length == 3 && (code < 0x800 || (code >= 0xd800 && code <= 0xdfff))) return 0;
    if (length == 4 && (code < 0x10000 || code > 0x10ffff)) return 0;
    return length;
}

template <bool kPrintable>
std::string clean(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    while (!text.empty()) {
        uint32_t code = 0;
        const size_t length = character_length(text, code);
        if (length == 0)
            result += kReplacement;
        else if (kPrintable && (code < 0x20 || (code >= 0x7f && code < 0xa0)))
            result += ' ';
        else
            result.append(text, 0, length);
        text.remove_prefix(length == 0 ? 1 : length);
    }
    return result;
}

}  // namespace

std::string valid_utf8(std::string_view text) { return clean<false>(text); }
std::string printable(std::string_view text) { return clean<true>(text); }

}  // namespace quantplug::host
