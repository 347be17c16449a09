// Filters that take other filters and tests by name: map, select, reject and their kin; default and attr.
#include "engine/chat/jinja/keys.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"
#include "engine/chat/jinja/registry.h"

namespace quantplug::engine::jinja {
namespace {

Value default_filter(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [otherwise, boolean] = arguments.bind<2>(context, "default", {"default_value", "boolean"});
    if (value.is(Kind::undefined) || (truth_of(boolean) && !truth(value)))
        return otherwise ? *otherwise : make_string(context, "");
    return value;
}

Value attr(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [name] = arguments.bind<1>(context, "attr", {"name"}, 1);
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (!name->is(Kind::string)) context.fail("'attr' needs the name of an attribute");
    // An attribute only: elements of a dict are none.
    if (value.is(Kind::dict) && value.dict().find(name->bytes()))
        return Value::undefined(context, concat("a dict has no attribute '", name->bytes(), "'"));
    return evaluator.attribute(value, name->bytes());
}

std::string name_argument(Context& context, const Value& value, std::string_view what) {
    if (!value.is(Kind::string)) context.fail("'", what, "' needs the name of a filter or test");
    return value.bytes();
}

Value map(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    if (!truth(value)) return make_sequence(context, Flavour::generator, {});
    const std::vector<Value> items = elements(context, value);
    std::vector<Value> out;
    if (arguments.positional.empty()) {
        const Value *attribute = nullptr, *otherwise = nullptr;
        for (const auto& [name, one] : arguments.named) {
            if (name == "attribute")
                attribute = &one;
            else if (name == "default")
                otherwise = &one;
            else
                context.fail("'map' has no argument '", name, "'");
        }
        if (!attribute) context.fail("'map' needs a filter or an attribute");
        const AttributePath path(context, attribute);
        for (const Value& one : items) out.push_back(path.of(evaluator, one, otherwise));
    } else if (!items.empty()) {
        const std::string name = name_argument(context, arguments.positional[0], "map");
        const FilterFunction filter = find_filter(name);
        if (!filter) context.fail("there is no filter '", name, "'");
        const std::vector<Value> rest(arguments.positional.begin() + 1, arguments.positional.end());
        for (const Value& one : items) {
            context.step();
            Arguments given{rest, arguments.named};
            out.push_back(filter(evaluator, one, given));
        }
    }
    return make_sequence(context, Flavour::generator, std::move(out));
}

template <bool wanted, bool by_attribute>
Value choose(Evaluator& evaluator, const Value& value, Arguments& arguments) {
    Context& context = evaluator.context();
    std::vector<Value> out;
    if (!truth(value)) return make_sequence(context, Flavour::generator, {});
    const std::vector<Value> items = elements(context, value);
    const size_t n_own = by_attribute ? 1 : 0;
    if (by_attribute && arguments.positional.empty()) context.fail("the name of the attribute to choose by is missing");
    const AttributePath path(context, by_attribute ? &arguments.positional[0] : nullptr);
    TestFunction test = nullptr;
    std::vector<Value> rest;
    if (arguments.positional.size() > n_own) {
        const std::string name = name_argument(context, arguments.positional[n_own], "select");
        test = find_test(name);
        if (!test && !items.empty()) context.fail("there is no test '", name, "'");
        rest.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(n_own) + 1, arguments.positional.end());
    }
    for (const Value& one : items) {
        context.step();
        const Value looked_at = path.of(evaluator, one);
        Arguments given{rest, arguments.named};
        if ((test ? test(evaluator, looked_at, given) : truth(looked_at)) == wanted) out.push_back(one);
    }
    return make_sequence(context, Flavour::generator, std::move(out));
}

constexpr NamedFilter table[] = {
    {"default", default_filter},
    {"d", default_filter},
    {"attr", attr},
    {"map", map},
    {"select", choose<true, false>},
    {"reject", choose<false, false>},
    {"selectattr", choose<true, true>},
    {"rejectattr", choose<false, true>},
};

}  // namespace

std::span<const NamedFilter> selection_filters() { return table; }

}  // namespace quantplug::engine::jinja
