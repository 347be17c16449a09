// Unigram language model (Kudo 2018, section 3.2): the path of highest score through all pieces of a word, with the ids
// that Hugging Face's tokenizers give, ties included.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/tokenizer/word_cache.h"
#include "engine/tokenizer/word_model.h"

namespace quantplug::engine {

/// Strings by their bytes, for all prefixes of a text. The node of a string is a slot of one hash table, keyed by the
/// node before it and the last byte: 12 bytes a node.
class PrefixTrie {
 public:
    explicit PrefixTrie(const Vocab& vocab);

    static constexpr uint32_t root = UINT32_MAX;
    /// The node behind `node` on `byte`, or root where there is none.
    uint32_t next(uint32_t node, uint8_t byte) const {
        for (size_t at = slot(node, byte);; at = (at + 1) & mask_) {
            const Slot& s = slots_[at];
            if (s.parent == node && s.byte == byte && s.used) return static_cast<uint32_t>(at);
            if (!s.used) return root;
        }
    }
    int32_t id(uint32_t node) const { return slots_[node].id; }  // -1: no string ends here
    int32_t find(std::string_view text) const;                   // -1: none
    void remove(std::string_view text);

 private:
    struct Slot {
        uint32_t parent = root;
        int32_t id = -1;
        uint8_t byte = 0, used = 0;
    };
    size_t slot(uint32_t node, uint8_t byte) const {
        const uint64_t key = (static_cast<uint64_t>(node) << 8 | byte) * 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
        return (key >> 32) & mask_;
    }
    bool fill(const Vocab& vocab, size_t limit);
    uint32_t walk(std::string_view text) const;  // root: nowhere

    std::vector<Slot> slots_;
    size_t mask_ = 0;
};

struct UnigramOptions {
    std::optional<int32_t> unk_id;  // an id of the vocabulary
    bool byte_fallback = false;     // <0xE2> for the bytes of what is not in the vocabulary
    bool raw_bytes = false;         // words are bytes, each standing for byte_to_char() of it
};

class Unigram final : public WordModel {
 public:
    /// `scores[id]` is the logarithm of the token's probability.
    Unigram(Vocab vocab, std::vector<double> scores, const UnigramOptions& options);

    std::unique_ptr<WordScratch> make_scratch() const override;
    void encode(std::string_view word, WordScratch& scratch, std::vector<int32_t>& out) const override;
    void hide(int32_t id) override { trie_.remove(vocab_.token(id)); }
    std::string_view kind() const override { return options_.raw_bytes ? "byte-level Unigram" : "Unigram"; }

 private:
    struct Node {  // the best path that ends at a byte
        double score;
        int32_t id;
        uint32_t begin;  // of its last token
    };
    struct Scratch;
    double encode_part(std::string_view part, double score, Scratch& scratch, std::vector<int32_t>& out) const;
    void append_unknown(std::string_view text, std::vector<int32_t>& out) const;

    std::vector<double> scores_;
    UnigramOptions options_;
    PrefixTrie trie_;
    ByteTokens byte_tokens_;
    double unk_score_ = 0;
    bool cut_at_markers_ = false;  // no token crosses from another character to U+2581
    mutable WordCache cache_;
};

}  // namespace quantplug::engine
