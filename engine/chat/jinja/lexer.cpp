#include "engine/chat/jinja/lexer.h"

#include <algorithm>

#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {
namespace {

// Line ends become \n; one at the end of the source goes (keep_trailing_newline is off).
std::string normalized(std::string_view source) {
    std::string out;
    out.reserve(source.size());
    for (size_t i = 0; i < source.size(); ++i) {
        if (source[i] != '\r') {
            out += source[i];
            continue;
        }
        out += '\n';
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
    if (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
}

class Lexer {
 public:
    Lexer(std::string_view source, const std::string& name)
        : source_(normalized(source)), text_(source_), name_(name) {}

    std::vector<Token> run() {
        while (at_ < text_.size()) root();
        out_.push_back({TokenKind::end, line_, ""});
        return std::move(out_);
    }

 private:
    bool here(std::string_view what, size_t at) const { return text_.substr(at).starts_with(what); }

    size_t skip_space(size_t at) const {
        while (at < text_.size()) {
            const CodePoint one = code_point_at(text_, at);
            if (!is_space(one.code)) break;
            at += one.length;
        }
        return at;
    }

    // Text up to the next tag, then what the tag opens.
    void root() {
        size_t tag = at_;
        while (true) {
            tag = text_.find('{', tag);
            if (tag == std::string_view::npos || tag + 1 >= text_.size()) {
                data(text_.substr(at_));
                at_ = text_.size();
                return;
            }
            const char c = text_[tag + 1];
            if (c == '{' || c == '%' || c == '#') break;
            ++tag;
        }
        const char kind = text_[tag + 1];
        size_t after = tag + 2;
        const char sign = after < text_.size() && (text_[after] == '-' || text_[after] == '+') ? text_[after] : ' ';
        if (sign != ' ') ++after;
        text_before_tag(text_.substr(at_, tag - at_), sign, kind == '{');
        at_ = after;
        if (kind == '#') return comment(tag);
        if (kind == '%') {
            // Only here is `raw` a tag: its content is not looked at.
            const size_t word = skip_space(after);
            if (here("raw", word)) {
                const size_t close = skip_space(word + 3);
                const bool dash = here("-%}", close);
                if (dash || here("%}", close)) return raw(dash ? skip_space(close + 3) : close + 2);
            }
        }
        out_.push_back({kind == '{' ? TokenKind::variable_begin : TokenKind::block_begin, line_, ""});
        inside(kind == '{');
    }

    void data(std::string_view text) {
        if (!text.empty()) out_.push_back({TokenKind::data, line_, std::string(text)});
        count_lines(text);
    }

    void count_lines(std::string_view text) { line_ += static_cast<int>(std::count(text.begin(), text.end(), '\n')); }

    void text_before_tag(std::string_view text, char sign, bool variable) {
        std::string_view kept = text;
        if (sign == '-') {
            while (!kept.empty()) {
                const size_t last = code_point_before(kept, kept.size());
                if (!is_space(code_point_at(kept, last).code)) break;
                kept = kept.substr(0, last);
            }
        } else if (sign != '+' && !variable) {
            const size_t newline = text.rfind('\n');
            const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
            if ((begin > 0 || line_starting_) && begin < text.size() && all_space(text.substr(begin)))
                kept = text.substr(0, begin);
        }
        if (!kept.empty()) out_.push_back({TokenKind::data, line_, std::string(kept)});
        count_lines(text);
    }

    static bool all_space(std::string_view text) {
        for (size_t i = 0; i < text.size();) {
            const CodePoint one = code_point_at(text, i);
            if (!is_space(one.code)) return false;
            i += one.length;
        }
        return true;
    }

    // Behind a block's or a comment's end: "-" takes all white space, trim_blocks one newline.
    size_t after_end(size_t at, bool dash, bool plus) const {
        if (dash) return skip_space(at);
        return !plus && at < text_.size() && text_[at] == '\n' ? at + 1 : at;
    }

    void move_to(size_t at) {
        count_lines(text_.substr(at_, at - at_));
        line_starting_ = at > 0 && text_[at - 1] == '\n';
        at_ = at;
    }

    void comment(size_t begin) {
        const size_t end = text_.find("#}", at_);
        if (end == std::string_view::npos)
            syntax_error(name_, line_, "the comment that begins with '", text_.substr(begin, 2), "' has no end");
        const bool dash = end > at_ && text_[end - 1] == '-', plus = end > at_ && text_[end - 1] == '+';
        move_to(after_end(end + 2, dash, plus));
    }

    void raw(size_t content) {
        count_lines(text_.substr(at_, content - at_));
        at_ = content;
        for (size_t tag = text_.find("{%", at_); tag != std::string_view::npos; tag = text_.find("{%", tag + 1)) {
            size_t after = tag + 2;
            const char sign = after < text_.size() && (text_[after] == '-' || text_[after] == '+') ? text_[after] : ' ';
            if (sign != ' ') ++after;
            const size_t word = skip_space(after);
            if (!here("endraw", word)) continue;
            size_t close = skip_space(word + 6);
            const bool dash = here("-%}", close), plus = here("+%}", close);
            if (!dash && !plus && !here("%}", close)) continue;
            close += dash || plus ? 3 : 2;
            line_starting_ = at_ > 0 && text_[at_ - 1] == '\n';
            text_before_tag(text_.substr(at_, tag - at_), sign, false);
            at_ = tag;
            return move_to(after_end(close, dash, plus));
        }
        syntax_error(name_, line_, "'raw' has no 'endraw'");
    }

    void inside(bool variable) {
        std::string open;  // brackets that wait for their ends
        while (true) {
            move_to(skip_space(at_));
            if (at_ >= text_.size())
                syntax_error(name_, line_, "the template ends inside of a tag, '", variable ? "}}" : "%}",
                             "' is missing");
            if (open.empty() && end_of_tag(variable)) return;
            token(open);
        }
    }

    bool end_of_tag(bool variable) {
        const std::string_view close = variable ? "}}" : "%}";
        const bool dash = text_[at_] == '-', plus = text_[at_] == '+' && !variable;
        const size_t begin = at_ + (dash || plus ? 1 : 0);
        if (!here(close, begin)) return false;
        out_.push_back({variable ? TokenKind::variable_end : TokenKind::block_end, line_, ""});
        move_to(variable ? (dash ? skip_space(begin + 2) : begin + 2) : after_end(begin + 2, dash, plus));
        return true;
    }

    void push(TokenKind kind, size_t end) {
        out_.push_back({kind, line_, std::string(text_.substr(at_, end - at_))});
        move_to(end);
    }

    void token(std::string& open) {
        const char c = text_[at_];
        if (c >= '0' && c <= '9') return number();
        if (c == '\'' || c == '"') return string(c);
        if (is_word_start(code_point_at(text_, at_).code)) {
            size_t end = at_;
            while (end < text_.size()) {
                const CodePoint one = code_point_at(text_, end);
                if (!is_word(one.code)) break;
                end += one.length;
            }
            return push(TokenKind::name, end);
        }
        for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="})
            if (here(two, at_)) return push(TokenKind::op, at_ + 2);
        if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos)
            syntax_error(name_, line_, "unexpected character '", text_.substr(at_, code_point_at(text_, at_).length),
                         "'");
        bracket(c, open);
        push(TokenKind::op, at_ + 1);
    }

    void bracket(char c, std::string& open) {
        if (c == '(' || c == '[' || c == '{') {
            open += c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (open.empty()) syntax_error(name_, line_, "unexpected '", c, "'");
            if (open.back() != c) syntax_error(name_, line_, "unexpected '", c, "', expected '", open.back(), "'");
            open.pop_back();
        }
    }

    // Digits with single underscores between them.
    size_t digits(size_t at, bool (*is)(char)) const {
        while (at < text_.size()) {
            if (is(text_[at]))
                ++at;
            else if (text_[at] == '_' && at + 1 < text_.size() && is(text_[at + 1]) && is(text_[at - 1]))
                at += 2;
            else
                break;
        }
        return at;
    }

    void number() {
        const auto decimal = [](char c) { return c >= '0' && c <= '9'; };
        const auto hexadecimal = [](char c) {
            return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        };
        const auto octal = [](char c) { return c >= '0' && c <= '7'; };
        const auto binary = [](char c) { return c == '0' || c == '1'; };
        const char second = at_ + 1 < text_.size() ? static_cast<char>(text_[at_ + 1] | 0x20) : ' ';
        if (text_[at_] == '0' && (second == 'x' || second == 'o' || second == 'b')) {
            const size_t end = digits(at_ + 2, second == 'x' ? +hexadecimal : second == 'o' ? +octal : +binary);
            if (end > at_ + 2) return push(TokenKind::integer, end);
        }
        size_t end = digits(at_, decimal);
        bool real = false;
        const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';  // a.0.1 is a subscript twice
        if (!after_dot) {
            if (end + 1 < text_.size() && text_[end] == '.' && decimal(text_[end + 1])) {
                end = digits(end + 1, decimal);
                real = true;
            }
            if (end < text_.size() && (text_[end] | 0x20) == 'e') {
                size_t power = end + 1;
                if (power < text_.size() && (text_[power] == '+' || text_[power] == '-')) ++power;
                if (power < text_.size() && decimal(text_[power])) {
                    end = digits(power, decimal);
                    real = true;
                }
            }
        }
        if (!real && text_[at_] == '0') {  // 012 is 0 and 12
            end = digits(at_, [](char c) { return c == '0'; });
        }
        push(real ? TokenKind::real : TokenKind::integer, end);
    }

    void string(char quote) {
        size_t end = at_ + 1;
        while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
        if (end >= text_.size()) syntax_error(name_, line_, "a string has no end");
        const int line = line_;
        std::string value = unescape(text_.substr(at_ + 1, end - at_ - 1));
        move_to(end + 1);
        out_.push_back({TokenKind::string, line, std::move(value)});
    }

    std::string unescape(std::string_view text) const {
        std::string out;
        for (size_t i = 0; i < text.size(); ++i) {
            if (text[i] != '\\' || i + 1 >= text.size()) {
                out += text[i];
                continue;
            }
            const char c = text[++i];
            constexpr std::string_view letters = "abfnrtv\\'\"";
            constexpr std::string_view meanings = "\a\b\f\n\r\t\v\\'\"";
            if (const size_t known = letters.find(c); known != std::string_view::npos) {
                out += meanings[known];
            } else if (c == '\n') {
            } else if (c == 'x' || c == 'u' || c == 'U') {
                i = escape(text, i, c == 'x' ? 2 : c == 'u' ? 4 : 8, out);
            } else if (c >= '0' && c <= '7') {
                char32_t code = 0;
                const size_t stop = std::min(text.size(), i + 3);
                while (i < stop && text[i] >= '0' && text[i] <= '7') code = code * 8 + char32_t(text[i++] - '0');
                --i;
                append_code_point(out, code);
            } else if (c == 'N') {
                syntax_error(name_, line_, "characters by name (\\N{...}) are not supported: write the character");
            } else {
                out += '\\';
                out += c;
            }
        }
        return out;
    }

    size_t escape(std::string_view text, size_t at, size_t n, std::string& out) const {
        char32_t code = 0;
        for (size_t i = 1; i <= n; ++i) {
            const char c = at + i < text.size() ? text[at + i] : ' ';
            const char lower = static_cast<char>(c | 0x20);
            if (c >= '0' && c <= '9')
                code = code * 16 + char32_t(c - '0');
            else if (lower >= 'a' && lower <= 'f')
                code = code * 16 + char32_t(lower - 'a' + 10);
            else
                syntax_error(name_, line_, "the escape \\", text[at], " of a string needs ", n, " hexadecimal digits");
        }
        if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
            syntax_error(name_, line_, "the escape \\", text.substr(at, n + 1), " of a string is no character");
        append_code_point(out, code);
        return at + n;
    }

    const std::string source_;
    const std::string_view text_;
    const std::string& name_;
    size_t at_ = 0;
    int line_ = 1;
    bool line_starting_ = true;
    std::vector<Token> out_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& name) { return Lexer(source, name).run(); }

}  // namespace quantplug::engine::jinja
