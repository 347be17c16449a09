// Methods of strings, lists, tuples, dicts and loops.
#include <algorithm>

#include "engine/chat/jinja/evaluator.h"
#include "engine/chat/jinja/format.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"
#include "engine/chat/jinja/registry.h"
#include "engine/chat/jinja/strings.h"
#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {
namespace {

using Table = std::span<const Method>;

bool given(const Value* value) { return value && !value->is(Kind::none); }

Value list_of(Context& context, std::vector<Text> texts, Flavour flavour = Flavour::list) {
    std::vector<Value> out;
    for (Text& text : texts) out.push_back(make_string(context, std::move(text)));
    return make_sequence(context, flavour, std::move(out));
}

template <bool left, bool right>
Value strip_method(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [chars] = arguments.bind<1>(context, "strip", {"chars"});
    const std::string* set = given(chars) ? &string_argument(context, *chars, "strip").bytes() : nullptr;
    return make_string(context, strip(context, self.text(), set, left, right));
}

template <bool from_right>
Value split_method(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [separator, most] = arguments.bind<2>(context, "split", {"sep", "maxsplit"});
    const std::string* by = given(separator) ? &string_argument(context, *separator, "split").bytes() : nullptr;
    return list_of(context,
                   split(context, self.text(), by, most ? integer_argument(context, *most, "split") : -1, from_right));
}

Value splitlines(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [keep] = arguments.bind<1>(context, "splitlines", {"keepends"});
    return list_of(context, split_lines(context, self.text(), keep && truth(*keep)));
}

template <bool from_right>
Value partition(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [separator] = arguments.bind<1>(context, "partition", {"sep"}, 1);
    const Text& by = string_argument(context, *separator, "partition");
    if (by.empty()) context.fail("the separator of partition() is empty");
    const Text& text = self.text();
    context.touch(text.size());
    const size_t at = from_right ? text.bytes().rfind(by.bytes()) : text.bytes().find(by.bytes());
    if (at == std::string::npos)
        return list_of(context,
                       from_right ? std::vector<Text>{Text(), Text(), text} : std::vector{text, Text(), Text()},
                       Flavour::tuple);
    return list_of(context, {text.slice(0, at), by, text.slice(at + by.size(), text.size())}, Flavour::tuple);
}

/// The part of a text that optional `start` and `end` leave, as bytes; false where start is behind the end.
bool part_of(Context& context, const Text& text, const Value* start, const Value* end, size_t& from, size_t& to) {
    from = 0;
    to = text.size();
    if (!given(start) && !given(end)) return true;
    context.touch(text.size());
    const std::vector<size_t> offsets = code_point_offsets(text.bytes());
    const auto size = static_cast<int64_t>(offsets.size()) - 1;
    const auto place = [&](const Value* value, int64_t missing) {
        if (!given(value)) return missing;
        int64_t at = integer_argument(context, *value, "start or end");
        if (at < 0) at = std::max<int64_t>(at + size, 0);
        return at;
    };
    const int64_t first = place(start, 0), last = std::min(place(end, size), size);
    if (first > size || first > last) return false;
    from = offsets[static_cast<size_t>(first)];
    to = offsets[static_cast<size_t>(last)];
    return true;
}

template <bool at_end>
Value affix(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [wanted, start, end] = arguments.bind<3>(context, "startswith", {"prefix", "start", "end"}, 1);
    size_t from = 0, to = 0;
    const bool inside = part_of(context, self.text(), start, end, from, to);
    const std::string_view text = std::string_view(self.bytes()).substr(inside ? from : 0, inside ? to - from : 0);
    const auto fits = [&](const Value& one) {
        const std::string& bytes = string_argument(context, one, "startswith").bytes();
        context.touch(bytes.size());
        return inside && (at_end ? text.ends_with(bytes) : text.starts_with(bytes));
    };
    if (wanted->is(Kind::sequence) && wanted->sequence().flavour == Flavour::tuple) {
        for (const Value& one : wanted->sequence().items)
            if (fits(one)) return Value::boolean(true);
        return Value::boolean(false);
    }
    return Value::boolean(fits(*wanted));
}

template <bool from_right, bool must_be>
Value find(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [wanted, start, end] = arguments.bind<3>(context, "find", {"sub", "start", "end"}, 1);
    const std::string& bytes = string_argument(context, *wanted, "find").bytes();
    size_t from = 0, to = 0;
    if (part_of(context, self.text(), start, end, from, to)) {
        context.touch(self.text().size());
        const std::string_view text = std::string_view(self.bytes()).substr(0, to);
        const size_t at = from_right ? text.rfind(bytes) : text.find(bytes, from);
        if (at != std::string_view::npos && at >= from)
            return Value::integer(static_cast<int64_t>(code_points(text.substr(0, at))));
    }
    if (must_be) context.fail("the string does not contain what index() looks for");
    return Value::integer(-1);
}

Value count(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [wanted, start, end] = arguments.bind<3>(context, "count", {"sub", "start", "end"}, 1);
    const std::string& bytes = string_argument(context, *wanted, "count").bytes();
    size_t from = 0, to = 0;
    if (!part_of(context, self.text(), start, end, from, to)) return Value::integer(0);
    context.touch(self.text().size());
    const std::string_view text = std::string_view(self.bytes()).substr(from, to - from);
    if (bytes.empty()) return Value::integer(static_cast<int64_t>(code_points(text)) + 1);
    int64_t n = 0;
    for (size_t at = text.find(bytes); at != std::string_view::npos; at = text.find(bytes, at + bytes.size())) ++n;
    return Value::integer(n);
}

Value replace_method(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [old, fresh, most] = arguments.bind<3>(context, "replace", {"old", "new", "count"}, 2);
    const bool safe = self.text().safe();
    const auto argument = [&](const Value& value) {
        const Text& text = string_argument(context, value, "replace");
        return safe ? escape_html(context, text) : text;
    };
    const int64_t n = most ? integer_argument(context, *most, "replace") : -1;
    const Text out = replace(context, self.text(), argument(*old).bytes(), argument(*fresh), n);
    return make_string(context, out.as_safe(safe));
}

template <bool at_end>
Value remove_affix(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [affix_value] = arguments.bind<1>(context, "removeprefix", {"prefix"}, 1);
    const std::string& bytes = string_argument(context, *affix_value, "removeprefix").bytes();
    const Text& text = self.text();
    if (at_end && text.bytes().ends_with(bytes)) return make_string(context, text.slice(0, text.size() - bytes.size()));
    if (!at_end && text.bytes().starts_with(bytes)) return make_string(context, text.slice(bytes.size(), text.size()));
    return self;
}

template <std::string (*change)(std::string_view)>
Value case_method(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    (void)arguments.bind<0>(context, "upper", {});
    context.touch(self.text().size() * 4);
    return make_string(context, self.text().with_bytes(change(self.bytes())));
}

std::string swap_case(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size();) {
        const CodePoint one = code_point_at(text, i);
        const std::string_view letter = text.substr(i, one.length);
        out += is_upper(one.code) ? to_lower(letter) : to_upper(letter);
        i += one.length;
    }
    return out;
}

template <bool (*wanted)(char32_t)>
Value all_are(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    (void)arguments.bind<0>(evaluator.context(), "isdigit", {});
    evaluator.context().touch(self.text().size() * 4);
    const std::string& text = self.bytes();
    for (size_t i = 0; i < text.size(); i += code_point_at(text, i).length)
        if (!wanted(code_point_at(text, i).code)) return Value::boolean(false);
    return Value::boolean(!text.empty());
}

bool is_alphanumeric(char32_t code) { return code != '_' && is_word(code); }

template <bool lower>
Value has_case(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    (void)arguments.bind<0>(evaluator.context(), "islower", {});
    return Value::boolean(find_test(lower ? "lower" : "upper")(evaluator, self, arguments));
}

Value join_method(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [iterable] = arguments.bind<1>(context, "join", {"iterable"}, 1);
    std::vector<Text> parts;
    const bool safe = self.text().safe();
    for (const Value& one : elements(context, *iterable))
        parts.push_back(safe ? escape_html(context, to_text(context, one)) : string_argument(context, one, "join"));
    return make_string(context, join(context, parts, self.text()).as_safe(safe));
}

Value format_method(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    return make_string(evaluator.context(), format_braces(evaluator, self.text(), arguments));
}

template <bool in_front, bool behind>
Value justify(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [width, fill] = arguments.bind<2>(context, "ljust", {"width", "fillchar"}, 1);
    const std::string with = fill ? string_argument(context, *fill, "ljust").bytes() : " ";
    if (code_points(with) != 1) context.fail("the fill character must be one character");
    return make_string(context,
                       pad(context, self.text(), integer_argument(context, *width, "ljust"), with, in_front, behind));
}

Value zfill(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [width] = arguments.bind<1>(context, "zfill", {"width"}, 1);
    const int64_t n = integer_argument(context, *width, "zfill");
    const Text& text = self.text();
    const bool sign = text.bytes().starts_with('-') || text.bytes().starts_with('+');
    Text out = text.slice(0, sign);
    out.append(pad(context, text.slice(sign, text.size()), n - sign, "0", true, false));
    return make_string(context, std::move(out));
}

constexpr Method string_table[] = {
    {"strip", strip_method<true, true>},
    {"lstrip", strip_method<true, false>},
    {"rstrip", strip_method<false, true>},
    {"split", split_method<false>},
    {"rsplit", split_method<true>},
    {"splitlines", splitlines},
    {"partition", partition<false>},
    {"rpartition", partition<true>},
    {"startswith", affix<false>},
    {"endswith", affix<true>},
    {"find", find<false, false>},
    {"rfind", find<true, false>},
    {"index", find<false, true>},
    {"rindex", find<true, true>},
    {"count", count},
    {"replace", replace_method},
    {"removeprefix", remove_affix<false>},
    {"removesuffix", remove_affix<true>},
    {"upper", case_method<to_upper>},
    {"lower", case_method<to_lower>},
    {"casefold", case_method<to_lower>},
    {"title", case_method<to_title>},
    {"capitalize", case_method<to_capitalized>},
    {"swapcase", case_method<swap_case>},
    {"isdigit", all_are<is_digit>},
    {"isdecimal", all_are<is_digit>},
    {"isnumeric", all_are<is_digit>},
    {"isalpha", all_are<is_alpha>},
    {"isalnum", all_are<is_alphanumeric>},
    {"isspace", all_are<is_space>},
    {"islower", has_case<true>},
    {"isupper", has_case<false>},
    {"join", join_method},
    {"format", format_method},
    {"ljust", justify<false, true>},
    {"rjust", justify<true, false>},
    {"center", justify<true, true>},
    {"zfill", zfill},
};

Value get(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [key, otherwise] = arguments.bind<2>(context, "get", {"key", "default"}, 1);
    if (const Value* found = self.dict().find(context, *key)) return *found;
    return otherwise ? *otherwise : Value::none();
}

template <Flavour flavour>
Value view(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    (void)arguments.bind<0>(context, "items", {});
    std::vector<Value> out;
    for (const auto& [key, value] : self.dict().items)
        out.push_back(flavour == Flavour::keys     ? key
                      : flavour == Flavour::values ? value
                                                   : make_sequence(context, Flavour::tuple, {key, value}));
    return make_sequence(context, flavour, std::move(out));
}

Value copy(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    (void)arguments.bind<0>(evaluator.context(), "copy", {});
    return self;  // what cannot change needs no copy
}

constexpr Method dict_table[] = {{"get", get},
                                 {"items", view<Flavour::items>},
                                 {"keys", view<Flavour::keys>},
                                 {"values", view<Flavour::values>},
                                 {"copy", copy}};

Value list_index(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [wanted] = arguments.bind<1>(context, "index", {"value"}, 1);
    const auto& items = self.sequence().items;
    for (size_t i = 0; i < items.size(); ++i)
        if (equal(context, items[i], *wanted)) return Value::integer(static_cast<int64_t>(i));
    context.fail("the list does not contain what index() looks for");
}

Value list_count(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [wanted] = arguments.bind<1>(context, "count", {"value"}, 1);
    int64_t n = 0;
    for (const Value& one : self.sequence().items) n += equal(context, one, *wanted);
    return Value::integer(n);
}

constexpr Method list_table[] = {{"index", list_index}, {"count", list_count}, {"copy", copy}};

Value cycle(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    if (arguments.positional.empty()) evaluator.context().fail("loop.cycle() needs values to cycle through");
    return arguments.positional[self.as<LoopObject>().index0 % arguments.positional.size()];
}

Value changed(Evaluator& evaluator, const Value& self, Arguments& arguments) {
    auto& loop = self.as<LoopObject>();
    const bool first = !loop.watched;
    evaluator.watch(self);
    bool same = !first && loop.last_changed.size() == arguments.positional.size();
    for (size_t i = 0; same && i < loop.last_changed.size(); ++i)
        same = equal(evaluator.context(), loop.last_changed[i], arguments.positional[i]);
    loop.last_changed = arguments.positional;
    return Value::boolean(!same);
}

constexpr Method loop_table[] = {{"cycle", cycle}, {"changed", changed}};

Method find_in(Table table, std::string_view name) {
    for (const Method& one : table)
        if (one.name == name) return one;
    return {};
}

}  // namespace

Method find_string_method(std::string_view name) { return find_in(string_table, name); }

Method find_container_method(Kind kind, std::string_view name) {
    return find_in(kind == Kind::dict   ? Table(dict_table)
                   : kind == Kind::loop ? Table(loop_table)
                                        : Table(list_table),
                   name);
}

}  // namespace quantplug::engine::jinja
