// What turns the words of a pre-tokenizer into ids: byte-pair merges (bpe.h) or the best path (unigram.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/tokenizer/vocab.h"

namespace quantplug::engine {

/// Buffers of one encode call; each model has its own kind.
class WordScratch {
 public:
    virtual ~WordScratch() = default;
};

/// Immutable; any thread may encode with a scratch of its own.
class WordModel {
 public:
    virtual ~WordModel() = default;

    virtual std::unique_ptr<WordScratch> make_scratch() const = 0;

    /// Appends the ids of a word of valid UTF-8, or of bytes where the model was made for bytes. `scratch` is of this
    /// model's make_scratch(). Errors: failed_precondition (an unknown character, and the model has no unk token).
    virtual void encode(std::string_view word, WordScratch& scratch, std::vector<int32_t>& out) const = 0;

    /// From now on no text becomes this token: special tokens are the business of AddedTokens alone. Hugging Face's
    /// Unigram finds `</s>` in a user's text even where special tokens are to stay text; sentencepiece does not.
    virtual void hide(int32_t id) = 0;

    /// The model's tokens only, no added ones.
    const Vocab& vocab() const { return vocab_; }

    virtual std::string_view kind() const = 0;  // "byte-level BPE", ... for `info`

 protected:
    explicit WordModel(Vocab vocab) : vocab_(std::move(vocab)) {}

    Vocab vocab_;
};

/// Ids of the byte tokens <0x00> .. <0xFF>, -1 where there is none.
struct ByteTokens {
    explicit ByteTokens(const Vocab& vocab);

    /// Appends one id for each byte of `text`; false, and nothing, where one of them has no token.
    bool append(std::string_view text, std::vector<int32_t>& out) const;

    int32_t ids[256];
};

inline constexpr std::string_view space_marker = "\xE2\x96\x81";  // U+2581, SentencePiece's space

/// The next place behind `from` where U+2581 follows another character, or the end: where SentencePiece's words begin.
size_t next_space_marker(std::string_view text, size_t from);

}  // namespace quantplug::engine
