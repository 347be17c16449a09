// Filters of lists, dicts and what else has elements.
#include <algorithm>
#include <utility>

#include "engine/chat/jinja/keys.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"
#include "engine/chat/jinja/registry.h"
#include "engine/chat/jinja/strings.h"
#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {

AttributePath::AttributePath(Context& context, const Value* attribute) {
    if (!attribute || attribute->is(Kind::none)) return;
    if (!attribute->is(Kind::string)) {
        parts_.push_back(*attribute);
        return;
    }
    const std::string dot = ".";
    for (const Text& part : split(context, attribute->text(), &dot, -1, false)) {
        const std::string& bytes = part.bytes();
        const bool digits =
            !bytes.empty() && bytes.size() < 10 && bytes.find_first_not_of("0123456789") == std::string::npos;
        parts_.push_back(digits ? Value::integer(std::stoll(bytes)) : make_string(context, part));
    }
}

Value AttributePath::of(Evaluator& evaluator, const Value& element, const Value* otherwise) const {
    Value out = element;
    for (const Value& part : parts_) {
        out = evaluator.item(out, part);
        if (otherwise && !otherwise->is(Kind::none) && out.is(Kind::undefined)) out = *otherwise;
    }
    return out;
}

Value sort_key(Evaluator& evaluator, const AttributePath& path, const Value& element, bool case_sensitive,
               const Value* otherwise) {
    Value out = path.of(evaluator, element, otherwise);
    if (!case_sensitive && out.is(Kind::string)) {
        evaluator.context().touch(out.text().size() * 4);
        out = make_string(evaluator.context(), to_lower(out.bytes()));
    }
    return out;
}

bool truth_of(const Value* argument) { return argument && truth(*argument); }

Value reversed(Evaluator& evaluator, const Value& value) {
    Context& context = evaluator.context();
    std::vector<Value> items = elements(context, value);
    std::reverse(items.begin(), items.end());
    if (value.is(Kind::string)) {
        Text out;
        for (const Value& one : items) out.append(one.text());
        return make_string(context, out.as_safe(value.text().safe()));
    }
    const bool from_generator = value.is(Kind::sequence) && !value.sequence().sized();
    return make_sequence(context, from_generator ? Flavour::list : Flavour::generator, std::move(items));
}

namespace {

Value list_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    if (!arguments.positional.empty()) context.fail("the filter 'list' takes no argument");
    return make_list(context, elements(context, value));
}

Value first(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    if (!arguments.positional.empty()) context.fail("the filter 'first' takes no argument");
    if (value.is(Kind::sequence) && !value.sequence().sized()) {
        auto& list = value.as<SequenceObject>();
        if (list.taken < list.items.size()) return list.items[list.taken++];
    } else {
        const std::vector<Value> items = elements(context, value);
        if (!items.empty()) return items.front();
    }
    return Value::undefined(context, "No first item, sequence was empty.");
}

Value last(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    if (!arguments.positional.empty()) context.fail("the filter 'last' takes no argument");
    if (value.is(Kind::sequence) && !value.sequence().sized())
        context.fail("'last' of a generator: make it a list first");
    const std::vector<Value> items = elements(context, value);
    return items.empty() ? Value::undefined(context, "No last item, sequence was empty.") : items.back();
}

Value join_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [separator, attribute] = arguments.bind<2>(context, "join", {"d", "attribute"});
    const AttributePath path(context, attribute);
    std::vector<Text> parts;
    for (const Value& one : elements(context, value)) parts.push_back(to_text(context, path.of(evaluator, one)));
    return make_string(context, join(context, parts, separator ? to_text(context, *separator) : Text()));
}

Value reverse_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    if (!arguments.positional.empty()) evaluator.context().fail("the filter 'reverse' takes no argument");
    return reversed(evaluator, value);
}

void sort_by_keys(Context& context, std::vector<std::pair<Value, Value>>& keyed, bool backwards) {
    // Equal elements keep their order, backwards too, as Python's sorted() does.
    if (backwards) std::reverse(keyed.begin(), keyed.end());
    std::stable_sort(keyed.begin(), keyed.end(),
                     [&](const auto& a, const auto& b) { return less(context, a.first, b.first); });
    if (backwards) std::reverse(keyed.begin(), keyed.end());
}

Value sort(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [backwards, sensitive, attribute] =
        arguments.bind<3>(context, "sort", {"reverse", "case_sensitive", "attribute"});
    std::vector<AttributePath> paths;
    if (attribute && attribute->is(Kind::string)) {
        const std::string comma = ",";
        for (const Text& part : split(context, attribute->text(), &comma, -1, false)) {
            const Value one = make_string(context, part);
            paths.emplace_back(context, &one);
        }
    } else {
        paths.emplace_back(context, attribute);
    }
    std::vector<std::pair<Value, Value>> keyed;
    for (const Value& one : elements(context, value)) {
        std::vector<Value> keys;
        for (const AttributePath& path : paths) keys.push_back(sort_key(evaluator, path, one, truth_of(sensitive)));
        keyed.emplace_back(make_list(context, std::move(keys)), one);
    }
    sort_by_keys(context, keyed, truth_of(backwards));
    std::vector<Value> out;
    for (auto& one : keyed) out.push_back(std::move(one.second));
    return make_list(context, std::move(out));
}

Value pair_of(Context& context, const Value& a, const Value& b) {
    return make_sequence(context, Flavour::tuple, {a, b});
}

Value dictsort(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [sensitive, by, backwards] = arguments.bind<3>(context, "dictsort", {"case_sensitive", "by", "reverse"});
    const std::string what = by ? to_text(context, *by).bytes() : "key";
    if (what != "key" && what != "value") context.fail("'dictsort' sorts by \"key\" or \"value\"");
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (!value.is(Kind::dict)) context.fail("'dictsort' needs a dict, not a ", type_name(value));
    const AttributePath itself(context, nullptr);
    std::vector<std::pair<Value, Value>> keyed;
    for (const auto& [key, one] : value.dict().items)
        keyed.emplace_back(sort_key(evaluator, itself, what == "key" ? key : one, truth_of(sensitive)),
                           pair_of(context, key, one));
    sort_by_keys(context, keyed, truth_of(backwards));
    std::vector<Value> out;
    for (auto& one : keyed) out.push_back(std::move(one.second));
    return make_list(context, std::move(out));
}

Value items_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    if (!arguments.positional.empty()) context.fail("the filter 'items' takes no argument");
    std::vector<Value> out;
    if (!value.is(Kind::undefined)) {
        if (!value.is(Kind::dict)) context.fail("'items' needs a dict, not a ", type_name(value));
        for (const auto& [key, one] : value.dict().items) out.push_back(pair_of(context, key, one));
    }
    return make_sequence(context, Flavour::generator, std::move(out));
}

Value unique(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [sensitive, attribute] = arguments.bind<2>(context, "unique", {"case_sensitive", "attribute"});
    const AttributePath path(context, attribute);
    std::unordered_map<std::string, bool> seen;
    std::vector<Value> out;
    for (const Value& one : elements(context, value))
        if (seen.emplace(hash_key(context, sort_key(evaluator, path, one, truth_of(sensitive))), true).second)
            out.push_back(one);
    return make_sequence(context, Flavour::generator, std::move(out));
}

template <bool largest>
Value extreme(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [sensitive, attribute] =
        arguments.bind<2>(context, largest ? "max" : "min", {"case_sensitive", "attribute"});
    const AttributePath path(context, attribute);
    const std::vector<Value> items = elements(context, value);
    if (items.empty()) return Value::undefined(context, "No aggregated item, sequence was empty.");
    const Value* best = nullptr;
    Value best_key;
    for (const Value& one : items) {
        Value key = sort_key(evaluator, path, one, truth_of(sensitive));
        if (best && !(largest ? less(context, best_key, key) : less(context, key, best_key))) continue;
        best = &one;
        best_key = std::move(key);
    }
    return *best;
}

Value sum(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [attribute, start] = arguments.bind<2>(context, "sum", {"attribute", "start"});
    const AttributePath path(context, attribute);
    Value out = start ? *start : Value::integer(0);
    for (const Value& one : elements(context, value)) out = arithmetic(context, Op::add, out, path.of(evaluator, one));
    return out;
}

Value groupby(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [attribute, otherwise, sensitive] =
        arguments.bind<3>(context, "groupby", {"attribute", "default", "case_sensitive"}, 1);
    const AttributePath path(context, attribute);
    std::vector<std::pair<Value, Value>> keyed;
    for (const Value& one : elements(context, value))
        keyed.emplace_back(sort_key(evaluator, path, one, truth_of(sensitive), otherwise), one);
    sort_by_keys(context, keyed, false);
    std::vector<Value> out;
    for (size_t i = 0; i < keyed.size();) {
        std::vector<Value> group;
        size_t end = i;
        for (; end < keyed.size() && equal(context, keyed[end].first, keyed[i].first); ++end)
            group.push_back(keyed[end].second);
        const Value grouper = truth_of(sensitive) ? keyed[i].first : path.of(evaluator, keyed[i].second, otherwise);
        if (end == i) end = i + 1;  // not equal to itself
        std::vector<Value> two{grouper, make_list(context, std::move(group))};
        out.push_back(
            Value(Kind::sequence, std::make_shared<SequenceObject>(context, Flavour::tuple, std::move(two), true)));
        i = end;
    }
    return make_list(context, std::move(out));
}

Value batch(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [count, fill] = arguments.bind<2>(context, "batch", {"linecount", "fill_with"}, 1);
    const int64_t n = integer_argument(context, *count, "batch");
    if (n < 1 || n > 1'000'000) context.fail("'batch' in groups of ", n, " is not possible");
    std::vector<Value> out, group;
    for (const Value& one : elements(context, value)) {
        group.push_back(one);
        if (static_cast<int64_t>(group.size()) == n) out.push_back(make_list(context, std::exchange(group, {})));
    }
    if (!group.empty()) {
        if (fill && !fill->is(Kind::none)) group.resize(static_cast<size_t>(n), *fill);
        out.push_back(make_list(context, std::move(group)));
    }
    return make_sequence(context, Flavour::generator, std::move(out));
}

Value slice_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [count, fill] = arguments.bind<2>(context, "slice", {"slices", "fill_with"}, 1);
    const int64_t n = integer_argument(context, *count, "slice");
    if (n < 1 || n > 100'000) context.fail("'slice' in ", n, " parts is not possible");
    const std::vector<Value> items = elements(context, value);
    const auto slices = static_cast<size_t>(n);
    const size_t each = items.size() / slices, longer = items.size() % slices;
    std::vector<Value> out;
    size_t at = 0;
    for (size_t i = 0; i < slices; ++i) {
        const size_t size = each + (i < longer);
        std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(at),
                                items.begin() + static_cast<std::ptrdiff_t>(at + size));
        at += size;
        if (fill && !fill->is(Kind::none) && i >= longer) part.push_back(*fill);
        out.push_back(make_list(context, std::move(part)));
    }
    return make_sequence(context, Flavour::generator, std::move(out));
}

constexpr NamedFilter table[] = {
    {"list", list_filter},
    {"first", first},
    {"last", last},
    {"join", join_filter},
    {"sort", sort},
    {"dictsort", dictsort},
    {"items", items_filter},
    {"unique", unique},
    {"min", extreme<false>},
    {"max", extreme<true>},
    {"sum", sum},
    {"groupby", groupby},
    {"batch", batch},
    {"slice", slice_filter},
    {"reverse", reverse_filter},
};

}  // namespace

std::span<const NamedFilter> sequence_filters() { return table; }

}  // namespace quantplug::engine::jinja
