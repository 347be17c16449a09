#include "engine/chat/jinja/strings.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {

const Text& string_argument(const Context& context, const Value& value, std::string_view what) {
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (!value.is(Kind::string)) context.fail("'", what, "' needs a string, not a ", type_name(value));
    return value.text();
}

int64_t integer_argument(const Context& context, const Value& value, std::string_view what) {
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (!value.is_integral()) context.fail("'", what, "' needs an integer, not a ", type_name(value));
    return value.as_integer();
}

Text strip(Context& context, const Text& text, const std::string* chars, bool left, bool right) {
    const std::string& bytes = text.bytes();
    context.touch(bytes.size());
    const auto goes = [&](size_t at, size_t length) {
        if (!chars) return is_space(code_point_at(bytes, at).code);
        const std::string_view one = std::string_view(bytes).substr(at, length);
        if (one.size() == 1) return chars->find(one[0]) != std::string::npos;
        for (size_t i = 0; i < chars->size(); i += code_point_at(*chars, i).length)
            if (std::string_view(*chars).substr(i, code_point_at(*chars, i).length) == one) return true;
        return false;
    };
    if (chars) context.step(chars->size() / 4);
    size_t begin = 0, end = bytes.size();
    while (left && begin < end) {
        const size_t length = code_point_at(bytes, begin).length;
        if (!goes(begin, length)) break;
        begin += length;
    }
    while (right && begin < end) {
        const size_t last = code_point_before(bytes, end);
        if (!goes(last, end - last)) break;
        end = last;
    }
    return text.slice(begin, end);
}

Text replace(Context& context, const Text& text, const std::string& old_bytes, const Text& fresh, int64_t count) {
    const std::string& bytes = text.bytes();
    context.touch(bytes.size());
    Text out;
    const auto add = [&](const Text& piece) {
        out.append(piece);
        context.step();
        context.check_text(out.size());
    };
    size_t done = 0;
    if (old_bytes.empty()) {  // between all characters, and at both ends
        for (size_t at = 0; count != 0; --count) {
            add(text.slice(done, at));
            add(fresh);
            done = at;
            if (at >= bytes.size()) break;
            at += code_point_at(bytes, at).length;
        }
    } else {
        while (count != 0) {
            const size_t found = bytes.find(old_bytes, done);
            if (found == std::string::npos) break;
            add(text.slice(done, found));
            add(fresh);
            done = found + old_bytes.size();
            --count;
        }
    }
    add(text.slice(done, bytes.size()));
    return out;
}

namespace {

std::vector<Text> split_space(Context& context, const Text& text, int64_t most, bool from_right) {
    const std::string& bytes = text.bytes();
    std::vector<Text> out;
    size_t begin = 0, end = bytes.size();
    const auto skip = [&](bool spaces) {
        if (from_right) {
            while (end > begin) {
                const size_t last = code_point_before(bytes, end);
                if (is_space(code_point_at(bytes, last).code) != spaces) break;
                end = last;
            }
        } else {
            while (begin < end) {
                const CodePoint one = code_point_at(bytes, begin);
                if (is_space(one.code) != spaces) break;
                begin += one.length;
            }
        }
    };
    for (skip(true); begin < end; skip(true)) {
        context.step();
        if (most >= 0 && static_cast<int64_t>(out.size()) >= most) {
            out.push_back(text.slice(begin, end));  // white space at the other end stays
            break;
        }
        const size_t from = begin, to = end;
        skip(false);
        out.push_back(from_right ? text.slice(end, to) : text.slice(from, begin));
    }
    if (from_right) std::reverse(out.begin(), out.end());
    return out;
}

}  // namespace

std::vector<Text> split(Context& context, const Text& text, const std::string* separator, int64_t most,
                        bool from_right) {
    const std::string& bytes = text.bytes();
    context.touch(bytes.size());
    if (!separator) return split_space(context, text, most, from_right);
    if (separator->empty()) context.fail("the separator of a split is empty");
    std::vector<Text> out;
    size_t begin = 0, end = bytes.size();
    while (most < 0 || static_cast<int64_t>(out.size()) < most) {
        context.step();
        if (from_right) {
            if (end < separator->size()) break;
            const size_t found = bytes.rfind(*separator, end - separator->size());
            if (found == std::string::npos) break;
            out.push_back(text.slice(found + separator->size(), end));
            end = found;
        } else {
            const size_t found = bytes.find(*separator, begin);
            if (found == std::string::npos) break;
            out.push_back(text.slice(begin, found));
            begin = found + separator->size();
        }
    }
    out.push_back(text.slice(begin, end));
    if (from_right) std::reverse(out.begin(), out.end());
    return out;
}

std::vector<Text> split_lines(Context& context, const Text& text, bool keep_ends) {
    const std::string& bytes = text.bytes();
    context.touch(bytes.size());
    std::vector<Text> out;
    size_t begin = 0;
    for (size_t at = 0; at < bytes.size();) {
        const CodePoint one = code_point_at(bytes, at);
        size_t after = at + one.length;
        if (!is_line_end(one.code)) {
            at = after;
            continue;
        }
        context.step();
        if (one.code == '\r' && after < bytes.size() && bytes[after] == '\n') ++after;
        out.push_back(text.slice(begin, keep_ends ? after : at));
        begin = at = after;
    }
    if (begin < bytes.size()) out.push_back(text.slice(begin, bytes.size()));
    return out;
}

Text join(Context& context, const std::vector<Text>& parts, const Text& separator) {
    Text out;
    for (size_t i = 0; i < parts.size(); ++i) {
        if (i > 0) out.append(separator);
        context.touch(separator.size() + parts[i].size());
        out.append(parts[i]);
        context.check_text(out.size());
    }
    return out;
}

Text pad(Context& context, const Text& text, int64_t width, std::string_view fill, bool in_front, bool behind) {
    const auto size = static_cast<int64_t>(code_points(text.bytes()));
    const int64_t missing = std::max<int64_t>(width - size, 0);
    if (missing > 1'000'000) context.exhausted("makes too long a text");
    context.touch(text.size() + static_cast<size_t>(missing) * 4);
    // str.center puts the odd one in front where the width is odd too.
    const int64_t front = in_front && behind ? missing / 2 + (missing & width & 1) : in_front ? missing : 0;
    Text out;
    for (int64_t i = 0; i < front; ++i) out.append(fill);
    out.append(text);
    for (int64_t i = front; i < missing; ++i) out.append(fill);
    return out.as_safe(text.safe());
}

Text escape_html(Context& context, const Text& text) {
    if (text.safe()) return text;
    context.touch(text.size());
    std::string out;
    for (const char c : text.bytes()) switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '\'':
                out += "&#39;";
                break;
            case '"':
                out += "&#34;";
                break;
            default:
                out += c;
        }
    return text.with_bytes(std::move(out)).as_safe(true);
}

Text title_filter(Context& context, const Text& text) {
    const std::string& bytes = text.bytes();
    context.touch(bytes.size() * 4);
    std::string out;
    bool inside = false;
    for (size_t i = 0; i < bytes.size();) {
        const CodePoint one = code_point_at(bytes, i);
        const std::string_view letter = std::string_view(bytes).substr(i, one.length);
        const bool separates =
            is_space(one.code) || (one.length == 1 && std::string_view("-({[<").find(letter) != std::string_view::npos);
        out += inside ? to_lower(letter) : to_upper(letter);
        inside = !separates;
        i += one.length;
    }
    return Text(std::move(out), text.marked());
}

Text indent(Context& context, const Text& text, const Text& indentation, bool first, bool blank) {
    Text whole = text;
    whole.append("\n");
    const std::vector<Text> lines = split_lines(context, whole, false);
    Text out;
    if (first) out.append(indentation);
    for (size_t i = 0; i < lines.size(); ++i) {
        if (i > 0) {
            out.append("\n");
            if (blank || !lines[i].empty()) out.append(indentation);
        }
        out.append(lines[i]);
        context.touch(lines[i].size() + indentation.size());
        context.check_text(out.size());
    }
    return out.as_safe(text.safe());
}

namespace {

/// Without white space around it and single underscores between digits; false where underscores are elsewhere.
bool bare_number(std::string_view text, std::string& out) {
    while (!text.empty() && is_space(code_point_at(text, 0).code)) text.remove_prefix(code_point_at(text, 0).length);
    while (!text.empty()) {
        const size_t last = code_point_before(text, text.size());
        if (!is_space(code_point_at(text, last).code)) break;
        text = text.substr(0, last);
    }
    const auto alphanumeric = [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    };
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '_') {
            out += text[i];
        } else if (i == 0 || i + 1 >= text.size() || !alphanumeric(text[i - 1]) || !alphanumeric(text[i + 1])) {
            return false;
        }
    }
    return !out.empty();
}

}  // namespace

bool parse_float(std::string_view text, double& out) {
    std::string bare;
    if (!bare_number(text, bare)) return false;
    std::string_view digits = bare;
    if (digits[0] == '+') digits.remove_prefix(1);
    if (digits.empty() || digits[0] == '+' || digits.starts_with("-+") || digits.find('(') != std::string_view::npos)
        return false;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
    if (end != digits.data() + digits.size()) return false;
    if (error == std::errc::result_out_of_range) {
        const bool small = digits.find("e-") != std::string_view::npos || digits.find("E-") != std::string_view::npos;
        out = (digits[0] == '-' ? -1 : 1) * (small ? 0.0 : std::numeric_limits<double>::infinity());
        return true;
    }
    return error == std::errc();
}

bool parse_integer(const Context& context, std::string_view text, int64_t base, int64_t& out) {
    std::string bare;
    if (base < 2 || base > 36 || !bare_number(text, bare)) return false;
    std::string_view digits = bare;
    const bool negative = digits[0] == '-';
    if (negative || digits[0] == '+') digits.remove_prefix(1);
    if (digits.size() > 2 && digits[0] == '0') {
        const char kind = static_cast<char>(digits[1] | 0x20);
        if ((kind == 'x' && base == 16) || (kind == 'o' && base == 8) || (kind == 'b' && base == 2))
            digits.remove_prefix(2);
    }
    if (digits.empty() || digits[0] == '-' || digits[0] == '+') return false;
    std::string number = negative ? "-" : "";
    number += digits;
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), out, static_cast<int>(base));
    if (end != number.data() + number.size()) return false;
    if (error == std::errc::result_out_of_range) context.fail("the integer ", number, " does not fit in 64 bits");
    return error == std::errc();
}

}  // namespace quantplug::engine::jinja
