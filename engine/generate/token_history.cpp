#include "engine/generate/token_history.h"

#include <algorithm>

#include "engine/generate/token_texts.h"

namespace quantplug::engine {

TokenHistory::TokenHistory(std::span<const int32_t> prompt, int32_t range)
    : ids_(prompt.begin(), prompt.end()), range_(range) {
    for (size_t i = range < 0 ? 0 : prompt.size() - std::min(prompt.size(), size_t(range)); i < prompt.size(); ++i)
        ++counts_[prompt[i]];
}

void TokenHistory::push(int32_t id) {
    ids_.push_back(id);
    if (range_ == 0) return;
    ++counts_[id];
    if (range_ < 0 || ids_.size() <= size_t(range_)) return;
    const auto left = counts_.find(ids_[ids_.size() - 1 - size_t(range_)]);
    if (--left->second == 0) counts_.erase(left);
}

void dry_lengths(std::span<const int32_t> history, const TokenSet* breakers,
                 std::unordered_map<int32_t, int32_t>& lengths) {
    lengths.clear();
    const auto breaks = [&](int32_t id) { return breakers && breakers->contains(id); };
    if (history.size() < 2) return;
    const size_t last = history.size() - 1;
    // How far back the end of the history goes before a breaker.
    size_t longest = 0;
    while (longest < size_t(max_dry_length) && longest <= last && !breaks(history[last - longest])) ++longest;
    if (longest == 0) return;
    for (size_t i = 0; i < last; ++i) {
        if (history[i] != history[last] || breaks(history[i + 1])) continue;
        size_t length = 1;
        while (length < longest && length <= i && history[i - length] == history[last - length]) ++length;
        int32_t& known = lengths[history[i + 1]];
        known = std::max(known, int32_t(length));
    }
}

}  // namespace quantplug::engine
