#include "engine/tokenizer/base64.h"

#include <array>
#include <cstdint>

namespace quantplug::engine {
namespace {

constexpr auto values = [] {
    constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::array<int8_t, 256> out{};
    for (int8_t& value : out) value = -1;
    for (size_t i = 0; i < alphabet.size(); ++i) out[static_cast<uint8_t>(alphabet[i])] = static_cast<int8_t>(i);
    return out;
}();

}  // namespace

std::optional<std::string> decode_base64(std::string_view text) {
    if (text.size() % 4 != 0) return std::nullopt;
    size_t n = text.size();
    while (n > 0 && text.size() - n < 2 && text[n - 1] == '=') --n;
    std::string out;
    out.reserve(text.size() / 4 * 3);
    uint32_t bits = 0;
    for (size_t i = 0; i < n; ++i) {
        const int8_t value = values[static_cast<uint8_t>(text[i])];
        if (value < 0) return std::nullopt;
        bits = bits << 6 | static_cast<uint32_t>(value);
        if (i % 4 != 0) out += static_cast<char>(bits >> (6 - 2 * (i % 4)));
    }
    return out;
}

}  // namespace quantplug::engine
