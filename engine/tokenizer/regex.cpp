#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/tokenizer/regex.h"

#include <pcre2.h>

#include <array>
#include <utility>

#include "engine/base/error.h"
#include "engine/tokenizer/unicode_versions.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

// What one match may cost. A tokenizer's own expressions stay below a thousand steps on a word.
constexpr uint32_t match_limit = 10'000'000;
constexpr uint32_t depth_limit = 10'000;
constexpr uint32_t heap_limit_kib = 65'536;
constexpr size_t jit_stack_max = 8u << 20;
constexpr size_t pattern_limit = 65'536;

struct FreeCode {
    void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct FreeCompileContext {
    void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
};

// One bit for each 256 code points that hold a newer character.
constexpr auto newer_pages = [] {
    std::array<uint64_t, 17> pages{};
    for (const NewerRange& range : newer_characters)
        for (char32_t page = range.first >> 8; page <= range.last >> 8; ++page)
            if (page < pages.size() * 64) pages[page / 64] |= uint64_t{1} << (page % 64);
    return pages;
}();

// Where `text` has characters newer than the Unicode tables of some PCRE2 in use, `masked` gets it with older ones in
// their place, of the same category and length: the same matches with every version of the library.
bool mask_newer(std::string_view text, std::string& masked) {
    bool changed = false;
    for (size_t i = 0; i < text.size();) {
        if (static_cast<uint8_t>(text[i]) < 0xE0) {
            ++i;
            continue;
        }
        const Utf8Char c = utf8_at(text, i);
        const char32_t page = c.code >> 8;
        if (page < newer_pages.size() * 64 && (newer_pages[page / 64] >> (page % 64) & 1) != 0) {
            if (const NewerRange* range = find_range(newer_characters, c.code)) {
                if (!changed) masked = text;
                changed = true;
                std::string stand_in;
                append_utf8(stand_in, range->stand_in);
                masked.replace(i, c.length, stand_in);
            }
        }
        i += c.length;
    }
    return changed;
}

std::string error_text(int code) {
    PCRE2_UCHAR text[256] = {};
    pcre2_get_error_message(code, text, sizeof text);
    return reinterpret_cast<const char*>(text);
}

}  // namespace

struct RegexScratch::Blocks {
    pcre2_match_data* data = nullptr;
    pcre2_match_context* context = nullptr;
    pcre2_jit_stack* stack = nullptr;  // only for expressions that the default 32 KiB do not hold

    Blocks() = default;
    Blocks(const Blocks&) = delete;
    Blocks& operator=(const Blocks&) = delete;
    ~Blocks() {
        pcre2_match_data_free(data);
        pcre2_match_context_free(context);
        pcre2_jit_stack_free(stack);
    }
};

RegexScratch::RegexScratch() : blocks_(std::make_unique<Blocks>()) {
    blocks_->data = pcre2_match_data_create(1, nullptr);
    blocks_->context = pcre2_match_context_create(nullptr);
    if (!blocks_->data || !blocks_->context) throw std::bad_alloc();
    pcre2_set_match_limit(blocks_->context, match_limit);
    pcre2_set_depth_limit(blocks_->context, depth_limit);
    pcre2_set_heap_limit(blocks_->context, heap_limit_kib);
}

RegexScratch::~RegexScratch() = default;

struct Regex::Compiled {
    std::unique_ptr<pcre2_code, FreeCode> pcre;
    bool jit = false;
};

Regex::Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Regex Regex::compile(std::string_view pattern, std::string_view name) {
    Regex out;
    out.name_ = name;
    if (pattern.size() > pattern_limit)
        fail(Code::invalid_argument, name, ": a regular expression of ", pattern.size(),
             " bytes is longer than the limit of ", pattern_limit);
    std::string translated;
    try {
        translated = oniguruma_to_pcre2(pattern);
    } catch (const Error& error) {
        fail(error.code(), name, ": regular expression '", pattern, "': ", error.what());
    }
    const std::unique_ptr<pcre2_compile_context, FreeCompileContext> context(pcre2_compile_context_create(nullptr));
    if (!context) throw std::bad_alloc();
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    out.code_ = std::make_unique<Compiled>();
    out.code_->pcre.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                        &offset, context.get()));
    if (!out.code_->pcre)
        fail(Code::invalid_argument, name, ": regular expression '", pattern, "' does not compile: ", error_text(error),
             " (as PCRE2 '", translated, "', offset ", offset, ")");
    // Without a JIT (unusual processors) the interpreter gives the same matches.
    out.code_->jit = pcre2_jit_compile(out.code_->pcre.get(), PCRE2_JIT_COMPLETE) == 0;
    return out;
}

Regex Regex::literal(std::string_view text) {
    Regex out;
    out.literal_ = text;
    return out;
}

void Regex::find_all(std::string_view text, RegexScratch& scratch, std::vector<Match>& out) const {
    if (!code_) {
        if (literal_.empty()) return;
        for (size_t at = text.find(literal_); at != std::string_view::npos;
             at = text.find(literal_, at + literal_.size()))
            out.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(at + literal_.size())});
        return;
    }
    if (mask_newer(text, scratch.masked_)) text = scratch.masked_;
    RegexScratch::Blocks& blocks = *scratch.blocks_;
    const pcre2_code* code = code_->pcre.get();
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(blocks.data);
    size_t from = 0;
    size_t last_end = std::string_view::npos;
    while (from <= text.size()) {
        int rc = code_->jit
                     ? pcre2_jit_match(code, subject, text.size(), from, 0, blocks.data, blocks.context)
                     : pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, blocks.data, blocks.context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !blocks.stack) {
            blocks.stack = pcre2_jit_stack_create(32 * 1024, jit_stack_max, nullptr);
            if (!blocks.stack) throw std::bad_alloc();
            pcre2_jit_stack_assign(blocks.context, nullptr, blocks.stack);
            continue;
        }
        if (rc == PCRE2_ERROR_NOMATCH) return;
        if (rc < 0)
            fail(Code::resource_exhausted, name_, ": a regular expression failed on this text: ", error_text(rc));
        const size_t begin = found[0], end = found[1];
        // \K inside a lookahead can put the start behind the end.
        if (begin > end || begin < from)
            fail(Code::unimplemented, name_, ": a regular expression uses \\K in a lookaround, which is not supported");
        if (begin == end && last_end == end) {
            from = end < text.size() ? end + utf8_length(text[end]) : end + 1;
            continue;
        }
        from = last_end = end;
        out.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    }
}

std::optional<std::string> Regex::replace_all(std::string_view text, std::string_view content, RegexScratch& scratch,
                                              uint64_t max_bytes) const {
    std::vector<Match> matches;
    find_all(text, scratch, matches);
    uint64_t kept = text.size();
    for (const Match& match : matches) kept -= match.end - match.begin;
    if (kept > max_bytes || (!content.empty() && matches.size() > (max_bytes - kept) / content.size()))
        return std::nullopt;
    std::string out;
    out.reserve(kept + matches.size() * content.size());
    size_t done = 0;
    for (const Match& match : matches) {
        out.append(text.substr(done, match.begin - done)).append(content);
        done = match.end;
    }
    out.append(text.substr(done));
    return out;
}

}  // namespace quantplug::engine
