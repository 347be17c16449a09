#include "engine/tokenizer/vocab.h"

#include <bit>
#include <cstring>
#include <functional>

#include "engine/base/error.h"

namespace quantplug::engine {

void Vocab::reserve(int32_t size, size_t n_tokens) {
    spans_.assign(static_cast<size_t>(size), {});
    slots_.assign(std::bit_ceil(n_tokens * 2 + 2), {});
}

size_t Vocab::slot_of(std::string_view token, size_t hash) const {
    const size_t mask = slots_.size() - 1;
    const auto tag = static_cast<uint32_t>(hash >> 32);
    size_t at = hash & mask;
    while (slots_[at].id >= 0) {
        const Slot& slot = slots_[at];
        if (slot.hash == tag && slot.span.length == token.size() &&
            std::memcmp(text_.data() + slot.span.begin, token.data(), token.size()) == 0)
            break;
        at = (at + 1) & mask;
    }
    return at;
}

bool Vocab::add(std::string_view token, int32_t id) {
    Span& span = spans_[static_cast<size_t>(id)];
    if (span.length != none) return false;
    const size_t hash = std::hash<std::string_view>()(token);
    Slot& slot = slots_[slot_of(token, hash)];
    if (slot.id >= 0) return false;
    if (text_.size() + token.size() >= none) fail(Code::invalid_argument, "a vocabulary has more than 4 GiB of text");
    span = {static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(token.size())};
    text_.append(token);
    slot = {static_cast<uint32_t>(hash >> 32), id, span};
    return true;
}

int32_t Vocab::find(std::string_view token) const {
    return slots_[slot_of(token, std::hash<std::string_view>()(token))].id;
}

std::string_view Vocab::token(int32_t id) const {
    if (!has(id)) return {};
    const Span& span = spans_[static_cast<size_t>(id)];
    return std::string_view(text_).substr(span.begin, span.length);
}

}  // namespace quantplug::engine
