// Filters that make a string.
#include <cstdio>

#include "engine/chat/jinja/evaluator.h"
#include "engine/chat/jinja/format.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"
#include "engine/chat/jinja/registry.h"
#include "engine/chat/jinja/strings.h"
#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {
namespace {

bool truth_of(const Value* value) { return value && truth(*value); }

void no_arguments(Context& context, Arguments& arguments, std::string_view filter) {
    if (!arguments.positional.empty() || !arguments.named.empty())
        context.fail("the filter '", filter, "' takes no argument");
}

template <std::string (*change)(std::string_view)>
Value case_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    no_arguments(context, arguments, "of letters' case");
    const Text text = to_text(context, value);
    context.touch(text.size() * 4);
    return make_string(context, text.with_bytes(change(text.bytes())));
}

Value title(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    no_arguments(context, arguments, "title");
    return make_string(context, title_filter(context, to_text(context, value)));
}

Value trim(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [chars] = arguments.bind<1>(context, "trim", {"chars"});
    const std::string* set =
        chars && !chars->is(Kind::none) ? &string_argument(context, *chars, "trim").bytes() : nullptr;
    return make_string(context, strip(context, to_text(context, value), set, true, true));
}

Value replace_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [old, fresh, count] = arguments.bind<3>(context, "replace", {"old", "new", "count"}, 2);
    const int64_t most = count && !count->is(Kind::none) ? integer_argument(context, *count, "replace") : -1;
    return make_string(context, replace(context, to_text(context, value), to_text(context, *old).bytes(),
                                        to_text(context, *fresh), most));
}

Value indent_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [width, first, blank] = arguments.bind<3>(context, "indent", {"width", "first", "blank"});
    Text indentation("    ");
    if (width && width->is(Kind::string)) {
        indentation = width->text();
    } else if (width) {
        const int64_t n = std::max<int64_t>(integer_argument(context, *width, "indent"), 0);
        if (n > 1'000'000) context.exhausted("makes too long a text");
        indentation = Text(std::string(static_cast<size_t>(n), ' '));
    }
    return make_string(context, indent(context, string_argument(context, value, "indent"), indentation, truth_of(first),
                                       truth_of(blank)));
}

Value string_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator.context(), arguments, "string");
    return make_string(evaluator.context(), to_text(evaluator.context(), value));
}

Value safe(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator.context(), arguments, "safe");
    return make_string(evaluator.context(), to_text(evaluator.context(), value).as_safe(true));
}

Value escape(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    no_arguments(context, arguments, "escape");
    return make_string(context, escape_html(context, to_text(context, value)));
}

Value force_escape(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    no_arguments(context, arguments, "forceescape");
    return make_string(context, escape_html(context, to_text(context, value).as_safe(false)));
}

Value tojson(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [ascii, indentation, separators, sorted] =
        arguments.bind<4>(context, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
    JsonStyle style;
    style.ensure_ascii = truth_of(ascii);
    style.sort_keys = truth_of(sorted);
    if (indentation && !indentation->is(Kind::none)) {
        if (indentation->is(Kind::string)) {
            style.indent = indentation->bytes();
        } else {
            const int64_t n = std::max<int64_t>(integer_argument(context, *indentation, "tojson"), 0);
            if (n > 1000) context.fail("an indentation of ", n, " is too wide");
            style.indent = std::string(static_cast<size_t>(n), ' ');
        }
        style.item_separator = ",";
    }
    if (separators && !separators->is(Kind::none)) {
        const std::vector<Value> two = elements(context, *separators);
        if (two.size() != 2) context.fail("'separators' of tojson needs two strings");
        style.item_separator = string_argument(context, two[0], "tojson").bytes();
        style.key_separator = string_argument(context, two[1], "tojson").bytes();
    }
    return make_string(context, to_json(context, value, style));
}

Value format_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    if (!arguments.positional.empty() && !arguments.named.empty())
        context.fail("'format' takes values with names or without, not both");
    Value values;
    if (arguments.named.empty()) {
        values = make_sequence(context, Flavour::tuple, arguments.positional);
    } else {
        DictObject::Items items;
        for (auto& [name, one] : arguments.named) items.emplace_back(make_string(context, name), one);
        values = make_dict(context, std::move(items));
    }
    return make_string(context, format_percent(context, to_text(context, value), values));
}

Value truncate(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [length, kill, end, leeway] =
        arguments.bind<4>(context, "truncate", {"length", "killwords", "end", "leeway"});
    const int64_t n = length ? integer_argument(context, *length, "truncate") : 255;
    const Text tail = end ? string_argument(context, *end, "truncate") : Text("...");
    const int64_t slack = leeway && !leeway->is(Kind::none) ? integer_argument(context, *leeway, "truncate") : 5;
    if (!value.is(Kind::string) && has_length(value) && jinja::length(context, value) <= n + slack) return value;
    const Text& text = string_argument(context, value, "truncate");
    const auto tail_size = static_cast<int64_t>(code_points(tail.bytes()));
    if (n < tail_size || slack < 0) context.fail("'truncate' to ", n, " characters leaves no room for the end");
    context.touch(text.size());
    const std::vector<size_t> offsets = code_point_offsets(text.bytes());
    if (static_cast<int64_t>(offsets.size()) - 1 <= n + slack) return value;
    Text cut = text.slice(0, offsets[static_cast<size_t>(n - tail_size)]);
    if (!truth_of(kill)) {
        const std::string space = " ";
        cut = split(context, cut, &space, 1, true).front();
    }
    cut.append(tail);
    return make_string(context, std::move(cut));
}

Value center(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [width] = arguments.bind<1>(context, "center", {"width"});
    const int64_t n = width ? integer_argument(context, *width, "center") : 80;
    return make_string(context, pad(context, to_text(context, value), n, " ", true, true));
}

Value urlencode(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    no_arguments(context, arguments, "urlencode");
    if (value.is(Kind::dict) || value.is(Kind::sequence)) context.fail("'urlencode' of a container is not supported");
    const Text text = to_text(context, value);
    context.touch(text.size());
    std::string out;
    for (const char c : text.bytes()) {
        const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                           std::string_view("_.-~/").find(c) != std::string_view::npos;
        char escaped[4] = {c};
        if (!plain) std::snprintf(escaped, sizeof escaped, "%%%02X", static_cast<unsigned>(static_cast<uint8_t>(c)));
        out += escaped;
    }
    return make_string(context, text.with_bytes(std::move(out)));
}

constexpr NamedFilter table[] = {
    {"upper", case_filter<to_upper>},
    {"lower", case_filter<to_lower>},
    {"capitalize", case_filter<to_capitalized>},
    {"title", title},
    {"trim", trim},
    {"replace", replace_filter},
    {"indent", indent_filter},
    {"string", string_filter},
    {"safe", safe},
    {"escape", escape},
    {"e", escape},
    {"forceescape", force_escape},
    {"tojson", tojson},
    {"format", format_filter},
    {"truncate", truncate},
    {"center", center},
    {"urlencode", urlencode},
};

}  // namespace

std::span<const NamedFilter> text_filters() { return table; }

}  // namespace quantplug::engine::jinja
