#include "engine/tokenizer/unigram.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "engine/base/error.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

constexpr double unk_penalty = 10;  // below the lowest score, as in sentencepiece
constexpr uint32_t unreached = UINT32_MAX;

}  // namespace

PrefixTrie::PrefixTrie(const Vocab& vocab) {
    // A guess of three nodes a token holds for natural vocabularies; otherwise it starts over with twice the room.
    size_t n_tokens = 0;
    for (int32_t id = 0; id < vocab.size(); ++id) n_tokens += vocab.has(id);
    for (size_t size = std::bit_ceil(6 * n_tokens + 16);; size *= 2) {
        slots_.assign(size, {});
        mask_ = size - 1;
        if (fill(vocab, size / 2)) return;
    }
}

bool PrefixTrie::fill(const Vocab& vocab, size_t limit) {
    size_t n_nodes = 0;
    for (int32_t id = 0; id < vocab.size(); ++id) {
        uint32_t node = root;
        for (char c : vocab.token(id)) {
            const auto byte = static_cast<uint8_t>(c);
            size_t at = slot(node, byte);
            while (slots_[at].used && !(slots_[at].parent == node && slots_[at].byte == byte)) at = (at + 1) & mask_;
            if (!slots_[at].used) {
                if (++n_nodes > limit) return false;
                slots_[at] = {node, -1, byte, 1};
            }
            node = static_cast<uint32_t>(at);
        }
        if (node != root) slots_[node].id = id;
    }
    return true;
}

uint32_t PrefixTrie::walk(std::string_view text) const {
    uint32_t node = root;
    for (char c : text) {
        node = next(node, static_cast<uint8_t>(c));
        if (node == root) break;
    }
    return node;
}

int32_t PrefixTrie::find(std::string_view text) const {
    const uint32_t node = walk(text);
    return node == root ? -1 : id(node);
}

void PrefixTrie::remove(std::string_view text) {
    const uint32_t node = walk(text);
    if (node != root) slots_[node].id = -1;
}

struct Unigram::Scratch final : WordScratch {
    std::vector<Node> nodes;
    std::vector<int32_t> path;  // ends of the best path's tokens, from the right
};

Unigram::Unigram(Vocab vocab, std::vector<double> scores, const UnigramOptions& options)
    : WordModel(std::move(vocab)),
      scores_(std::move(scores)),
      options_(options),
      trie_(vocab_),
      byte_tokens_(vocab_),
      cut_at_markers_(!options.raw_bytes && vocab_.find(space_marker) >= 0) {
    double lowest = std::numeric_limits<double>::infinity();
    for (double score : scores_) lowest = std::min(lowest, score);
    unk_score_ = lowest - unk_penalty;
    for (int32_t id = 0; id < vocab_.size() && cut_at_markers_; ++id)
        cut_at_markers_ = next_space_marker(vocab_.token(id), 0) == vocab_.token(id).size();
}

std::unique_ptr<WordScratch> Unigram::make_scratch() const { return std::make_unique<Scratch>(); }

void Unigram::encode(std::string_view word, WordScratch& any_scratch, std::vector<int32_t>& out) const {
    if (word.empty()) return;
    const bool cached = word.size() <= WordCache::max_bytes;
    const size_t hash = cached ? WordCache::hash(word) : 0;
    if (cached && cache_.get(word, hash, out)) return;

    auto& scratch = static_cast<Scratch&>(any_scratch);
    const size_t first = out.size();
    std::string mapped;
    std::string_view text = word;
    if (options_.raw_bytes) text = mapped = map_bytes(word);
    if (!cut_at_markers_) {
        encode_part(text, 0, scratch, out);
    } else {
        // Every path passes through the beginning of a SentencePiece word. The score goes on from one to the next, so
        // that sums round as they do over the whole text.
        double score = 0;
        for (size_t begin = 0; begin < text.size();) {
            const size_t end = next_space_marker(text, begin + 1);
            score = encode_part(text.substr(begin, end - begin), score, scratch, out);
            begin = end;
        }
    }
    if (cached && out.size() - first <= WordCache::max_ids)
        cache_.put(word, hash, out.data() + first, out.size() - first);
}

double Unigram::encode_part(std::string_view text, double score, Scratch& scratch, std::vector<int32_t>& out) const {
    auto& nodes = scratch.nodes;
    nodes.assign(text.size() + 1, {0, -1, unreached});
    nodes[0].score = score;
    const auto offer = [&](size_t begin, size_t end, double path, int32_t id) {
        Node& node = nodes[end];
        if (node.begin != unreached && path <= node.score) return;  // of equal paths the first, its last token longest
        node = {path, id, static_cast<uint32_t>(begin)};
    };
    for (size_t begin = 0; begin < text.size();) {
        const size_t length = std::min<size_t>(utf8_length(text[begin]), text.size() - begin);
        const double here = nodes[begin].score;
        bool known = false;  // the character alone is a token
        uint32_t node = PrefixTrie::root;
        for (size_t end = begin; end < text.size();) {
            node = trie_.next(node, static_cast<uint8_t>(text[end]));
            if (node == PrefixTrie::root) break;
            ++end;
            const int32_t id = trie_.id(node);
            if (id < 0) continue;
            offer(begin, end, scores_[static_cast<size_t>(id)] + here, id);
            known = known || end - begin == length;
        }
        if (!known) {
            const Node& behind = nodes[begin + length];
            if (!options_.unk_id && (behind.begin == unreached || unk_score_ + here > behind.score))
                fail(Code::failed_precondition, "the tokenizer's Unigram model has no unk_id, and the text has ",
                     in_quotes(text.substr(begin, length)), ", which is not in the vocabulary");
            offer(begin, begin + length, unk_score_ + here, options_.unk_id.value_or(-1));
        }
        begin += length;
    }
    scratch.path.clear();
    for (size_t end = text.size(); end > 0; end = nodes[end].begin) scratch.path.push_back(static_cast<int32_t>(end));
    size_t unk_begin = 0, done = 0;  // unknown characters in a row count as one
    for (auto it = scratch.path.rbegin(); it != scratch.path.rend(); ++it) {
        const auto end = static_cast<size_t>(*it);
        const int32_t id = nodes[end].id;
        if (id != options_.unk_id) {
            if (unk_begin < done) append_unknown(text.substr(unk_begin, done - unk_begin), out);
            out.push_back(id);
            unk_begin = end;
        }
        done = end;
    }
    if (unk_begin < done) append_unknown(text.substr(unk_begin, done - unk_begin), out);
    return nodes[text.size()].score;
}

void Unigram::append_unknown(std::string_view text, std::vector<int32_t>& out) const {
    const int32_t id = trie_.find(text);
    if (id >= 0)
        out.push_back(id);
    else if (!options_.byte_fallback || !byte_tokens_.append(text, out))
        out.push_back(*options_.unk_id);
}

}  // namespace quantplug::engine
