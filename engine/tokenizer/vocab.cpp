#include "engine/tokenizer/vocab.h"

#include <bit>
#include <functional>

#include "engine/base/error.h"

namespace quantplug::engine {

void Vocab::reserve(int32_t size, size_t n_tokens) {
    spans_.assign(static_cast<size_t>(size), {});
    slots_.assign(std::bit_ceil(n_tokens * 2 + 16), -1);
}

size_t Vocab::slot_of(std::string_view token) const {
    const size_t mask = slots_.size() - 1;
    size_t slot = std::hash<std::string_view>()(token) & mask;
    while (slots_[slot] >= 0 && this->token(slots_[slot]) != token) slot = (slot + 1) & mask;
    return slot;
}

bool Vocab::add(std::string_view token, int32_t id) {
    Span& span = spans_[static_cast<size_t>(id)];
    if (span.length != none) return false;
    const size_t slot = slot_of(token);
    if (slots_[slot] >= 0) return false;
    if (text_.size() + token.size() >= none) fail(Code::invalid_argument, "a vocabulary has more than 4 GiB of text");
    span = {static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(token.size())};
    text_.append(token);
    slots_[slot] = id;
    return true;
}

int32_t Vocab::find(std::string_view token) const { return slots_.empty() ? -1 : slots_[slot_of(token)]; }

std::string_view Vocab::token(int32_t id) const {
    if (!has(id)) return {};
    const Span& span = spans_[static_cast<size_t>(id)];
    return std::string_view(text_).substr(span.begin, span.length);
}

}  // namespace quantplug::engine
