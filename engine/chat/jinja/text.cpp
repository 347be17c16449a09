#include "engine/chat/jinja/text.h"

#include <algorithm>

namespace quantplug::engine::jinja {

Text::Text(std::string bytes, bool marked) : bytes_(std::move(bytes)) {
    if (marked) mark(0, bytes_.size());
}

void Text::mark(size_t begin, size_t end) {
    if (begin == end) return;
    if (!marks_.empty() && marks_.back().end == begin)
        marks_.back().end = end;
    else
        marks_.push_back({begin, end});
}

void Text::append(const Text& other) {
    const size_t offset = bytes_.size();
    bytes_.append(other.bytes_);
    const size_t n_marks = other.marks_.size();  // `other` may be this text
    for (size_t i = 0; i < n_marks; ++i) {
        const Mark one = other.marks_[i];
        mark(offset + one.begin, offset + one.end);
    }
}

Text Text::as_safe(bool safe) const {
    Text out = *this;
    out.safe_ = safe;
    return out;
}

Text Text::slice(size_t begin, size_t end) const {
    Text out;
    out.safe_ = safe_;
    out.bytes_ = bytes_.substr(begin, end - begin);
    auto it =
        std::upper_bound(marks_.begin(), marks_.end(), begin, [](size_t at, const Mark& one) { return at < one.end; });
    for (; it != marks_.end() && it->begin < end; ++it)
        out.mark(std::max(it->begin, begin) - begin, std::min(it->end, end) - begin);
    return out;
}

}  // namespace quantplug::engine::jinja
