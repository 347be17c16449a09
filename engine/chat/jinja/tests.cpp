// `value is test`.
#include <algorithm>

#include "engine/chat/jinja/evaluator.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"
#include "engine/chat/jinja/registry.h"
#include "engine/chat/jinja/unicode.h"

namespace quantplug::engine::jinja {
namespace {

void no_arguments(Evaluator& evaluator, Arguments& arguments, std::string_view test) {
    if (!arguments.positional.empty() || !arguments.named.empty())
        evaluator.context().fail("the test '", test, "' takes no argument");
}

const Value& one_argument(Evaluator& evaluator, Arguments& arguments, std::string_view test) {
    return *arguments.bind<1>(evaluator.context(), test, {"other"}, 1)[0];
}

template <Kind kind>
bool is_kind(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "type");
    return value.is(kind);
}

bool is_defined(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "defined");
    return !value.is(Kind::undefined);
}

template <bool wanted>
bool is_boolean(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "boolean");
    return value.is(Kind::boolean) && value.as_bool() == wanted;
}

bool is_number(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "number");
    return value.is_number();
}

bool is_sequence(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "sequence");
    return has_length(value) && !(value.is(Kind::sequence) && !value.sequence().indexed());
}

bool is_iterable_value(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "iterable");
    return is_iterable(value);
}

bool is_callable(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "callable");
    return value.is(Kind::function) || value.is(Kind::macro) || value.is(Kind::loop) || value.is(Kind::undefined);
}

bool never(Evaluator& evaluator, const Value&, Arguments& arguments) {
    no_arguments(evaluator, arguments, "escaped");
    return false;
}

template <Comparison comparison>
bool compares(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    return compare(evaluator.context(), comparison, value, one_argument(evaluator, arguments, "comparison"));
}

template <int64_t rest>
bool leaves(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "even or odd");
    Context& context = evaluator.context();
    return equal(context, arithmetic(context, Op::modulo, value, Value::integer(2)), Value::integer(rest));
}

bool is_divisible(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [by] = arguments.bind<1>(context, "divisibleby", {"num"}, 1);
    return equal(context, arithmetic(context, Op::modulo, value, *by), Value::integer(0));
}

bool is_same(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    const Value& other = one_argument(evaluator, arguments, "sameas");
    if (value.kind() != other.kind()) return false;
    if (value.object() || other.object()) {
        if (value.is(Kind::string)) return value.bytes() == other.bytes();  // interned, as most are in CPython
        return value.object() == other.object();
    }
    return equal(evaluator.context(), value, other);
}

// str.islower, str.isupper: some letter has case, and none has the other.
template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
bool has_case(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "lower or upper");
    const Text text = to_text(evaluator.context(), value);
    bool found = false;
    for (size_t i = 0; i < text.size();) {
        const CodePoint one = code_point_at(text.bytes(), i);
        if (other(one.code)) return false;
        found = found || wanted(one.code);
        i += one.length;
    }
    return found;
}

bool is_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "filter");
    return value.is(Kind::string) && find_filter(value.bytes());
}

bool is_test(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    no_arguments(evaluator, arguments, "test");
    return value.is(Kind::string) && find_test(value.bytes());
}

struct NamedTest {
    std::string_view name;
    TestFunction function;
};
constexpr NamedTest table[] = {
    {"defined", is_defined},
    {"undefined", is_kind<Kind::undefined>},
    {"none", is_kind<Kind::none>},
    {"string", is_kind<Kind::string>},
    {"mapping", is_kind<Kind::dict>},
    {"integer", is_kind<Kind::integer>},
    {"float", is_kind<Kind::real>},
    {"boolean", is_kind<Kind::boolean>},
    {"true", is_boolean<true>},
    {"false", is_boolean<false>},
    {"number", is_number},
    {"sequence", is_sequence},
    {"iterable", is_iterable_value},
    {"callable", is_callable},
    {"escaped", never},
    {"equalto", compares<Comparison::equal>},
    {"eq", compares<Comparison::equal>},
    {"==", compares<Comparison::equal>},
    {"ne", compares<Comparison::unequal>},
    {"!=", compares<Comparison::unequal>},
    {"lt", compares<Comparison::less>},
    {"<", compares<Comparison::less>},
    {"lessthan", compares<Comparison::less>},
    {"le", compares<Comparison::less_equal>},
    {"<=", compares<Comparison::less_equal>},
    {"gt", compares<Comparison::greater>},
    {">", compares<Comparison::greater>},
    {"greaterthan", compares<Comparison::greater>},
    {"ge", compares<Comparison::greater_equal>},
    {">=", compares<Comparison::greater_equal>},
    {"in", compares<Comparison::in>},
    {"odd", leaves<1>},
    {"even", leaves<0>},
    {"divisibleby", is_divisible},
    {"sameas", is_same},
    {"lower", has_case<is_lower, is_upper>},
    {"upper", has_case<is_upper, is_lower>},
    {"filter", is_filter},
    {"test", is_test},
};

}  // namespace

TestFunction find_test(std::string_view name) {
    for (const NamedTest& one : table)
        if (one.name == name) return one.function;
    return nullptr;
}

}  // namespace quantplug::engine::jinja
