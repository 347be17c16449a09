#include "engine/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "engine/tokenizer/base64.h"
#include "engine/tokenizer/json_fields.h"
#include "engine/tokenizer/unicode_versions.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

// utf8proc (2.8) takes it for the trailing consonant of no sound and composes it away; it neither combines nor
// decomposes.
constexpr char32_t lone_jamo = 0x11A7;

bool below(std::string_view text, uint8_t first_byte) {
    return std::all_of(text.begin(), text.end(), [&](char c) { return static_cast<uint8_t>(c) < first_byte; });
}

// utf8proc_map orders combining marks by exchanging neighbours, quadratic on a text of marks: here runs are sorted
// instead (Unicode 15, D109, canonical ordering algorithm).
void append_normal_form(std::string_view text, bool compose, bool compatibility, std::string& out) {
    const int decompose =
        UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatibility ? UTF8PROC_COMPAT : 0);
    std::vector<utf8proc_int32_t> codes;
    codes.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Utf8Char c = utf8_at(text, i);
        i += c.length;
        utf8proc_int32_t parts[32];
        int last_boundclass = 0;
        const utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.code), parts, 32,
                                                           static_cast<utf8proc_option_t>(decompose), &last_boundclass);
        if (n < 0 || n > 32)  // the longest decomposition has 18 characters
            codes.push_back(static_cast<utf8proc_int32_t>(c.code));
        else
            codes.insert(codes.end(), parts, parts + n);
    }
    const auto combining = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
    for (size_t i = 0; i < codes.size();) {
        if (combining(codes[i]) == 0) {
            ++i;
            continue;
        }
        size_t end = i + 1;
        while (end < codes.size() && combining(codes[end]) != 0) ++end;
        std::stable_sort(codes.begin() + static_cast<std::ptrdiff_t>(i),
                         codes.begin() + static_cast<std::ptrdiff_t>(end),
                         [&](auto a, auto b) { return combining(a) < combining(b); });
        i = end;
    }
    utf8proc_ssize_t n = static_cast<utf8proc_ssize_t>(codes.size());
    if (compose)
        n = utf8proc_normalize_utf32(codes.data(), n,
                                     static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    for (utf8proc_ssize_t i = 0; i < n; ++i) append_utf8(out, static_cast<char32_t>(codes[static_cast<size_t>(i)]));
}

// `leave`: what Hugging Face's tables lack stays as it is.
std::string unicode_normal_form(std::string_view text, bool compose, bool compatibility, bool leave = true) {
    std::string out;
    out.reserve(text.size());
    size_t done = 0;
    for (size_t i = 0; i < text.size();) {
        const Utf8Char c = utf8_at(text, i);
        if (c.length > 1 && (c.code == lone_jamo || (leave && find_range(not_normalised, c.code)))) {
            append_normal_form(text.substr(done, i - done), compose, compatibility, out);
            out.append(text.substr(i, c.length));
            done = i + c.length;
        }
        i += c.length;
    }
    append_normal_form(text.substr(done), compose, compatibility, out);
    return out;
}

std::string lowercase(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Utf8Char c = utf8_at(text, i);
        i += c.length;
        if (c.code == 0x130)
            out += "i\xCC\x87";  // the one character whose lower case is two
        else
            append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code))));
    }
    return out;
}

std::string_view strip(std::string_view text, bool left, bool right) {
    while (left && !text.empty()) {
        const Utf8Char c = utf8_at(text, 0);
        if (!is_white_space(c.code)) break;
        text.remove_prefix(c.length);
    }
    while (right && !text.empty()) {
        const Utf8Char c = utf8_before(text, text.size());
        if (!is_white_space(c.code)) break;
        text.remove_suffix(c.length);
    }
    return text;
}

// sentencepiece's nmt rules: control characters go, line ends and invisible spaces become spaces.
std::string nmt(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Utf8Char c = utf8_at(text, i);
        const char32_t u = c.code;
        const bool control =
            (u >= 0x1 && u <= 0x8) || u == 0xB || (u >= 0xE && u <= 0x1F) || u == 0x7F || u == 0x8F || u == 0x9F;
        const bool space = u == 0x9 || u == 0xA || u == 0xC || u == 0xD || u == 0x1680 ||
                           (u >= 0x200B && u <= 0x200F) || u == 0x2028 || u == 0x2029 || u == 0x2581 || u == 0xFEFF ||
                           u == 0xFFFD;
        if (space)
            out += ' ';
        else if (!control)
            out.append(text.substr(i, c.length));
        i += c.length;
    }
    return out;
}

std::string strip_accents(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
        const Utf8Char c = utf8_at(text, i);
        const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c.code));
        const bool mark =
            category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
        const bool former_mark = c.code == 0x1CF2 || c.code == 0x1CF3;
        if (!former_mark && !(mark && !find_range(kept_marks, c.code))) out.append(text.substr(i, c.length));
        i += c.length;
    }
    return out;
}

Charsmap charsmap_field(const nlohmann::json& json, std::string_view name) {
    const auto bytes = decode_base64(string_field(json, "precompiled_charsmap", name));
    if (!bytes) fail(Code::invalid_argument, name, ": key 'precompiled_charsmap' is no base64");
    return Charsmap::parse(*bytes, name);
}

}  // namespace

Normalizer Normalizer::parse(const nlohmann::json& json, std::string_view name) {
    Normalizer out;
    out.name_ = name;
    if (json.is_null()) return out;
    for (const nlohmann::json* part : flatten_sequence(json, "normalizers", name, "normalizer")) out.add(*part, name);
    return out;
}

void Normalizer::add(const nlohmann::json& json, std::string_view name) {
    const std::string type = type_of(json, name, "normalizer");
    Step step{};
    step.type = type;
    if (type == "NFC") {
        step.kind = Kind::nfc;
        step.all_characters = bool_field(json, "all_characters", false, name);
    } else if (type == "NFD") {
        step.kind = Kind::nfd;
    } else if (type == "NFKC") {
        step.kind = Kind::nfkc;
    } else if (type == "NFKD") {
        step.kind = Kind::nfkd;
    } else if (type == "Lowercase") {
        step.kind = Kind::lowercase;
    } else if (type == "ByteLevel") {
        step.kind = Kind::byte_level;
    } else if (type == "Nmt") {
        step.kind = Kind::nmt;
    } else if (type == "StripAccents") {
        step.kind = Kind::strip_accents;
    } else if (type == "Precompiled") {
        step.kind = Kind::precompiled;
        step.charsmap = charsmap_field(json, name);
    } else if (type == "Prepend") {
        step.kind = Kind::prepend;
        step.text = string_field(json, "prepend", name);
    } else if (type == "Replace") {
        step.kind = Kind::replace;
        step.pattern = pattern_field(json, name);
        step.text = string_field(json, "content", name);
    } else if (type == "Strip") {
        step.kind = Kind::strip;
        step.left = bool_field(json, "strip_left", true, name);
        step.right = bool_field(json, "strip_right", true, name);
    } else {
        fail(Code::unimplemented, name, ": normalizer '", type,
             "' is not supported: no tokenizer of a model that generates text is known to use it");
    }
    steps_.push_back(std::move(step));
}

std::string Normalizer::apply(std::string_view input, RegexScratch& scratch, uint64_t max_bytes) const {
    max_bytes = std::min<uint64_t>(max_bytes, UINT32_MAX);  // positions in a text are 32 bits
    std::string text(input);
    const auto too_long = [&](const Step& step) {
        fail(Code::resource_exhausted, name_, ": step ", &step - steps_.data() + 1, " of the normalizer, '", step.type,
             "', makes more than ", max_bytes, " bytes of a text of ", input.size(),
             ": take the step out, or download the file again");
    };
    for (const Step& step : steps_) {
        if (text.empty()) return text;
        switch (step.kind) {
            case Kind::nfc:  // below U+0300 nothing combines
                if (!below(text, 0xCC)) text = unicode_normal_form(text, true, false, !step.all_characters);
                break;
            case Kind::nfd:
                if (!below(text, 0x80)) text = unicode_normal_form(text, false, false);
                break;
            case Kind::nfkc:
                if (!below(text, 0x80)) text = unicode_normal_form(text, true, true);
                break;
            case Kind::nfkd:
                if (!below(text, 0x80)) text = unicode_normal_form(text, false, true);
                break;
            case Kind::prepend:
                if (step.text.size() > max_bytes) too_long(step);
                text.insert(0, step.text);
                break;
            case Kind::replace:
                if (auto replaced = step.pattern.replace_all(text, step.text, scratch, max_bytes))
                    text = std::move(*replaced);
                else
                    too_long(step);
                break;
            case Kind::lowercase:
                text = lowercase(text);
                break;
            case Kind::strip:
                text = std::string(strip(text, step.left, step.right));
                break;
            case Kind::strip_accents:
                text = strip_accents(text);
                break;
            case Kind::nmt:
                text = nmt(text);
                break;
            case Kind::precompiled:
                if (auto mapped = step.charsmap.apply(text, max_bytes))
                    text = std::move(*mapped);
                else
                    too_long(step);
                break;
            case Kind::byte_level:
                text = map_bytes(text);
                break;
        }
        if (text.size() > max_bytes) too_long(step);
    }
    return text;
}

}  // namespace quantplug::engine
