// Added tokens (`<|im_start|>`, `<think>`, runs of spaces): found in a text before anything else is done with it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/regex.h"

namespace quantplug::engine {

struct AddedToken {
    std::string content;
    int32_t id = -1;
    bool single_word = false;  // not next to a word character
    bool lstrip = false;       // takes the white space before it along
    bool rstrip = false;
    bool normalized = true;  // matched in the normalised text, in its normalised form
    bool special = false;
};

/// Strings and which of them begins at a place: a trie of bytes.
class TokenTrie {
 public:
    /// Of equal strings the first stays. No empty strings.
    void add(std::string_view text, int32_t value);
    bool empty() const { return nodes_.size() <= 1; }

    struct Found {
        size_t begin, end;
        int32_t value;
    };
    /// The leftmost match at or behind `from`, the longest of those that begin there.
    std::optional<Found> find(std::string_view text, size_t from) const;

 private:
    struct Node {
        int32_t first_child = -1, sibling = -1, value = -1;
        char byte = 0;
    };
    int32_t child(int32_t node, char byte) const;
    std::vector<Node> nodes_ = std::vector<Node>(1);
    std::vector<int32_t> roots_ = std::vector<int32_t>(256, -1);  // children of the root by byte
};

/// A piece of text, or a token where id >= 0.
struct Segment {
    std::string_view text;
    int32_t id = -1;
};

class AddedTokens {
 public:
    /// `normal_forms[i]` is the normalised content of tokens[i]; used where tokens[i].normalized.
    AddedTokens(std::vector<AddedToken> tokens, const std::vector<std::string>& normal_forms);

    /// Cuts `text` at the tokens that are matched before (`normalized` false) or after normalising. Special tokens are
    /// passed over where !special_text, and the text that they cover with them, as in Hugging Face's
    /// encode_special_tokens.
    std::vector<Segment> cut(std::string_view text, bool normalized, bool special_text, RegexScratch& scratch) const {
        return cut(text, normalized, special_text, scratch, nullptr);
    }
    /// `is_text` says of a special token (its place in tokens(), and where it is in `text`) whether it stays text.
    using IsText = std::function<bool(size_t index, size_t begin, size_t end)>;
    std::vector<Segment> cut(std::string_view text, bool normalized, bool special_text, RegexScratch& scratch,
                             const IsText& is_text) const;

    const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
    bool touches_word(std::string_view text, size_t begin, size_t end, RegexScratch& scratch) const;

    std::vector<AddedToken> tokens_;
    TokenTrie plain_, normal_;
    Regex word_;  // one word character
};

}  // namespace quantplug::engine
