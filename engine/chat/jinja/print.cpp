#include "engine/chat/jinja/print.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {
namespace {

bool is_printable(char32_t code) {
    if (code < 0x7F) return code >= 0x20;
    const auto c = utf8proc_category(static_cast<utf8proc_int32_t>(code));
    return c != UTF8PROC_CATEGORY_CN && (c < UTF8PROC_CATEGORY_ZS);
}

std::string string_repr(std::string_view text) {
    const bool single = text.find('\'') == std::string_view::npos || text.find('"') != std::string_view::npos;
    const char quote = single ? '\'' : '"';
    std::string out(1, quote);
    for (size_t i = 0; i < text.size();) {
        const CodePoint one = code_point_at(text, i);
        const char32_t c = one.code;
        char escape[16] = {};
        if (c == static_cast<char32_t>(quote) || c == '\\')
            std::snprintf(escape, sizeof escape, "\\%c", static_cast<char>(c));
        else if (c == '\n')
            std::snprintf(escape, sizeof escape, "\\n");
        else if (c == '\r')
            std::snprintf(escape, sizeof escape, "\\r");
        else if (c == '\t')
            std::snprintf(escape, sizeof escape, "\\t");
        else if (!is_printable(c))
            std::snprintf(escape, sizeof escape,
                          c < 0x100     ? "\\x%02x"
                          : c < 0x10000 ? "\\u%04x"
                                        : "\\U%08x",
                          static_cast<unsigned>(c));
        if (escape[0])
            out += escape;
        else
            out.append(text.substr(i, one.length));
        i += one.length;
    }
    return out += quote;
}

void append_items(Context& context, Text& out, const std::vector<Value>& items, std::string_view open,
                  std::string_view close) {
    out.append(open);
    for (size_t i = 0; i < items.size(); ++i) {
        if (i > 0) out.append(", ");
        append_repr(context, out, items[i]);
    }
    out.append(close);
}

void append_dict(Context& context, Text& out, const DictObject::Items& items) {
    out.append("{");
    bool first = true;
    for (const auto& [key, value] : items) {
        if (!first) out.append(", ");
        first = false;
        append_repr(context, out, key);
        out.append(": ");
        append_repr(context, out, value);
    }
    out.append("}");
}

}  // namespace

std::string float_repr(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
    char buffer[40];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
    const std::string_view text(buffer, static_cast<size_t>(end - buffer));
    const size_t e = text.find('e');
    int exponent = 0;
    const char* digits_of_exponent = buffer + e + 1 + (text[e + 1] == '+');
    std::from_chars(digits_of_exponent, end, exponent);
    const bool negative = text[0] == '-';
    std::string digits;
    for (const char c : text.substr(0, e))
        if (c >= '0' && c <= '9') digits += c;
    std::string out = negative ? "-" : "";
    const int n = static_cast<int>(digits.size());
    if (exponent < -4 || exponent >= 16) {
        out += digits[0];
        if (n > 1) out.append(".").append(digits, 1);
        char tail[16];
        std::snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
        return out += tail;
    }
    if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
    if (n <= exponent + 1) return out + digits + std::string(static_cast<size_t>(exponent + 1 - n), '0') + ".0";
    const auto whole = static_cast<size_t>(exponent + 1);
    return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

Text to_text(Context& context, const Value& value) {
    if (value.is(Kind::string)) return value.text();
    Text out;
    append_text(context, out, value);
    return out;
}

void append_text(Context& context, Text& out, const Value& value) {
    if (value.is(Kind::string)) {
        context.touch(value.text().size());
        out.append(value.text());
    } else if (!value.is(Kind::undefined)) {
        append_repr(context, out, value);
    }
    context.check_text(out.size());
}

void append_repr(Context& context, Text& out, const Value& value) {
    context.step();
    context.check_text(out.size());
    switch (value.kind()) {
        case Kind::undefined:
            return out.append("Undefined");
        case Kind::none:
            return out.append("None");
        case Kind::boolean:
            return out.append(value.as_bool() ? "True" : "False");
        case Kind::integer:
            return out.append(std::to_string(value.as_integer()));
        case Kind::real:
            return out.append(float_repr(value.as_real()));
        case Kind::string:
            context.touch(value.text().size());
            if (value.text().safe()) out.append("Markup(");
            out.append(value.text().with_bytes(string_repr(value.bytes())));
            if (value.text().safe()) out.append(")");
            return;
        case Kind::sequence: {
            const SequenceObject& list = value.sequence();
            switch (list.flavour) {
                case Flavour::list:
                    return append_items(context, out, list.items, "[", "]");
                case Flavour::tuple:
                    return append_items(context, out, list.items, "(", list.items.size() == 1 ? ",)" : ")");
                case Flavour::keys:
                    return append_items(context, out, list.items, "dict_keys([", "])");
                case Flavour::values:
                    return append_items(context, out, list.items, "dict_values([", "])");
                case Flavour::items:
                    return append_items(context, out, list.items, "dict_items([", "])");
                case Flavour::generator:
                    break;
            }
            break;
        }
        case Kind::dict:
            return append_dict(context, out, value.dict().items);
        case Kind::range: {
            const auto& range = value.as<RangeObject>();
            out.append("range(" + std::to_string(range.start) + ", " + std::to_string(range.stop));
            if (range.step != 1) out.append(", " + std::to_string(range.step));
            return out.append(")");
        }
        case Kind::space:
        case Kind::function:
        case Kind::macro:
        case Kind::loop:
            break;
    }
    context.fail("a ", type_name(value), " has no text: only its elements or its result can be printed");
}

namespace {

class JsonWriter {
 public:
    JsonWriter(Context& context, const JsonStyle& style) : context_(context), style_(style) {}

    void value(const Value& value, int level) {
        context_.step();
        context_.check_text(out.size());
        switch (value.kind()) {
            case Kind::none:
                out += "null";
                return;
            case Kind::boolean:
                out += value.as_bool() ? "true" : "false";
                return;
            case Kind::integer:
                out += std::to_string(value.as_integer());
                return;
            case Kind::real:
                out += real(value.as_real());
                return;
            case Kind::string:
                marked = marked || value.text().marked();
                string(value.bytes());
                return;
            case Kind::sequence:
                if (value.sequence().indexed()) return list(value.sequence().items, level);
                break;
            case Kind::dict:
                return dict(value.dict().items, level);
            default:
                break;
        }
        context_.fail("Object of type ", type_name(value), " is not JSON serializable");
    }

    std::string out;
    bool marked = false;

 private:
    static std::string real(double value) {
        if (std::isnan(value)) return "NaN";
        if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
        return float_repr(value);
    }

    void string(std::string_view text) {
        context_.touch(text.size());
        out += '"';
        for (size_t i = 0; i < text.size();) {
            const CodePoint one = code_point_at(text, i);
            character(one.code, text.substr(i, one.length));
            i += one.length;
        }
        out += '"';
    }

    void character(char32_t c, std::string_view bytes) {
        switch (c) {
            case '"':
                out += "\\\"";
                return;
            case '\\':
                out += "\\\\";
                return;
            case '\n':
                out += "\\n";
                return;
            case '\r':
                out += "\\r";
                return;
            case '\t':
                out += "\\t";
                return;
            case '\f':
                out += "\\f";
                return;
            case '\b':
                out += "\\b";
                return;
            default:
                break;
        }
        if (c >= 0x20 && (!style_.ensure_ascii || c < 0x7F)) {
            out.append(bytes);
        } else if (c < 0x10000) {
            unit(c);
        } else {
            unit(0xD800 + ((c - 0x10000) >> 10));
            unit(0xDC00 + ((c - 0x10000) & 0x3FF));
        }
    }

    void unit(char32_t code) {
        char escape[8];
        std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(code & 0xFFFF));
        out += escape;
    }

    void line(int level) {
        if (!style_.indent) return;
        out += '\n';
        context_.touch(style_.indent->size() * static_cast<size_t>(level));
        context_.check_text(out.size() + style_.indent->size() * static_cast<size_t>(level));
        for (int i = 0; i < level; ++i) out += *style_.indent;
    }

    void list(const std::vector<Value>& items, int level) {
        if (items.empty()) {
            out += "[]";
            return;
        }
        out += '[';
        for (size_t i = 0; i < items.size(); ++i) {
            if (i > 0) out += style_.item_separator;
            line(level + 1);
            value(items[i], level + 1);
        }
        line(level);
        out += ']';
    }

    std::string key_text(const Value& key) {
        marked = marked || (key.is(Kind::string) && key.text().marked());
        switch (key.kind()) {
            case Kind::string:
                return key.bytes();
            case Kind::none:
                return "null";
            case Kind::boolean:
                return key.as_bool() ? "true" : "false";
            case Kind::integer:
                return std::to_string(key.as_integer());
            case Kind::real:
                return real(key.as_real());
            default:
                context_.fail("keys must be str, int, float, bool or None, not ", type_name(key));
        }
    }

    void dict(const DictObject::Items& items, int level) {
        if (items.empty()) {
            out += "{}";
            return;
        }
        std::vector<std::pair<std::string, const Value*>> entries;
        for (const auto& [key, one] : items) entries.emplace_back(key_text(key), &one);
        if (style_.sort_keys) {
            for (const auto& item : items)
                if (item.first.kind() != items.front().first.kind())
                    context_.fail("keys of several types cannot be sorted");
            context_.step(entries.size() * 8);
            if (items.front().first.is(Kind::string))
                std::sort(entries.begin(), entries.end(),
                          [](const auto& a, const auto& b) { return a.first < b.first; });
        }
        out += '{';
        bool first = true;
        for (const auto& [key, one] : entries) {
            if (!first) out += style_.item_separator;
            first = false;
            line(level + 1);
            string(key);
            out += style_.key_separator;
            value(*one, level + 1);
        }
        line(level);
        out += '}';
    }

    Context& context_;
    const JsonStyle& style_;
};

}  // namespace

Text to_json(Context& context, const Value& value, const JsonStyle& style) {
    JsonWriter writer(context, style);
    writer.value(value, 0);
    return Text(std::move(writer.out), writer.marked);
}

}  // namespace quantplug::engine::jinja
