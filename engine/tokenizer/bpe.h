// Byte-pair encoding of one word (Sennrich et al. 2016, section 3.2; GPT-2's byte-level and SentencePiece's form of
// it), with the ids that Hugging Face's tokenizers give.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/word_cache.h"
#include "engine/tokenizer/word_model.h"

namespace quantplug::engine {

struct BpeOptions {
    std::string unk_token;  // empty: none; then what is not in the vocabulary vanishes
    bool fuse_unk = false;
    bool byte_fallback = false;  // <0xE2> for the bytes of characters that are not in the vocabulary
    bool ignore_merges = false;  // a word that is a token is that token, whatever the merges say
    bool raw_bytes = false;      // words are bytes, each standing for byte_to_char() of it
};

/// Pair of ids -> rank and merged id. Open addressing, 16 bytes a slot.
class MergeTable {
 public:
    struct Merge {
        uint32_t rank;  // none: no such merge
        int32_t id;
    };
    static constexpr uint32_t none = UINT32_MAX;

    void reserve(size_t n_merges);
    /// A later merge of the same pair replaces the earlier, as in Hugging Face's tokenizers.
    void set(int32_t left, int32_t right, Merge merge);
    Merge find(int32_t left, int32_t right) const;

    /// Calls visit(merged id) for every merge, in no order.
    template <typename Visit>
    void for_each_id(Visit visit) const {
        for (const Slot& slot : slots_)
            if (slot.merge.rank != none) visit(slot.merge.id);
    }

 private:
    struct Slot {
        uint64_t key = UINT64_MAX;
        Merge merge{none, -1};
    };
    size_t slot_of(uint64_t key) const;
    std::vector<Slot> slots_ = std::vector<Slot>(16);
};

/// Buffers of one encode call.
struct BpeScratch final : WordScratch {
    struct Symbol {
        int32_t id, previous, next;
        MergeTable::Merge merge;  // with the next symbol
    };
    struct Candidate {
        uint32_t rank;
        int32_t position, id;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    std::vector<int32_t> ids;
};

class Bpe final : public WordModel {
 public:
    Bpe(Vocab vocab, MergeTable merges, const BpeOptions& options);

    std::unique_ptr<WordScratch> make_scratch() const override { return std::make_unique<BpeScratch>(); }
    void encode(std::string_view word, WordScratch& scratch, std::vector<int32_t>& out) const override;
    void hide(int32_t id) override;
    std::string_view kind() const override;

 private:
    int32_t whole_word(std::string_view word) const;  // for ignore_merges; -1: none
    void encode_part(std::string_view part, BpeScratch& scratch, std::vector<int32_t>& out) const;
    void first_symbols(std::string_view part, std::vector<int32_t>& ids) const;
    void merge_few(BpeScratch& scratch) const;   // scans for the lowest rank
    void merge_many(BpeScratch& scratch) const;  // keeps a heap

    MergeTable merges_;
    BpeOptions options_;
    int32_t unk_id_ = -1;
    std::vector<int32_t> hidden_;          // ascending; concerns ignore_merges, merges give none of them
    std::array<int32_t, 256> byte_ids_{};  // of byte_to_char(b), -1: none
    ByteTokens byte_tokens_;               // for byte_fallback
    bool cut_at_markers_ = false;          // no merge crosses from another character to U+2581
    mutable WordCache cache_;
};

}  // namespace quantplug::engine
