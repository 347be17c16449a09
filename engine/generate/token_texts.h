// Which tokens of a vocabulary contain a text.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace quantplug::engine {

/// A set of token ids.
class TokenSet {
 public:
    void insert(int32_t id);
    bool contains(int32_t id) const {
        const size_t i = size_t(uint32_t(id));
        return i / 64 < bits_.size() && (bits_[i / 64] >> (i % 64) & 1);
    }

 private:
    std::vector<uint64_t> bits_;
};

/// One per model, shared by its samplers; thread-safe. The vocabulary is decoded once, at the first question (about
/// 0.1 s for 128,000 tokens); the answers to the latest questions are kept.
class TokenTexts {
 public:
    explicit TokenTexts(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

    /// The ids whose text contains one of `pieces` (none of them empty).
    std::shared_ptr<const TokenSet> containing(const std::vector<std::string>& pieces);

 private:
    void decode_all();

    const Tokenizer& tokenizer_;
    std::mutex mutex_;
    std::string text_;             // of all tokens, one after the other
    std::vector<uint32_t> start_;  // (size + 1): where each begins
    std::vector<std::pair<std::vector<std::string>, std::shared_ptr<const TokenSet>>> answers_;
};

}  // namespace quantplug::engine
