// What was said so far, as penalties and DRY look at it.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace quantplug::engine {

class TokenSet;

/// Prompt and accepted tokens, and how often each id occurs in the latest `range` of them (-1: all).
class TokenHistory {
 public:
    TokenHistory(std::span<const int32_t> prompt, int32_t range);

    void push(int32_t id);
    std::span<const int32_t> ids() const { return ids_; }
    const std::unordered_map<int32_t, int32_t>& counts() const { return counts_; }  // ids within range

 private:
    std::vector<int32_t> ids_;
    int32_t range_;
    std::unordered_map<int32_t, int32_t> counts_;
};

/// Repetitions longer than this count as this long: a penalty of base^50 is no different from a larger one, and the
/// search stays linear in the history.
inline constexpr int32_t max_dry_length = 50;

/// For every token that would go on with a sequence which the history ends in and has had before: the length of the
/// longest such sequence. No sequence reaches over a token of `breakers` (may be null), and none of those is reported.
/// The rule of DRY's author (github.com/oobabooga/text-generation-webui, pull request 5677).
void dry_lengths(std::span<const int32_t> history, const TokenSet* breakers,
                 std::unordered_map<int32_t, int32_t>& lengths);

}  // namespace quantplug::engine
