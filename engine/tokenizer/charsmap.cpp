#include "engine/tokenizer/charsmap.h"

#include <utf8proc.h>

#include "engine/base/error.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

// Longer graphemes are looked up character by character.
constexpr size_t whole_limit = 6;

// One unit of the array (Darts-clone, darts.h, DoubleArrayUnit).
bool has_leaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t value(uint32_t unit) { return unit & 0x7FFFFFFF; }
uint32_t label(uint32_t unit) { return unit & (0x80000000 | 0xFF); }
uint32_t offset(uint32_t unit) { return unit >> 10 << ((unit & 0x200) >> 6); }

bool is_ascii(char c) { return static_cast<uint8_t>(c) < 0x80; }

bool splits_character(std::string_view text, size_t at) {
    return at < text.size() && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80;
}

// The end of the grapheme cluster (Unicode Standard Annex 29) that begins at `begin`.
size_t grapheme_end(std::string_view text, size_t begin) {
    utf8proc_int32_t state = 0;
    Utf8Char before = utf8_at(text, begin);
    size_t end = begin + before.length;
    while (end < text.size()) {
        const Utf8Char c = utf8_at(text, end);
        if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(before.code),
                                             static_cast<utf8proc_int32_t>(c.code), &state))
            break;
        end += c.length;
        before = c;
    }
    return end;
}

}  // namespace

Charsmap Charsmap::parse(std::string_view bytes, std::string_view name) {
    const auto uint32_at = [&](size_t at) {
        uint32_t out = 0;
        for (size_t i = 4; i-- > 0;) out = out << 8 | static_cast<uint8_t>(bytes[at + i]);
        return out;
    };
    const uint32_t size = bytes.size() < 4 ? 0 : uint32_at(0);
    if (size < 4 || size % 4 != 0 || size > bytes.size() - 4)
        fail(Code::invalid_argument, name, ": the precompiled_charsmap has ", bytes.size(), " bytes, its double array ",
             size, ": download the file again");
    Charsmap out;
    out.texts_ = bytes.substr(4 + size);
    if (!is_valid_utf8(out.texts_))
        fail(Code::invalid_argument, name,
             ": the texts of the precompiled_charsmap are no UTF-8: download the file again");
    out.units_.resize(size / 4);
    for (size_t i = 0; i < out.units_.size(); ++i) out.units_[i] = uint32_at(4 + 4 * i);
    for (size_t c = 1; c < out.changes_.size(); ++c) {
        const char one = static_cast<char>(c);
        out.changes_[c] = out.find({&one, 1}).has_value();
    }
    return out;
}

std::optional<std::string_view> Charsmap::find(std::string_view part) const {
    uint32_t at = offset(units_[0]);
    for (char c : part) {
        const auto byte = static_cast<uint8_t>(c);
        at ^= byte;
        if (byte == 0 || at >= units_.size() || label(units_[at]) != byte) return std::nullopt;
        const uint32_t unit = units_[at];
        at ^= offset(unit);
        if (!has_leaf(unit)) continue;
        const size_t begin = at < units_.size() ? value(units_[at]) : texts_.size();
        const size_t end = begin < texts_.size() ? std::min(texts_.find('\0', begin), texts_.size()) : begin;
        if (begin > texts_.size() || splits_character(texts_, begin)) return std::nullopt;
        return std::string_view(texts_).substr(begin, end - begin);
    }
    return std::nullopt;
}

std::optional<std::string> Charsmap::apply(std::string_view text, uint64_t max_bytes) const {
    std::string out;
    out.reserve(text.size());
    const auto put = [&](std::string_view part) {
        out.append(find(part).value_or(part));
        return out.size() <= max_bytes;
    };
    for (size_t begin = 0; begin < text.size();) {
        // Between two ASCII characters a cluster ends, but for CR and LF.
        const size_t next = begin + 1;
        if (is_ascii(text[begin]) && (next == text.size() || (is_ascii(text[next]) && text[begin] != '\r'))) {
            if (!changes_[static_cast<uint8_t>(text[begin])])
                out += text[begin];
            else if (!put(text.substr(begin, 1)))
                return std::nullopt;
            begin = next;
            continue;
        }
        const size_t end = grapheme_end(text, begin);
        const std::string_view whole = text.substr(begin, end - begin);
        if (whole.size() < whole_limit && find(whole)) {
            if (!put(whole)) return std::nullopt;
        } else {
            for (size_t i = begin; i < end; i += utf8_length(text[i]))
                if (!put(text.substr(i, utf8_length(text[i])))) return std::nullopt;
        }
        begin = end;
    }
    if (out.size() > max_bytes) return std::nullopt;
    return out;
}

}  // namespace quantplug::engine
