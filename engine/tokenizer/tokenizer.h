// Text to token ids and back. Everything that the engine and the plugins need of a tokenizer, whatever file it came
// from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine {

/// Text of a token sequence that arrives one id at a time. push() returns the text that is certain now, in whole UTF-8
/// characters; finish() the rest. The concatenation of all is what Tokenizer::decode gives for the same ids.
class DecodeStream {
 public:
    virtual ~DecodeStream() = default;
    virtual std::string push(int32_t id) = 0;
    virtual std::string finish() = 0;
};

/// Bytes begin .. end-1 of a text.
struct ByteRange {
    size_t begin = 0, end = 0;
};

/// The first or the last of bytes begin .. end-1 is in one of the ranges, which are ascending and do not overlap.
bool touches(std::span<const ByteRange> ranges, size_t begin, size_t end);

/// Immutable after loading: every method may be called from any thread at any time.
class Tokenizer {
 public:
    /// automatic: as the tokenizer's own files say (post-processor, add_bos_token). on: the BOS token first, exactly
    /// once. off: nothing is added, in front or behind.
    enum class Bos { automatic, on, off };

    virtual ~Tokenizer() = default;

    /// `special_text`: text that looks like a special token becomes that token; otherwise it stays text. Added tokens
    /// that are not special (`<think>` of Qwen3) are tokens in both cases, as in Hugging Face's tokenizers. Input that
    /// is not UTF-8: each maximal invalid part is read as U+FFFD, as Python's errors="replace" does. Errors:
    /// invalid_argument (Bos::on without a BOS token), resource_exhausted (a hostile regular expression hit its limit).
    virtual std::vector<int32_t> encode(std::string_view text, Bos bos, bool special_text) const = 0;

    /// encode(text, bos, true), but a special token that begins or ends in one of `plain` stays text: what a message
    /// says is no control token, while a role between the template's `<|` and `|>` is part of one. `text` is UTF-8.
    virtual std::vector<int32_t> encode_marked(std::string_view text, Bos bos,
                                               std::span<const ByteRange> plain) const = 0;

    /// Whole UTF-8 characters; bytes that form none come out as U+FFFD. Special tokens are skipped unless
    /// `special_text`. Ids outside 0 .. size()-1 and ids without a token give no text.
    std::string decode(std::span<const int32_t> ids, bool special_text) const;

    /// The state of one incremental decode; it must not outlive the tokenizer.
    virtual std::unique_ptr<DecodeStream> decode_stream(bool special_text) const = 0;

    virtual int32_t size() const = 0;  // ids are 0 .. size()-1; some may have no token
    virtual std::optional<int32_t> bos_id() const = 0;
    virtual std::optional<int32_t> eos_id() const = 0;
    virtual std::optional<int32_t> token_to_id(std::string_view token) const = 0;  // the token as the file spells it
    virtual std::string id_to_token(int32_t id) const = 0;                         // empty where there is none
    virtual bool is_special(int32_t id) const = 0;
    virtual bool adds_bos() const = 0;          // Bos::automatic puts bos_id() first
    virtual std::string_view kind() const = 0;  // "tokenizer.json (byte-level BPE)", ... for `info`
};

/// Incremental detokenizer over any tokenizer; one thread at a time; must not outlive the tokenizer.
class Detokenizer {
 public:
    Detokenizer(const Tokenizer& tokenizer, bool special_text) : stream_(tokenizer.decode_stream(special_text)) {}
    std::string push(int32_t id) { return stream_->push(id); }
    std::string finish() { return stream_->finish(); }

 private:
    std::unique_ptr<DecodeStream> stream_;
};

/// The tokenizer of a model folder: tokenizer.json, else tokenizer.model (through the sentencepiece library, or
/// tiktoken text), *.tiktoken or tekken.json, with tokenizer_config.json and special_tokens_map.json for BOS, EOS,
/// added tokens, add_bos_token and add_eos_token. Errors name the file.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder);

/// A tokenizer from the text of a tokenizer.json alone; `name` stands for the file in errors. BOS is the first token of
/// the post-processor's template where there is one.
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view json, std::string_view name);

}  // namespace quantplug::engine
