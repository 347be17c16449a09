#include "engine/chat/jinja/operations.h"

#include <algorithm>
#include <cmath>

#include "engine/chat/jinja/print.h"
#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {

void fail_undefined(const Context& context, const Value& value) {
    if (value.object()) context.fail(value.as<UndefinedObject>().why);
    context.fail("a value is undefined");
}

bool truth(const Value& value) {
    switch (value.kind()) {
        case Kind::undefined:
        case Kind::none:
            return false;
        case Kind::boolean:
        case Kind::integer:
            return value.as_integer() != 0;
        case Kind::real:
            return value.as_real() != 0;
        case Kind::string:
            return !value.text().empty();
        case Kind::sequence:
            return !value.sequence().sized() || !value.sequence().items.empty();
        case Kind::dict:
            return !value.dict().items.empty();
        case Kind::range:
            return value.as<RangeObject>().size() > 0;
        default:
            return true;
    }
}

namespace {

bool same_flavour(const SequenceObject& a, const SequenceObject& b) {
    return a.flavour == b.flavour && (a.indexed() || a.flavour == Flavour::keys || a.flavour == Flavour::items);
}

bool equal_items(Context& context, const std::vector<Value>& a, const std::vector<Value>& b) {
    if (a.size() != b.size()) return false;
    for (size_t i = 0; i < a.size(); ++i)
        if (!equal(context, a[i], b[i])) return false;
    return true;
}

}  // namespace

bool equal(Context& context, const Value& a, const Value& b) {
    context.step();
    if (a.is_number() && b.is_number()) {
        if (a.is_integral() && b.is_integral()) return a.as_integer() == b.as_integer();
        return a.as_real() == b.as_real();
    }
    if (a.kind() != b.kind()) return false;
    switch (a.kind()) {
        case Kind::undefined:
        case Kind::none:
            return true;
        case Kind::string:
            context.touch(std::min(a.text().size(), b.text().size()));
            return a.bytes() == b.bytes();
        case Kind::sequence:
            if (a.object() == b.object()) return true;
            return same_flavour(a.sequence(), b.sequence()) &&
                   equal_items(context, a.sequence().items, b.sequence().items);
        case Kind::dict: {
            const DictObject &left = a.dict(), &right = b.dict();
            if (left.items.size() != right.items.size()) return false;
            for (const auto& [key, value] : left.items) {
                const Value* other = right.find(context, key);
                if (!other || !equal(context, value, *other)) return false;
            }
            return true;
        }
        case Kind::range: {
            const auto &left = a.as<RangeObject>(), &right = b.as<RangeObject>();
            const int64_t n = left.size();
            return n == right.size() && (n == 0 || (left.start == right.start && (n == 1 || left.step == right.step)));
        }
        default:
            return a.object() == b.object();
    }
}

bool less(Context& context, const Value& a, const Value& b) {
    context.step();
    if (a.is(Kind::undefined)) fail_undefined(context, a);
    if (b.is(Kind::undefined)) fail_undefined(context, b);
    if (a.is_integral() && b.is_integral()) return a.as_integer() < b.as_integer();
    if (a.is_number() && b.is_number()) return a.as_real() < b.as_real();
    if (a.is(Kind::string) && b.is(Kind::string)) {
        context.touch(std::min(a.text().size(), b.text().size()));
        return a.bytes() < b.bytes();  // UTF-8 sorts as its code points do
    }
    if (a.is(Kind::sequence) && b.is(Kind::sequence) && a.sequence().indexed() &&
        a.sequence().flavour == b.sequence().flavour) {
        const auto &left = a.sequence().items, &right = b.sequence().items;
        for (size_t i = 0; i < left.size() && i < right.size(); ++i)
            if (!equal(context, left[i], right[i])) return less(context, left[i], right[i]);
        return left.size() < right.size();
    }
    context.fail("a ", type_name(a), " and a ", type_name(b), " cannot be ordered");
}

bool contains(Context& context, const Value& container, const Value& value) {
    switch (container.kind()) {
        case Kind::undefined:
            if (container.object() && container.as<UndefinedObject>().unsafe) fail_undefined(context, container);
            return false;
        case Kind::string:
            if (value.is(Kind::undefined)) fail_undefined(context, value);
            if (!value.is(Kind::string)) context.fail("'in' of a string needs a string, not a ", type_name(value));
            context.touch(container.text().size());
            return container.bytes().find(value.bytes()) != std::string::npos;
        case Kind::sequence:
            for (const Value& one : elements(context, container))
                if (equal(context, one, value)) return true;
            return false;
        case Kind::dict:
            return container.dict().find(context, value) != nullptr;
        case Kind::range: {
            const auto& range = container.as<RangeObject>();
            if (!value.is_number() || value.as_real() != std::floor(value.as_real())) return false;
            const auto wanted = static_cast<int64_t>(value.as_real());
            if (range.size() == 0 || (wanted - range.start) % range.step != 0) return false;
            const int64_t at = (wanted - range.start) / range.step;
            return at >= 0 && at < range.size();
        }
        default:
            context.fail("a ", type_name(container), " contains nothing ('in' needs a list, a dict or a string)");
    }
}

bool compare(Context& context, Comparison comparison, const Value& a, const Value& b) {
    switch (comparison) {
        case Comparison::equal:
            return equal(context, a, b);
        case Comparison::unequal:
            return !equal(context, a, b);
        case Comparison::less:
            return less(context, a, b);
        case Comparison::greater:
            return less(context, b, a);
        case Comparison::less_equal:
        case Comparison::greater_equal: {
            const bool swapped = comparison == Comparison::greater_equal;
            const Value &left = swapped ? b : a, &right = swapped ? a : b;
            if (left.is_number() && right.is_number())
                return left.is_integral() && right.is_integral() ? left.as_integer() <= right.as_integer()
                                                                 : left.as_real() <= right.as_real();
            return !less(context, right, left);
        }
        case Comparison::in:
            return contains(context, b, a);
        case Comparison::not_in:
            return !contains(context, b, a);
    }
    return false;
}

bool has_length(const Value& value) {
    return value.is(Kind::undefined) || value.is(Kind::string) || value.is(Kind::dict) || value.is(Kind::range) ||
           (value.is(Kind::sequence) && value.sequence().sized());
}

int64_t length(Context& context, const Value& value) {
    switch (value.kind()) {
        case Kind::undefined:
            return 0;
        case Kind::string:
            context.touch(value.text().size());
            return static_cast<int64_t>(code_points(value.bytes()));
        case Kind::sequence:
            if (!value.sequence().sized()) break;
            return static_cast<int64_t>(value.sequence().items.size());
        case Kind::dict:
            return static_cast<int64_t>(value.dict().items.size());
        case Kind::range:
            return value.as<RangeObject>().size();
        default:
            break;
    }
    context.fail("a ", type_name(value), " has no length");
}

bool is_iterable(const Value& value) { return has_length(value) || value.is(Kind::sequence) || value.is(Kind::loop); }

std::vector<Value> elements(Context& context, const Value& value) {
    std::vector<Value> out;
    switch (value.kind()) {
        case Kind::undefined:
            return out;
        case Kind::string: {
            const std::vector<size_t> offsets = code_point_offsets(value.bytes());
            context.step(offsets.size());
            context.grow(offsets.size() * sizeof(Value));  // before the vector is made
            context.shrink(offsets.size() * sizeof(Value));
            for (size_t i = 0; i + 1 < offsets.size(); ++i)
                out.push_back(make_string(context, value.text().slice(offsets[i], offsets[i + 1]).as_safe(false)));
            return out;
        }
        case Kind::sequence: {
            auto& list = value.as<SequenceObject>();
            context.step(list.items.size());
            if (list.sized()) return list.items;
            out.assign(list.items.begin() + static_cast<std::ptrdiff_t>(list.taken), list.items.end());
            list.taken = list.items.size();
            return out;
        }
        case Kind::dict:
            context.step(value.dict().items.size());
            for (const auto& item : value.dict().items) out.push_back(item.first);
            return out;
        case Kind::range: {
            const auto& range = value.as<RangeObject>();
            context.step(static_cast<uint64_t>(range.size()));
            for (int64_t i = 0; i < range.size(); ++i) out.push_back(Value::integer(range.at(i)));
            return out;
        }
        default:
            context.fail("a ", type_name(value), " cannot be iterated");
    }
}

namespace {

/// The place of an index that may count from the end; -1: outside.
int64_t place(int64_t index, int64_t size) {
    if (index < 0) index += size;
    return index >= 0 && index < size ? index : -1;
}

Value missing(Context& context, const Value& value, const Value& key) {
    std::string shown = key.is(Kind::string) ? key.bytes() : key.is_integral() ? std::to_string(key.as_integer()) : "?";
    if (shown.size() > 100) shown.resize(100);
    return Value::undefined(context, concat("a ", type_name(value), " has no element or attribute '", shown, "'"));
}

}  // namespace

Value get_item(Context& context, const Value& value, const Value& key) {
    switch (value.kind()) {
        case Kind::undefined:
            fail_undefined(context, value);
        case Kind::dict: {
            if (key.is(Kind::dict) || (key.is(Kind::sequence) && key.sequence().flavour != Flavour::tuple)) break;
            const Value* found = value.dict().find(context, key);
            if (found) return *found;
            break;
        }
        case Kind::string: {
            if (!key.is_integral()) break;
            const std::string& bytes = value.bytes();
            context.touch(bytes.size());
            const int64_t at = place(key.as_integer(), static_cast<int64_t>(code_points(bytes)));
            if (at < 0) break;
            size_t begin = 0;
            for (int64_t i = 0; i < at; ++i) begin += code_point_at(bytes, begin).length;
            return make_string(context, value.text().slice(begin, begin + code_point_at(bytes, begin).length));
        }
        case Kind::sequence: {
            const SequenceObject& list = value.sequence();
            if (!list.indexed() || !key.is_integral()) break;
            const int64_t at = place(key.as_integer(), static_cast<int64_t>(list.items.size()));
            if (at >= 0) return list.items[static_cast<size_t>(at)];
            break;
        }
        case Kind::range: {
            const auto& range = value.as<RangeObject>();
            if (!key.is_integral()) break;
            const int64_t at = place(key.as_integer(), range.size());
            if (at >= 0) return Value::integer(range.at(at));
            break;
        }
        default:
            break;
    }
    return missing(context, value, key);
}

namespace {

struct Bounds {
    int64_t first, last, step, count;
};

Bounds bounds_of(Context& context, int64_t size, const Value* first, const Value* last, const Value* step) {
    const auto integer = [&](const Value* value, int64_t missing_value) {
        if (!value || value->is(Kind::none)) return missing_value;
        if (value->is(Kind::undefined)) fail_undefined(context, *value);
        if (!value->is_integral()) context.fail("a slice needs integers, not a ", type_name(*value));
        return value->as_integer();
    };
    const int64_t by = integer(step, 1);
    if (by == 0) context.fail("the step of a slice is zero");
    const int64_t lowest = by > 0 ? 0 : -1, highest = by > 0 ? size : size - 1;
    const auto clamp = [&](int64_t at) {
        if (at < 0) at = at < -size ? lowest : at + size;
        return std::clamp(at, lowest, highest);
    };
    const bool no_first = !first || first->is(Kind::none), no_last = !last || last->is(Kind::none);
    const int64_t from = no_first ? (by > 0 ? 0 : size - 1) : clamp(integer(first, 0));
    const int64_t to = no_last ? (by > 0 ? size : -1) : clamp(integer(last, 0));
    const int64_t span = by > 0 ? to - from : from - to;
    const int64_t width = by > 0 ? by : by == INT64_MIN ? INT64_MAX : -by;
    return {from, to, by, span > 0 ? (span - 1) / width + 1 : 0};
}

}  // namespace

Value slice(Context& context, const Value& value, const Value* first, const Value* last, const Value* step) {
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (value.is(Kind::string)) {
        const std::string& bytes = value.bytes();
        context.touch(bytes.size());
        const auto size = static_cast<int64_t>(code_points(bytes));
        const Bounds bounds = bounds_of(context, size, first, last, step);
        if (bounds.count == 0) return make_string(context, "");
        if (bounds.step == 1 && size == static_cast<int64_t>(bytes.size()))
            return make_string(context, value.text().slice(static_cast<size_t>(bounds.first),
                                                           static_cast<size_t>(bounds.first + bounds.count)));
        const std::vector<size_t> offsets = code_point_offsets(bytes);
        context.step(offsets.size());
        if (bounds.step == 1)
            return make_string(context, value.text().slice(offsets[static_cast<size_t>(bounds.first)],
                                                           offsets[static_cast<size_t>(bounds.first + bounds.count)]));
        Text out;
        for (int64_t i = 0; i < bounds.count; ++i) {
            const auto at = static_cast<size_t>(bounds.first + i * bounds.step);
            out.append(value.text().slice(offsets[at], offsets[at + 1]));
        }
        return make_string(context, std::move(out));
    }
    if (value.is(Kind::sequence) && value.sequence().indexed()) {
        const auto& items = value.sequence().items;
        const Bounds bounds = bounds_of(context, static_cast<int64_t>(items.size()), first, last, step);
        std::vector<Value> out;
        for (int64_t i = 0; i < bounds.count; ++i)
            out.push_back(items[static_cast<size_t>(bounds.first + i * bounds.step)]);
        return make_sequence(context, value.sequence().flavour, std::move(out));
    }
    if (value.is(Kind::range)) {
        const auto& range = value.as<RangeObject>();
        const Bounds bounds = bounds_of(context, range.size(), first, last, step);
        int64_t by = 0;
        if (__builtin_mul_overflow(range.step, bounds.step, &by)) context.fail("the step of a slice is too large");
        return Value(Kind::range,
                     std::make_shared<RangeObject>(context, range.at(bounds.first), range.at(bounds.last), by));
    }
    context.fail("a ", type_name(value), " cannot be sliced");
}

}  // namespace quantplug::engine::jinja
