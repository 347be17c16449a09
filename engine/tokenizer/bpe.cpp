#include "engine/tokenizer/bpe.h"

#include <algorithm>
#include <bit>

#include "engine/base/error.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

constexpr size_t scan_limit = 40;  // symbols; a longer word takes the heap

uint64_t pair_key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

void MergeTable::reserve(size_t n_merges) { slots_.assign(std::bit_ceil(n_merges * 3 / 2 + 16), {}); }

size_t MergeTable::slot_of(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    uint64_t hash = key * 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
    size_t slot = (hash ^ hash >> 32) & mask;
    while (slots_[slot].key != key && slots_[slot].key != UINT64_MAX) slot = (slot + 1) & mask;
    return slot;
}

void MergeTable::set(int32_t left, int32_t right, Merge merge) {
    const uint64_t key = pair_key(left, right);
    slots_[slot_of(key)] = {key, merge};
}

MergeTable::Merge MergeTable::find(int32_t left, int32_t right) const {
    return slots_[slot_of(pair_key(left, right))].merge;
}

Bpe::Bpe(Vocab vocab, MergeTable merges, const BpeOptions& options)
    : WordModel(std::move(vocab)), merges_(std::move(merges)), options_(options), byte_tokens_(vocab_) {
    if (!options_.unk_token.empty()) unk_id_ = vocab_.find(options_.unk_token);
    for (size_t b = 0; b < 256; ++b) {
        std::string mapped;
        append_utf8(mapped, byte_to_char(static_cast<uint8_t>(b)));
        byte_ids_[b] = vocab_.find(mapped);
    }
    // Where no merge joins another character to a following marker, no merge can cross that place: a text is cut there,
    // and its parts are short enough for the cache. The marker itself must be a token, so that unknown characters fuse
    // on one side only.
    cut_at_markers_ = !options_.raw_bytes && vocab_.find(space_marker) >= 0;
    if (cut_at_markers_)
        merges_.for_each_id([&](int32_t id) {
            const std::string_view token = vocab_.token(id);
            if (next_space_marker(token, 0) < token.size()) cut_at_markers_ = false;
        });
}

std::string_view Bpe::kind() const {
    if (options_.raw_bytes) return "byte-level BPE";
    return options_.byte_fallback ? "BPE with byte fallback" : "BPE";
}

void Bpe::hide(int32_t id) { hidden_.insert(std::lower_bound(hidden_.begin(), hidden_.end(), id), id); }

int32_t Bpe::whole_word(std::string_view word) const {
    const int32_t id = options_.raw_bytes ? vocab_.find(map_bytes(word)) : vocab_.find(word);
    return std::binary_search(hidden_.begin(), hidden_.end(), id) ? -1 : id;
}

void Bpe::encode(std::string_view word, WordScratch& any_scratch, std::vector<int32_t>& out) const {
    if (word.empty()) return;
    auto& scratch = static_cast<BpeScratch&>(any_scratch);
    if (!cut_at_markers_) return encode_part(word, scratch, out);
    if (options_.ignore_merges) {
        if (const int32_t id = whole_word(word); id >= 0) {
            out.push_back(id);
            return;
        }
    }
    for (size_t begin = 0; begin < word.size();) {
        const size_t end = next_space_marker(word, begin + 1);
        encode_part(word.substr(begin, end - begin), scratch, out);
        begin = end;
    }
}

void Bpe::encode_part(std::string_view part, BpeScratch& scratch, std::vector<int32_t>& out) const {
    const bool cached = part.size() <= WordCache::max_bytes;
    const size_t hash = cached ? WordCache::hash(part) : 0;
    if (cached && cache_.get(part, hash, out)) return;

    if (options_.ignore_merges && !cut_at_markers_) {
        if (const int32_t id = whole_word(part); id >= 0) {
            out.push_back(id);
            if (cached) cache_.put(part, hash, &id, 1);
            return;
        }
    }
    scratch.ids.clear();
    first_symbols(part, scratch.ids);
    const auto n = static_cast<int32_t>(scratch.ids.size());
    const size_t first = out.size();
    if (n > 0) {
        scratch.symbols.resize(scratch.ids.size());
        for (int32_t i = 0; i < n; ++i) {
            const auto at = static_cast<size_t>(i);
            const int32_t next = i + 1 < n ? i + 1 : -1;
            scratch.symbols[at] = {scratch.ids[at], i - 1, next,
                                   next < 0 ? MergeTable::Merge{MergeTable::none, -1}
                                            : merges_.find(scratch.ids[at], scratch.ids[at + 1])};
        }
        if (scratch.ids.size() <= scan_limit)
            merge_few(scratch);
        else
            merge_many(scratch);
        for (int32_t i = 0; i >= 0; i = scratch.symbols[static_cast<size_t>(i)].next)
            out.push_back(scratch.symbols[static_cast<size_t>(i)].id);
    }
    if (cached && out.size() - first <= WordCache::max_ids)
        cache_.put(part, hash, out.data() + first, out.size() - first);
}

void Bpe::first_symbols(std::string_view part, std::vector<int32_t>& ids) const {
    int32_t pending_unk = -1;  // Hugging Face adds an unk when the next known character comes
    for (size_t i = 0; i < part.size();) {
        const auto byte = static_cast<uint8_t>(part[i]);
        const size_t length = options_.raw_bytes ? 1 : utf8_length(part[i]);
        const int32_t id = options_.raw_bytes ? byte_ids_[byte] : vocab_.find(part.substr(i, length));
        if (id >= 0) {
            if (pending_unk >= 0) ids.push_back(pending_unk);
            pending_unk = -1;
            ids.push_back(id);
            i += length;
            continue;
        }
        std::string mapped;
        if (options_.raw_bytes) append_utf8(mapped, byte_to_char(byte));
        const std::string_view unknown = options_.raw_bytes ? std::string_view(mapped) : part.substr(i, length);
        i += length;
        if (options_.byte_fallback && byte_tokens_.append(unknown, ids)) continue;
        if (options_.unk_token.empty()) continue;
        if (unk_id_ < 0)
            fail(Code::failed_precondition, "the tokenizer's unk_token ", in_quotes(options_.unk_token),
                 " is not in its vocabulary, and the text has ", in_quotes(unknown), ", which is not either");
        if (pending_unk >= 0 && !options_.fuse_unk) ids.push_back(pending_unk);
        pending_unk = unk_id_;
    }
    if (pending_unk >= 0) ids.push_back(pending_unk);
}

void Bpe::merge_few(BpeScratch& scratch) const {
    auto& symbols = scratch.symbols;
    while (true) {
        int32_t best = -1;
        uint32_t best_rank = MergeTable::none;
        for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
            const uint32_t rank = symbols[static_cast<size_t>(i)].merge.rank;
            if (rank < best_rank) {
                best_rank = rank;
                best = i;
            }
        }
        if (best < 0) return;
        auto& left = symbols[static_cast<size_t>(best)];
        left.id = left.merge.id;
        left.next = symbols[static_cast<size_t>(left.next)].next;
        left.merge = {MergeTable::none, -1};
        if (left.next >= 0) {
            auto& next = symbols[static_cast<size_t>(left.next)];
            next.previous = best;
            left.merge = merges_.find(left.id, next.id);
        }
        if (left.previous >= 0) {
            auto& previous = symbols[static_cast<size_t>(left.previous)];
            previous.merge = merges_.find(previous.id, left.id);
        }
    }
}

void Bpe::merge_many(BpeScratch& scratch) const {
    auto& symbols = scratch.symbols;
    auto& heap = scratch.heap;
    // Lowest rank first, then the leftmost. A candidate is stale where its symbol is gone or merges into something else
    // now.
    const auto later = [](const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
        return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
    };
    heap.clear();
    for (size_t i = 0; i < symbols.size(); ++i)
        if (symbols[i].merge.rank != MergeTable::none)
            heap.push_back({symbols[i].merge.rank, static_cast<int32_t>(i), symbols[i].merge.id});
    std::make_heap(heap.begin(), heap.end(), later);
    const auto update = [&](int32_t position) {
        auto& left = symbols[static_cast<size_t>(position)];
        left.merge = {MergeTable::none, -1};
        if (left.next < 0) return;
        left.merge = merges_.find(left.id, symbols[static_cast<size_t>(left.next)].id);
        if (left.merge.rank == MergeTable::none) return;
        heap.push_back({left.merge.rank, position, left.merge.id});
        std::push_heap(heap.begin(), heap.end(), later);
    };
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end(), later);
        const BpeScratch::Candidate top = heap.back();
        heap.pop_back();
        auto& left = symbols[static_cast<size_t>(top.position)];
        if (left.merge.rank != top.rank || left.merge.id != top.id) continue;
        auto& right = symbols[static_cast<size_t>(left.next)];
        right.merge = {MergeTable::none, -1};
        left.id = top.id;
        left.next = right.next;
        if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = top.position;
        update(top.position);
        if (left.previous >= 0) update(left.previous);
    }
}

}  // namespace quantplug::engine
