// The pre_tokenizer of a tokenizer.json: text into words, which the model encodes one by one.
#pragma once

#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/regex.h"

namespace quantplug::engine {

/// What to do with the matches of a split expression, as in Hugging Face's SplitDelimiterBehavior.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// A part of a text; `at_start`: it begins where the whole input began.
struct Word {
    std::string_view text;
    bool at_start;
};

/// Splits `text` at `matches` (ordered, without overlap) and appends what remains; empty words are left out.
/// `invert`: what lies between the matches counts as the matches.
void split_at(const Word& word, const std::vector<Match>& matches, SplitBehavior behavior, bool invert,
              std::vector<Word>& out);

/// Buffers of one encode call; the words of split() point into it or into the text.
struct PreTokenizerScratch {
    RegexScratch regex;
    std::vector<Match> matches;
    std::vector<Word> words, next;
    std::deque<std::string> texts;  // of stages that change the text
};

class PreTokenizer {
 public:
    /// The object of the key "pre_tokenizer", or null. Known: ByteLevel, Split, Digits, Metaspace, Punctuation,
    /// Whitespace, WhitespaceSplit, CharDelimiterSplit, BertPreTokenizer, FixedLength, Sequence.
    static PreTokenizer parse(const nlohmann::json& json, std::string_view name);

    /// The words end as bytes that stand for themselves, to be mapped by byte_to_char(): the last stage of a byte-level
    /// tokenizer, left to the model.
    bool raw_bytes() const { return raw_bytes_; }

    /// Words of a piece of text; valid until the next call with this scratch. resource_exhausted where a step makes
    /// more than grown_text_limit() of it.
    const std::vector<Word>& split(const Word& text, PreTokenizerScratch& scratch) const;

 private:
    enum class Kind { split, prefix_space, metaspace, map_bytes };
    enum class Scheme { first, never, always };
    struct Stage {
        Kind kind = Kind::split;
        Regex pattern = Regex::literal("");
        SplitBehavior behavior = SplitBehavior::isolated;
        bool invert = false;
        std::string replacement;  // metaspace
        Scheme scheme = Scheme::always;
    };
    void add(const nlohmann::json& json, std::string_view name);
    void add_split(Regex pattern, SplitBehavior behavior, bool invert = false);
    void add_metaspace(const nlohmann::json& json, std::string_view name);

    std::string name_;
    std::vector<Stage> stages_;
    bool raw_bytes_ = false;
};

}  // namespace quantplug::engine
