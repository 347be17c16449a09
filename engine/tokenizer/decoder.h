// The decoder of a tokenizer: tokens into text, one at a time.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/regex.h"
#include "engine/tokenizer/tokenizer.h"

namespace quantplug::engine {

/// One step of the chain. A chain maps tokens to tokens; all that come out, joined, are the text.
struct DecoderStage {
    enum class Kind {
        byte_level,     // stand-ins to bytes, bytes to UTF-8; one token comes out
        byte_fallback,  // <0xHH> to bytes; a run that is no UTF-8 is one U+FFFD a byte
        fuse,           // one token of all
        replace,
        strip,      // up to `start` characters `text` in front of each token, up to `stop` behind
        metaspace,  // the character `text` is a space; nothing in the first token if `start`
        suffix,     // `text` is a space; nothing in the last token
        join,       // a space between tokens: there is no decoder
    };
    Kind kind;
    std::string text;
    Regex pattern = Regex::literal("");
    int32_t start = 0, stop = 0;
    std::string type = {};  // as the file has it
};

class TextDecoder {
 public:
    /// The object of the key "decoder", or null. Known: ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace,
    /// BPEDecoder, Sequence.
    static TextDecoder parse(const nlohmann::json& json, std::string_view name);

    /// SentencePiece's decoding: U+2581 is a space, bytes, one leading space off if `strip_leading_space`.
    static TextDecoder sentencepiece(bool strip_leading_space);

    const std::vector<DecoderStage>& stages() const { return stages_; }
    /// The file, for errors.
    const std::string& name() const { return name_; }

 private:
    void add(const nlohmann::json& json, std::string_view name);
    std::vector<DecoderStage> stages_;
    std::string name_;
};

/// A decode in progress. Must not outlive the decoder.
class DecoderRun {
 public:
    explicit DecoderRun(const TextDecoder& decoder) : decoder_(decoder), states_(stages_.size()) {}

    /// Text that is certain after this token, whole characters only. resource_exhausted where a stage makes more text
    /// of all tokens so far than grown_text_limit() allows.
    std::string push(std::string_view token);
    std::string finish();

 private:
    struct State {
        // Bytes of an unfinished character or byte run; characters that strip may take; the token before.
        std::string held;
        bool any = false;      // a token has passed
        int32_t stripped = 0;  // characters taken in front
        bool inside = false;   // strip: past what it takes in front
    };
    using Tokens = std::vector<std::string>;
    void step(size_t stage, Tokens& tokens);
    void flush(size_t stage, Tokens& tokens);
    std::string run_stages(Tokens tokens, bool last);
    [[noreturn]] void too_long(size_t stage) const;
    void strip_stream(const DecoderStage& stage, State& state, std::string& token) const;

    const TextDecoder& decoder_;
    const std::vector<DecoderStage>& stages_ = decoder_.stages();
    std::vector<State> states_;
    RegexScratch scratch_;
    uint64_t taken_ = 0, given_ = 0;  // bytes of tokens and of text since the start
};

/// The incremental decode of a tokenizer whose decoder_text(id, special_text, token) gives what its decoder takes, or
/// false for no text.
template <class T, class Token>
class TokenStream final : public DecodeStream {
 public:
    TokenStream(const T& tokenizer, bool special_text)
        : tokenizer_(tokenizer), special_text_(special_text), run_(tokenizer.decoder()) {}

    std::string push(int32_t id) override {
        Token token;
        return tokenizer_.decoder_text(id, special_text_, token) ? run_.push(token) : std::string();
    }
    std::string finish() override { return run_.finish(); }

 private:
    const T& tokenizer_;
    bool special_text_;
    DecoderRun run_;
};

}  // namespace quantplug::engine
