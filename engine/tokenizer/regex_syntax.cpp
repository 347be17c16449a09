// Oniguruma's Ruby syntax (doc/RE of Oniguruma 6.9) to PCRE2's.
#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "engine/base/error.h"
#include "engine/tokenizer/regex.h"
#include "engine/tokenizer/utf8.h"

namespace quantplug::engine {
namespace {

// Inside a class; White_Space. PCRE2's own \s has U+180E besides.
constexpr std::string_view space_items = "\\t-\\r\\x{85}\\p{Z}";
constexpr std::string_view word_items = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
// Oniguruma's \w outside a class counts Latin-1's superscripts and fractions too, and none beyond.
constexpr std::string_view lone_word_items = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";
constexpr std::string_view hex_items = "0-9A-Fa-f";
constexpr size_t nesting_limit = 200;

using Name = std::pair<std::string_view, std::string_view>;

constexpr std::array<std::string_view, 39> categories = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "LC", "M",   "Mn", "Mc",
                                                         "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd",  "Ps", "Pe",
                                                         "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So",  "Z",  "Zs",
                                                         "Zl", "Zp", "C",  "Cc", "Cf", "Cn", "Co", "Any", "Cs"};

// Names are compared without case, spaces, hyphens and underscores.
constexpr std::array<Name, 56> properties = {{{"letter", "L"},
                                              {"uppercaseletter", "Lu"},
                                              {"lowercaseletter", "Ll"},
                                              {"titlecaseletter", "Lt"},
                                              {"casedletter", "LC"},
                                              {"modifierletter", "Lm"},
                                              {"otherletter", "Lo"},
                                              {"mark", "M"},
                                              {"nonspacingmark", "Mn"},
                                              {"spacingmark", "Mc"},
                                              {"enclosingmark", "Me"},
                                              {"number", "N"},
                                              {"decimalnumber", "Nd"},
                                              {"letternumber", "Nl"},
                                              {"othernumber", "No"},
                                              {"punctuation", "P"},
                                              {"connectorpunctuation", "Pc"},
                                              {"dashpunctuation", "Pd"},
                                              {"openpunctuation", "Ps"},
                                              {"closepunctuation", "Pe"},
                                              {"initialpunctuation", "Pi"},
                                              {"finalpunctuation", "Pf"},
                                              {"otherpunctuation", "Po"},
                                              {"symbol", "S"},
                                              {"mathsymbol", "Sm"},
                                              {"currencysymbol", "Sc"},
                                              {"modifiersymbol", "Sk"},
                                              {"othersymbol", "So"},
                                              {"separator", "Z"},
                                              {"spaceseparator", "Zs"},
                                              {"lineseparator", "Zl"},
                                              {"paragraphseparator", "Zp"},
                                              {"other", "C"},
                                              {"control", "Cc"},
                                              {"cntrl", "Cc"},
                                              {"format", "Cf"},
                                              {"unassigned", "Cn"},
                                              {"privateuse", "Co"},
                                              {"surrogate", "Cs"},
                                              {"digit", "Nd"},
                                              {"alpha", "Alphabetic"},
                                              {"alphabetic", "Alphabetic"},
                                              {"upper", "Uppercase"},
                                              {"uppercase", "Uppercase"},
                                              {"lower", "Lowercase"},
                                              {"lowercase", "Lowercase"},
                                              {"space", "White_Space"},
                                              {"whitespace", "White_Space"},
                                              {"ideographic", "Ideographic"},
                                              {"emoji", "Emoji"},
                                              {"emojipresentation", "Emoji_Presentation"},
                                              {"extendedpictographic", "Extended_Pictographic"},
                                              {"math", "Math"},
                                              {"dash", "Dash"},
                                              {"hexdigit", "Hex_Digit"},
                                              {"idcontinue", "ID_Continue"}}};

class Translator {
 public:
    explicit Translator(std::string_view in) : in_(in) {}

    std::string run() {
        while (pos_ < in_.size()) step();
        return std::move(out_);
    }

 private:
    [[noreturn]] void unsupported(const std::string& what) const {
        fail(Code::unimplemented, what, " at byte ", pos_, " is not supported in a tokenizer's expression");
    }

    char peek(size_t ahead = 0) const { return pos_ + ahead < in_.size() ? in_[pos_ + ahead] : '\0'; }
    bool at(std::string_view text) const { return in_.substr(pos_, text.size()) == text; }

    void begin_atom() {
        atom_ = out_.size();
        quantified_ = false;
    }

    void step() {
        const char c = in_[pos_];
        switch (c) {
            case '\\':
                begin_atom();
                escape(out_);
                return;
            case '[':
                begin_atom();
                out_ += char_class();
                return;
            case '(':
                open_group();
                return;
            case ')':
                if (groups_.empty())
                    fail(Code::invalid_argument, "a closing parenthesis at byte ", pos_, " has no opening one");
                atom_ = groups_.back();
                quantified_ = false;
                groups_.pop_back();
                out_ += c;
                ++pos_;
                return;
            case '*':
            case '+':
            case '?':
                quantifier(std::string(1, c), false, 1);
                return;
            case '{':
                if (interval()) return;
                begin_atom();
                out_ += "\\{";
                ++pos_;
                return;
            case '|':
                out_ += c;
                ++pos_;
                no_atom();
                return;
            case '^':
            case '$':
            case '.':
                begin_atom();
                out_ += c;
                ++pos_;
                return;
            default: {
                begin_atom();
                const size_t length = std::min<size_t>(utf8_length(c), in_.size() - pos_);
                out_ += in_.substr(pos_, length);
                pos_ += length;
            }
        }
    }

    void no_atom() {
        atom_ = std::string::npos;
        quantified_ = false;
    }

    void open_group() {
        if (groups_.size() >= nesting_limit)
            fail(Code::invalid_argument, "more than ", nesting_limit, " nested groups");
        const size_t start = out_.size();
        if (at("(?#")) {
            const size_t close = in_.find(')', pos_);
            if (close == std::string_view::npos) fail(Code::invalid_argument, "an unfinished comment at byte ", pos_);
            pos_ = close + 1;
            return;
        }
        if (at("(?~")) unsupported("the absence operator (?~");
        if (at("(*") || at("(?{") || at("(?(")) unsupported(std::string(in_.substr(pos_, 3)));
        out_ += '(';
        ++pos_;
        if (peek() == '?') {
            out_ += '?';
            ++pos_;
            // Flags: Ruby's m is PCRE2's s. Lookarounds, atomic groups and names are spelled alike.
            while (std::string_view("imx-").find(peek()) != std::string_view::npos && peek() != '\0') {
                out_ += peek() == 'm' ? 's' : peek();
                ++pos_;
            }
            if (peek() == ')') {  // (?i): the rest of the enclosing group
                out_ += ')';
                ++pos_;
                no_atom();
                return;
            }
            while (std::string_view("<>=!:'").find(peek()) != std::string_view::npos && peek() != '\0') {
                out_ += peek();
                ++pos_;
            }
        }
        groups_.push_back(start);
        no_atom();
    }

    // {n}, {n,}, {n,m}, {,m}; false where the brace is an ordinary character.
    bool interval() {
        size_t i = pos_ + 1;
        const auto digits = [&] {
            const size_t from = i;
            while (i < in_.size() && in_[i] >= '0' && in_[i] <= '9') ++i;
            return in_.substr(from, i - from);
        };
        const std::string_view low = digits();
        const bool comma = i < in_.size() && in_[i] == ',';
        if (comma) ++i;
        const std::string_view high = comma ? digits() : std::string_view();
        if (i >= in_.size() || in_[i] != '}' || (low.empty() && high.empty())) return false;
        std::string text = "{";
        text += low.empty() ? "0" : low;
        if (comma) text.append(",").append(high);
        quantifier(text + "}", !comma, i + 1 - pos_);
        return true;
    }

    void quantifier(const std::string& text, bool fixed, size_t length) {
        if (atom_ == std::string::npos)
            fail(Code::invalid_argument, "a quantifier at byte ", pos_, " has nothing to repeat");
        pos_ += length;
        if (quantified_) wrap();  // x{2}+ and x+*: the repeat of a repeat
        out_ += text;
        quantified_ = true;
        if (text[0] == '{') {
            if (peek() == '?' && !fixed) {
                out_ += '?';
                ++pos_;
            }
        } else if (peek() == '?' || peek() == '+') {
            out_ += peek();
            ++pos_;
        }
    }

    void wrap() {
        if (++wraps_ > nesting_limit) fail(Code::invalid_argument, "more than ", nesting_limit, " repeats of a repeat");
        out_.insert(atom_, "(?:");
        out_ += ')';
    }

    char32_t hex_escape() {  // behind \x or \u
        const bool is_u = in_[pos_ - 1] == 'u';
        std::string_view digits;
        if (peek() == '{') {
            const size_t close = in_.find('}', pos_);
            if (close == std::string_view::npos) fail(Code::invalid_argument, "an unfinished escape at byte ", pos_);
            digits = in_.substr(pos_ + 1, close - pos_ - 1);
            pos_ = close + 1;
        } else {
            size_t n = 0;
            while (n < (is_u ? 4u : 2u) && std::isxdigit(static_cast<unsigned char>(peek(n)))) ++n;
            digits = in_.substr(pos_, n);
            pos_ += n;
            if (!is_u && !digits.empty() && digits.size() == 2 && digits[0] > '7') unsupported("a byte above 7F");
        }
        if (digits.empty() || digits.size() > 6) fail(Code::invalid_argument, "a bad escape before byte ", pos_);
        char32_t code = 0;
        for (char d : digits) {
            if (!std::isxdigit(static_cast<unsigned char>(d)))
                fail(Code::invalid_argument, "a bad escape before byte ", pos_);
            code = code * 16 + static_cast<char32_t>(d <= '9' ? d - '0' : (d | 32) - 'a' + 10);
        }
        if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
            fail(Code::invalid_argument, "an escape before byte ", pos_, " is no character");
        return code;
    }

    static std::string code_point(char32_t code) {
        static constexpr char digits[] = "0123456789ABCDEF";
        std::string hex;
        do hex.insert(hex.begin(), digits[code & 15]);
        while (code >>= 4);
        return "\\x{" + hex + "}";
    }

    // Behind \p or \P: the property in PCRE2's spelling, sign included.
    std::string property(bool negated) {
        if (peek() != '{') unsupported("\\p without braces");
        const size_t close = in_.find('}', pos_);
        if (close == std::string_view::npos) fail(Code::invalid_argument, "an unfinished property at byte ", pos_);
        std::string_view name = in_.substr(pos_ + 1, close - pos_ - 1);
        pos_ = close + 1;
        if (!name.empty() && name[0] == '^') {
            negated = !negated;
            name.remove_prefix(1);
        }
        const std::string sign = negated ? "\\P{" : "\\p{";
        for (std::string_view category : categories)
            if (name == category) return sign + std::string(category) + "}";
        std::string plain;
        for (char c : name)
            if (c != ' ' && c != '_' && c != '-')
                plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        for (const Name& entry : properties)
            if (plain == entry.first) return sign + std::string(entry.second) + "}";
        if (plain.empty() || !std::all_of(plain.begin(), plain.end(), [](unsigned char c) { return std::isalpha(c); }))
            unsupported("the property '" + std::string(name) + "'");
        return sign + "sc:" + std::string(name) + "}";
    }

    // An escape outside a class.
    void escape(std::string& out) {
        ++pos_;
        const char c = peek();
        if (c == '\0') fail(Code::invalid_argument, "a backslash ends the expression");
        ++pos_;
        const auto set = [&](std::string_view items, bool negated) {
            out.append(negated ? "[^" : "[").append(items).append("]");
        };
        switch (c) {
            case 's':
            case 'S':
                return set(space_items, c == 'S');
            case 'w':
            case 'W':
                return set(lone_word_items, c == 'W');
            case 'h':
            case 'H':
                return set(hex_items, c == 'H');
            case 'd':
                out += "\\p{Nd}";
                return;
            case 'D':
                out += "\\P{Nd}";
                return;
            case 'b':
            case 'B': {
                const std::string w = "[" + std::string(lone_word_items) + "]";
                out += c == 'b' ? "(?:(?<=" + w + ")(?!" + w + ")|(?<!" + w + ")(?=" + w + "))"
                                : "(?:(?<=" + w + ")(?=" + w + ")|(?<!" + w + ")(?!" + w + "))";
                return;
            }
            case 'p':
            case 'P':
                out += property(c == 'P');
                return;
            case 'x':
            case 'u':
                out += code_point(hex_escape());
                return;
            case 'v':
                out += "\\x0B";
                return;
            case 'g':
            case 'y':
            case 'Y':
            case 'O':
            case 'N':
            case 'c':
            case 'C':
            case 'M':
                unsupported(std::string("\\") + c);
            default:
                literal_escape(c, out);
        }
    }

    // \t \n \r \f \a \e, back references and anchors pass; so does an escaped punctuation mark.
    void literal_escape(char c, std::string& out) {
        const auto u = static_cast<unsigned char>(c);
        if (u >= 0x80) {
            const size_t length = std::min<size_t>(utf8_length(c), in_.size() - (pos_ - 1));
            out += in_.substr(pos_ - 1, length);
            pos_ += length - 1;
            return;
        }
        if (std::isalpha(u) && std::string_view("tnrfaeAzZGKRXk").find(c) == std::string_view::npos) {
            out += c;  // Ruby: an unknown escape is the letter
            return;
        }
        out += '\\';
        out += c;
    }

    std::string char_class() {
        ++pos_;
        const bool negated = peek() == '^';
        if (negated) ++pos_;
        std::string items = class_items();
        if (!at("&&")) {
            ++pos_;  // the closing bracket
            return (negated ? "[^" : "[") + items + "]";
        }
        // [A&&[B]] and [A&&[^B]]: one more condition ahead of A.
        pos_ += 2;
        if (negated || peek() != '[') unsupported("an intersection && other than [a&&[b]] and [a&&[^b]]");
        ++pos_;
        const bool excluded = peek() == '^';
        if (excluded) ++pos_;
        const std::string other = class_items();
        if (peek() != ']' || peek(1) != ']') unsupported("an intersection && other than [a&&[b]] and [a&&[^b]]");
        pos_ += 2;
        return (excluded ? "(?:(?![" : "(?:(?=[") + other + "])[" + items + "])";
    }

    // Everything up to the closing bracket of this class, or to &&; both are left unread.
    std::string class_items() {
        std::string items;
        size_t nested = 0;
        bool first = true;
        while (true) {
            if (pos_ >= in_.size()) fail(Code::invalid_argument, "an unfinished character class");
            const char c = peek();
            if (c == ']' && !first) {
                if (nested == 0) return items;
                --nested;
                ++pos_;
            } else if (at("[:")) {
                posix_class(items);
            } else if (c == '[') {
                if (peek(1) == '^') unsupported("a negated class inside a class");
                if (++nested > nesting_limit)
                    fail(Code::invalid_argument, "more than ", nesting_limit, " nested classes");
                ++pos_;
            } else if (at("&&")) {
                if (nested != 0) unsupported("an intersection inside a nested class");
                return items;
            } else if (c == '\\') {
                class_escape(items);
            } else if (c == ']') {
                items += "\\]";
                ++pos_;
            } else {
                const size_t length = std::min<size_t>(utf8_length(c), in_.size() - pos_);
                items += in_.substr(pos_, length);
                pos_ += length;
            }
            first = false;
        }
    }

    void posix_class(std::string& items) {
        const size_t close = in_.find(":]", pos_ + 2);
        const std::string_view name =
            close == std::string_view::npos ? std::string_view() : in_.substr(pos_ + 2, close - pos_ - 2);
        constexpr std::array<Name, 11> names = {{{"alpha", "\\p{Alphabetic}"},
                                                 {"digit", "\\p{Nd}"},
                                                 {"alnum", "\\p{Alphabetic}\\p{Nd}"},
                                                 {"upper", "\\p{Uppercase}"},
                                                 {"lower", "\\p{Lowercase}"},
                                                 {"space", space_items},
                                                 {"blank", "\\t\\p{Zs}"},
                                                 {"cntrl", "\\p{Cc}"},
                                                 {"punct", "\\p{P}$+<=>^`|~"},
                                                 {"xdigit", hex_items},
                                                 {"word", word_items}}};
        for (const Name& entry : names)
            if (name == entry.first) {
                items += entry.second;
                pos_ = close + 2;
                return;
            }
        unsupported("the class '[:" + std::string(name) + ":]'");
    }

    void class_escape(std::string& items) {
        const char c = peek(1);
        switch (c) {
            case 's':
                items += space_items;
                break;
            case 'S':
                items += "\\P{White_Space}";
                break;
            case 'w':
                items += word_items;
                break;
            case 'h':
                items += hex_items;
                break;
            case 'b':
                items += "\\x08";
                break;
            case 'W':
            case 'H':
            case 'R':
            case 'X':
            case 'B':
                unsupported(std::string("\\") + c + " inside a class");
            default:
                escape(items);
                return;
        }
        pos_ += 2;
    }

    std::string_view in_;
    size_t pos_ = 0;
    std::string out_;
    size_t atom_ = std::string::npos;  // where the last atom starts in out_
    bool quantified_ = false;          // a quantifier follows it already
    size_t wraps_ = 0;
    std::vector<size_t> groups_;  // starts of the open groups in out_
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace quantplug::engine
