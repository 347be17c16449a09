#include "engine/generate/token_texts.h"

#include <algorithm>

namespace quantplug::engine {

namespace {

constexpr size_t max_answers = 8;

}  // namespace

void TokenSet::insert(int32_t id) {
    const size_t i = size_t(uint32_t(id));
    if (i / 64 >= bits_.size()) bits_.resize(i / 64 + 1);
    bits_[i / 64] |= uint64_t{1} << (i % 64);
}

void TokenTexts::decode_all() {
    std::string text;
    std::vector<uint32_t> start = {0};
    const int32_t n = tokenizer_.size();
    start.reserve(size_t(n) + 1);
    for (int32_t id = 0; id < n; ++id) {
        text += tokenizer_.decode({&id, 1}, true);
        start.push_back(uint32_t(std::min<size_t>(text.size(), UINT32_MAX)));
    }
    text_ = std::move(text);
    start_ = std::move(start);
}

std::shared_ptr<const TokenSet> TokenTexts::containing(const std::vector<std::string>& pieces) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& answer : answers_)
        if (answer.first == pieces) return answer.second;
    if (start_.empty()) decode_all();

    auto set = std::make_shared<TokenSet>();
    for (const std::string& piece : pieces) {
        size_t at = piece.empty() ? std::string::npos : text_.find(piece);
        while (at != std::string::npos) {
            const auto next = std::upper_bound(start_.begin(), start_.end(), uint32_t(at));
            const bool inside = at + piece.size() <= *next;  // not over the seam of two tokens
            if (inside) set->insert(int32_t(next - start_.begin() - 1));
            at = text_.find(piece, inside ? *next : at + 1);
        }
    }
    if (answers_.size() == max_answers) answers_.erase(answers_.begin());
    answers_.emplace_back(pieces, set);
    return set;
}

}  // namespace quantplug::engine
