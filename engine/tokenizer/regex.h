// Regular expressions of a tokenizer.json, which are written for Oniguruma's Ruby syntax, run by PCRE2 with its JIT.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::engine {

/// The most bytes that `n_bytes` of text may become on their way through a tokenizer.json: a short chain of Replace
/// steps multiplies without bound. Text grows 22-fold where NFKD (11-fold for U+FDFA) and ByteLevel meet.
constexpr uint64_t grown_text_limit(uint64_t n_bytes) { return (uint64_t{1} << 20) + 32 * n_bytes; }

/// Rewrites Oniguruma's Ruby syntax to PCRE2's. Differences taken care of:
///   \s \w \d \h \b      Unicode's White_Space; Alphabetic, Mark, Nd, Pc; Nd; hexadecimal digits; boundaries of that \w
///   \p{Han}             Script, where PCRE2 means Script_Extensions; long names of categories
///   (?m)                dot matches newline, PCRE2's (?s); ^ and $ always match at lines
///   x{n,m}+, x{n}?      a repeated group, an optional group; no possessive or lazy forms
///   [a[bc]], [a&&[^b]]  nested classes, and an intersection with one class
///   \uHHHH, \v, {,n}    a character, U+000B, {0,n}
/// Throws Error (unimplemented) that names what has no counterpart.
std::string oniguruma_to_pcre2(std::string_view pattern);

/// Match block of one thread: reused from call to call.
class RegexScratch {
 public:
    RegexScratch();
    ~RegexScratch();
    RegexScratch(const RegexScratch&) = delete;
    RegexScratch& operator=(const RegexScratch&) = delete;

 private:
    friend class Regex;
    struct Blocks;
    std::unique_ptr<Blocks> blocks_;
    std::string masked_;
};

struct Match {
    uint32_t begin, end;  // bytes
};

/// Immutable; matching is thread-safe with a scratch of one's own.
class Regex {
 public:
    /// `name` stands for the file and key in errors.
    static Regex compile(std::string_view oniguruma_pattern, std::string_view name);
    static Regex literal(std::string_view text);

    Regex(Regex&&) noexcept;
    Regex& operator=(Regex&&) noexcept;
    ~Regex();

    /// All matches in `text` (valid UTF-8 of less than 4 GiB) from left to right, without overlap, appended to `out`.
    /// An empty match right behind the last match does not count, as in the onig crate. A match that needs more than
    /// the limits (hostile expressions) is an Error (resource_exhausted).
    void find_all(std::string_view text, RegexScratch& scratch, std::vector<Match>& out) const;

    /// Every match replaced by `content`; nothing, and nothing allocated for it, where that is more than `max_bytes`.
    std::optional<std::string> replace_all(std::string_view text, std::string_view content, RegexScratch& scratch,
                                           uint64_t max_bytes) const;

    /// The text of a literal, empty for an expression.
    const std::string& literal_text() const { return literal_; }

 private:
    struct Compiled;
    Regex();
    std::unique_ptr<Compiled> code_;  // null: literal
    std::string literal_;
    std::string name_;
};

}  // namespace quantplug::engine
