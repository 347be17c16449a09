#include "engine/tokenizer/added_tokens.h"

#include <algorithm>

#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {

int32_t TokenTrie::child(int32_t node, char byte) const {
    int32_t at = nodes_[static_cast<size_t>(node)].first_child;
    while (at >= 0 && nodes_[static_cast<size_t>(at)].byte != byte) at = nodes_[static_cast<size_t>(at)].sibling;
    return at;
}

void TokenTrie::add(std::string_view text, int32_t value) {
    int32_t node = 0;
    for (char byte : text) {
        int32_t next = node == 0 ? roots_[static_cast<uint8_t>(byte)] : child(node, byte);
        if (next < 0) {
            next = static_cast<int32_t>(nodes_.size());
            auto& parent = nodes_[static_cast<size_t>(node)];
            Node fresh;
            fresh.byte = byte;
            fresh.sibling = parent.first_child;
            parent.first_child = next;
            nodes_.push_back(fresh);
            if (node == 0) roots_[static_cast<uint8_t>(byte)] = next;
        }
        node = next;
    }
    auto& last = nodes_[static_cast<size_t>(node)];
    if (last.value < 0) last.value = value;
}

std::optional<TokenTrie::Found> TokenTrie::find(std::string_view text, size_t from) const {
    for (size_t begin = from; begin < text.size(); ++begin) {
        int32_t node = roots_[static_cast<uint8_t>(text[begin])];
        std::optional<Found> found;
        for (size_t end = begin + 1; node >= 0; ++end) {
            const int32_t value = nodes_[static_cast<size_t>(node)].value;
            if (value >= 0) found = Found{begin, end, value};
            if (end >= text.size()) break;
            node = child(node, text[end]);
        }
        if (found) return found;
    }
    return std::nullopt;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const std::vector<std::string>& normal_forms)
    : tokens_(std::move(tokens)),
      word_(Regex::compile(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}])", "added_tokens")) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
        const auto value = static_cast<int32_t>(i);
        if (!tokens_[i].normalized)
            plain_.add(tokens_[i].content, value);
        else if (!normal_forms[i].empty())
            normal_.add(normal_forms[i], value);
    }
}

bool AddedTokens::touches_word(std::string_view text, size_t begin, size_t end, RegexScratch& scratch) const {
    std::vector<Match> matches;
    if (begin > 0) {
        const Utf8Char before = utf8_before(text, begin);
        word_.find_all(text.substr(begin - before.length, before.length), scratch, matches);
    }
    if (end < text.size()) word_.find_all(text.substr(end, utf8_length(text[end])), scratch, matches);
    return !matches.empty();
}

std::vector<Segment> AddedTokens::cut(std::string_view text, bool normalized, bool special_text, RegexScratch& scratch,
                                      const IsText& is_text) const {
    std::vector<Segment> out;
    const TokenTrie& trie = normalized ? normal_ : plain_;
    size_t done = 0;
    if (!trie.empty()) {
        for (auto found = trie.find(text, 0); found; found = trie.find(text, found->end)) {
            const AddedToken& token = tokens_[static_cast<size_t>(found->value)];
            if (token.special && !special_text) continue;
            if (token.special && is_text && is_text(static_cast<size_t>(found->value), found->begin, found->end))
                continue;
            size_t begin = found->begin, end = found->end;
            if (token.single_word && touches_word(text, begin, end, scratch)) continue;
            while (token.lstrip && begin > done) {
                const Utf8Char before = utf8_before(text, begin);
                if (!is_white_space(before.code)) break;
                begin -= before.length;
            }
            while (token.rstrip && end < text.size()) {
                const Utf8Char after = utf8_at(text, end);
                if (!is_white_space(after.code)) break;
                end += after.length;
            }
            // A token that begins inside the white space of the one before keeps its id, as in Hugging Face's.
            if (begin > done) out.push_back({text.substr(done, begin - done), -1});
            out.push_back({text.substr(begin, end - begin), token.id});
            done = std::max(done, end);
        }
    }
    if (done < text.size()) out.push_back({text.substr(done), -1});
    return out;
}

}  // namespace quantplug::engine
