#include "engine/tokenizer/word_model.h"

#include <algorithm>
#include <string>

namespace quantplug::engine {

ByteTokens::ByteTokens(const Vocab& vocab) {
    static constexpr char digits[] = "0123456789ABCDEF";
    for (size_t b = 0; b < 256; ++b) ids[b] = vocab.find(std::string("<0x") + digits[b >> 4] + digits[b & 15] + ">");
}

bool ByteTokens::append(std::string_view text, std::vector<int32_t>& out) const {
    if (!std::all_of(text.begin(), text.end(), [&](char b) { return ids[static_cast<uint8_t>(b)] >= 0; })) return false;
    for (char b : text) out.push_back(ids[static_cast<uint8_t>(b)]);
    return true;
}

size_t next_space_marker(std::string_view text, size_t from) {
    while (from < text.size()) {
        const size_t at = text.find(space_marker, from);
        if (at == std::string_view::npos) return text.size();
        const bool follows =
            at >= space_marker.size() && text.substr(at - space_marker.size(), space_marker.size()) == space_marker;
        if (at > 0 && !follows) return at;
        from = at + space_marker.size();
    }
    return text.size();
}

}  // namespace quantplug::engine
