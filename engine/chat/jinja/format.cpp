#include "engine/chat/jinja/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "engine/chat/jinja/evaluator.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"
#include "engine/chat/jinja/strings.h"
#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {
namespace {

constexpr int64_t widest = 10'000;  // of a field

/// One field: what both ways of formatting have in common.
struct Field {
    std::string fill = " ";
    char align = 0;  // < > ^ = or none
    char sign = '-';
    bool alternate = false, zero = false, thousands = false;
    int64_t width = 0, precision = -1;
    char type = 0;
};

/// A number with its sign apart, then filled up to the width.
Text padded_number(Context& context, const Field& field, std::string sign, const std::string& digits) {
    const auto size = static_cast<int64_t>(sign.size() + digits.size());
    const char align = field.align ? field.align : field.zero ? '=' : '>';
    const std::string fill = field.zero && !field.align ? "0" : field.fill;
    if (align == '=' && size < field.width) {
        Text out(sign);
        for (int64_t i = size; i < field.width; ++i) out.append(fill);
        out.append(digits);
        return out;
    }
    return pad(context, Text(sign + digits), field.width, fill, align != '<', align == '<' || align == '^');
}

std::string with_thousands(const std::string& digits) {
    const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
    std::string out;
    for (size_t i = 0; i < digits.size(); ++i) {
        if (i > 0 && i < whole && (whole - i) % 3 == 0) out += ',';
        out += digits[i];
    }
    return out;
}

Text format_integer(Context& context, const Field& field, int64_t value) {
    const auto magnitude = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
    char digits[70] = {};
    std::string prefix;
    switch (field.type) {
        case 'x':
        case 'X':
            std::snprintf(digits, sizeof digits, field.type == 'x' ? "%llx" : "%llX",
                          static_cast<unsigned long long>(magnitude));
            prefix = field.type == 'x' ? "0x" : "0X";
            break;
        case 'o':
            std::snprintf(digits, sizeof digits, "%llo", static_cast<unsigned long long>(magnitude));
            prefix = "0o";
            break;
        case 'b': {
            std::string bits;
            for (uint64_t rest = magnitude; rest || bits.empty(); rest >>= 1) bits += rest & 1 ? '1' : '0';
            std::copy(bits.rbegin(), bits.rend(), digits);
            prefix = "0b";
            break;
        }
        default:
            std::snprintf(digits, sizeof digits, "%llu", static_cast<unsigned long long>(magnitude));
    }
    std::string sign = value < 0 ? "-" : field.sign == '-' ? "" : std::string(1, field.sign);
    if (field.alternate) sign += prefix;
    return padded_number(context, field, sign, field.thousands ? with_thousands(digits) : std::string(digits));
}

Text format_real(Context& context, const Field& field, double value) {
    const int64_t precision = field.precision < 0 ? 6 : field.precision;
    if (precision > 300) context.fail("a precision of ", precision, " digits is too much");
    const double magnitude = std::abs(value);
    const bool negative = std::signbit(value) && !std::isnan(value);
    std::string digits;
    if (!std::isfinite(value)) {
        digits = std::isnan(value) ? "nan" : "inf";
    } else {
        const double shown = field.type == '%' ? magnitude * 100 : magnitude;
        const char type = field.type == '%' ? 'f' : field.type;
        const char pattern[] = {'%',
                                field.alternate ? '#' : '.',
                                field.alternate ? '.' : '*',
                                field.alternate ? '*' : type,
                                field.alternate ? type : '\0',
                                '\0'};
        char buffer[700];
        std::snprintf(buffer, sizeof buffer, pattern, static_cast<int>(precision), shown);
        digits = buffer;
        if (field.type == '%') digits += '%';
    }
    if (field.thousands) digits = with_thousands(digits);
    return padded_number(context, field, negative ? "-" : field.sign == '-' ? "" : std::string(1, field.sign), digits);
}

Text cut(const Text& text, int64_t precision) {
    if (precision < 0) return text;
    const std::vector<size_t> offsets = code_point_offsets(text.bytes());
    return text.slice(0, offsets[std::min(static_cast<size_t>(precision), offsets.size() - 1)]);
}

bool is_digit_byte(char c) { return c >= '0' && c <= '9'; }

int64_t read_number(const Context& context, const std::string& text, size_t& at) {
    int64_t out = 0;
    for (; at < text.size() && is_digit_byte(text[at]); ++at) {
        out = out * 10 + (text[at] - '0');
        if (out > widest) context.fail("a field of a format is wider than ", widest);
    }
    return out;
}

}  // namespace

Text format_percent(Context& context, const Text& pattern, const Value& values) {
    const std::string& text = pattern.bytes();
    const bool several = values.is(Kind::sequence) && values.sequence().flavour == Flavour::tuple;
    size_t next = 0;
    bool by_name = false;
    const auto take = [&]() -> Value {
        if (several) {
            if (next >= values.sequence().items.size()) context.fail("not enough values for a format string");
            return values.sequence().items[next++];
        }
        if (next++ > 0) context.fail("not enough values for a format string");
        return values;
    };
    Text out;
    for (size_t at = 0; at < text.size();) {
        const size_t percent = std::min(text.find('%', at), text.size());
        out.append(pattern.slice(at, percent));
        context.touch(percent - at);
        context.check_text(out.size());
        at = percent;
        if (at >= text.size()) break;
        if (++at >= text.size()) context.fail("a format string ends behind '%'");
        if (text[at] == '%') {
            out.append("%");
            ++at;
            continue;
        }
        Value value;
        bool have = false;
        if (text[at] == '(') {
            const size_t end = text.find(')', at);
            if (end == std::string::npos) context.fail("a name in a format string has no ')'");
            if (!values.is(Kind::dict)) context.fail("a format string with names needs a dict");
            const std::string name = text.substr(at + 1, end - at - 1);
            const Value* found = values.dict().find(name);
            if (!found) context.fail("a format string needs the value '", name, "'");
            value = *found;
            have = by_name = true;
            at = end + 1;
        }
        Field field;
        for (; at < text.size() && std::string_view("-+ #0").find(text[at]) != std::string_view::npos; ++at)
            switch (text[at]) {
                case '-':
                    field.align = '<';
                    break;
                case '+':
                    field.sign = '+';
                    break;
                case ' ':
                    if (field.sign == '-') field.sign = ' ';
                    break;
                case '#':
                    field.alternate = true;
                    break;
                default:
                    field.zero = true;
            }
        const auto number = [&]() -> int64_t {
            if (at < text.size() && text[at] == '*') {
                ++at;
                const int64_t n = integer_argument(context, take(), "%");
                if (n > widest || n < -widest) context.fail("a field of a format is wider than ", widest);
                return n;
            }
            return read_number(context, text, at);
        };
        field.width = number();
        if (field.width < 0) {
            field.align = '<';
            field.width = -field.width;
        }
        if (at < text.size() && text[at] == '.') {
            ++at;
            field.precision = std::max<int64_t>(number(), 0);
        }
        while (at < text.size() && (text[at] == 'l' || text[at] == 'h' || text[at] == 'L')) ++at;
        if (at >= text.size()) context.fail("a format string ends in the middle of a field");
        field.type = text[at++];
        if (!have) value = take();
        Text shown;
        switch (field.type) {
            case 's':
            case 'r':
            case 'a':
                if (field.type == 's')
                    append_text(context, shown, value);
                else
                    append_repr(context, shown, value);
                out.append(pad(context, cut(shown, field.precision), field.width, " ", field.align != '<',
                               field.align == '<'));
                break;
            case 'c':
                if (value.is(Kind::string) && code_points(value.bytes()) == 1) {
                    shown = value.text();
                } else {
                    const int64_t code = integer_argument(context, value, "%c");
                    if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
                        context.fail("%c of ", code, " is no character");
                    std::string bytes;
                    append_code_point(bytes, static_cast<char32_t>(code));
                    shown = Text(bytes);
                }
                out.append(pad(context, shown, field.width, " ", field.align != '<', field.align == '<'));
                break;
            case 'd':
            case 'i':
            case 'u':
            case 'x':
            case 'X':
            case 'o': {
                const bool decimal = field.type != 'x' && field.type != 'X' && field.type != 'o';
                if (!value.is_integral() && !(decimal && value.is(Kind::real)))
                    context.fail("%", field.type, " needs a number, not a ", type_name(value));
                if (value.is(Kind::real) && !(std::abs(value.as_real()) < 9e18))
                    context.fail("%", field.type, " of ", float_repr(value.as_real()), " does not fit in 64 bits");
                if (field.precision > 60) context.fail("a precision of ", field.precision, " digits is too much");
                Field plain = field;
                plain.width = 0;
                plain.zero = false;
                const int64_t whole = value.is(Kind::real) ? static_cast<int64_t>(value.as_real()) : value.as_integer();
                // At least `precision` digits.
                Field digits = plain;
                digits.width = std::max<int64_t>(field.precision, 0) + (whole < 0 || field.sign != '-');
                digits.zero = field.precision > 0;
                digits.align = 0;
                if (field.precision <= 0) digits.width = field.zero && field.align != '<' ? field.width : 0;
                digits.zero = digits.zero || (field.zero && field.align != '<' && field.precision < 0);
                out.append(pad(context, format_integer(context, digits, whole), field.width, " ", field.align != '<',
                               field.align == '<'));
                break;
            }
            case 'e':
            case 'E':
            case 'f':
            case 'F':
            case 'g':
            case 'G':
                if (!value.is_number()) context.fail("%", field.type, " needs a number, not a ", type_name(value));
                out.append(format_real(context, field, value.as_real()));
                break;
            default:
                context.fail("a format string has no '%", field.type, "'");
        }
    }
    if (!by_name && !values.is(Kind::dict) && !values.is(Kind::undefined) && !values.is(Kind::range) &&
        next < (several ? values.sequence().items.size() : 1) &&
        !(values.is(Kind::sequence) && values.sequence().flavour == Flavour::list))
        context.fail("not all values were used by a format string");
    return out;
}

namespace {

Field parse_spec(Context& context, const std::string& spec) {
    Field out;
    size_t at = 0;
    const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
    if (!spec.empty()) {
        const size_t first = code_point_at(spec, 0).length;
        if (first < spec.size() && is_align(spec[first])) {
            out.fill = spec.substr(0, first);
            out.align = spec[first];
            at = first + 1;
        } else if (is_align(spec[0])) {
            out.align = spec[0];
            at = 1;
        }
    }
    if (at < spec.size() && (spec[at] == '+' || spec[at] == '-' || spec[at] == ' ')) out.sign = spec[at++];
    if (at < spec.size() && spec[at] == '#') out.alternate = true, ++at;
    if (at < spec.size() && spec[at] == '0') out.zero = true, ++at;
    out.width = read_number(context, spec, at);
    if (at < spec.size() && spec[at] == ',') out.thousands = true, ++at;
    if (at < spec.size() && spec[at] == '.') {
        ++at;
        if (at >= spec.size() || !is_digit_byte(spec[at])) context.fail("a format has no precision behind '.'");
        out.precision = read_number(context, spec, at);
    }
    if (at < spec.size()) out.type = spec[at++];
    if (at < spec.size()) context.fail("the format '", spec, "' is not understood");
    return out;
}

Text format_value(Context& context, const Value& value, const std::string& spec) {
    if (spec.empty()) return to_text(context, value);
    Field field = parse_spec(context, spec);
    const std::string_view integers = "dxXobn", reals = "eEfFgG%";
    if (value.is_number() && reals.find(field.type) != std::string_view::npos && field.type)
        return format_real(context, field, value.as_real());
    if (value.is_integral() && (!field.type || integers.find(field.type) != std::string_view::npos))
        return format_integer(context, field, value.as_integer());
    if (value.is(Kind::real) && !field.type) {
        if (field.precision >= 0) context.fail("the format '", spec, "' of a float needs a type");
        std::string digits = float_repr(std::abs(value.as_real()));
        if (field.thousands) digits = with_thousands(digits);
        return padded_number(context, field,
                             std::signbit(value.as_real()) ? "-"
                             : field.sign == '-'           ? ""
                                                           : std::string(1, field.sign),
                             digits);
    }
    if (!value.is(Kind::string) || (field.type && field.type != 's') || field.align == '=')
        context.fail("the format '", spec, "' does not fit a ", type_name(value));
    if (field.zero && !field.align) {
        field.fill = "0";
        field.align = '<';
    }
    const char align = field.align ? field.align : '<';
    return pad(context, cut(value.text(), field.precision), field.width, field.fill, align != '<',
               align == '<' || align == '^');
}

}  // namespace

Text format_braces(Evaluator& evaluator, const Text& pattern, const Arguments& arguments) {
    Context& context = evaluator.context();
    const std::string& text = pattern.bytes();
    int64_t automatic = 0;
    const auto value_of = [&](const std::string& name) -> Value {
        size_t at = 0;
        while (at < name.size() && name[at] != '.' && name[at] != '[') ++at;
        const std::string first = name.substr(0, at);
        Value value;
        if (first.empty() || is_digit_byte(first[0])) {
            size_t digit = 0;
            if (first.empty() ? automatic < 0 : automatic > 0)
                context.fail("a format string has fields with numbers and without");
            const int64_t index = first.empty() ? automatic++ : read_number(context, first, digit);
            if (!first.empty()) automatic = -1;
            if (digit < first.size() || index >= static_cast<int64_t>(arguments.positional.size()))
                context.fail("a format string needs the value number ", index);
            value = arguments.positional[static_cast<size_t>(index)];
        } else {
            const auto it = std::find_if(arguments.named.begin(), arguments.named.end(),
                                         [&](const auto& one) { return one.first == first; });
            if (it == arguments.named.end()) context.fail("a format string needs the value '", first, "'");
            value = it->second;
        }
        while (at < name.size()) {
            const bool attribute = name[at] == '.';
            const size_t end = attribute ? std::min(name.find_first_of(".[", at + 1), name.size()) : name.find(']', at);
            if (end == std::string::npos) context.fail("a format string has '[' without ']'");
            const std::string key = name.substr(at + 1, end - at - 1);
            const bool number = !attribute && !key.empty() && key.find_first_not_of("0123456789") == std::string::npos;
            size_t digit = 0;
            value = attribute ? evaluator.attribute(value, key)
                              : evaluator.item(value, number ? Value::integer(read_number(context, key, digit))
                                                             : make_string(context, key));
            at = attribute ? end : end + 1;
        }
        return value;
    };
    Text out;
    for (size_t at = 0; at < text.size();) {
        const size_t brace = std::min(text.find_first_of("{}", at), text.size());
        out.append(pattern.slice(at, brace));
        context.touch(brace - at);
        context.check_text(out.size());
        at = brace;
        if (at >= text.size()) break;
        if (at + 1 < text.size() && text[at + 1] == text[at]) {
            out.append(text.substr(at, 1));
            at += 2;
            continue;
        }
        if (text[at] == '}') context.fail("a format string has a single '}'");
        const size_t end = text.find('}', at);
        if (end == std::string::npos) context.fail("a format string has '{' without '}'");
        std::string field = text.substr(at + 1, end - at - 1), spec;
        if (field.find('{') != std::string::npos) context.fail("fields inside of a format's field are not supported");
        if (const size_t colon = field.find(':'); colon != std::string::npos) {
            spec = field.substr(colon + 1);
            field.resize(colon);
        }
        char conversion = 0;
        if (const size_t mark = field.find('!'); mark != std::string::npos) {
            if (mark + 2 != field.size()) context.fail("a format string has '!' without one letter");
            conversion = field[mark + 1];
            if (conversion != 'r' && conversion != 's' && conversion != 'a')
                context.fail("a format string has no conversion '!", conversion, "'");
            field.resize(mark);
        }
        Value value = value_of(field);
        if (conversion == 'r' || conversion == 'a') {
            Text shown;
            append_repr(context, shown, value);
            value = make_string(context, std::move(shown));
        } else if (conversion == 's') {
            value = make_string(context, to_text(context, value));
        }
        out.append(format_value(context, value, spec));
        at = end + 1;
    }
    return out;
}

}  // namespace quantplug::engine::jinja
