#include "engine/chat/jinja/registry.h"

#include <algorithm>
#include <ctime>

#include "engine/chat/jinja/evaluator.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"

namespace quantplug::engine::jinja {

void Arguments::bind(const Context& context, std::string_view what, std::span<const std::string_view> names,
                     std::span<const Value*> out, size_t required) const {
    if (positional.size() > names.size())
        context.fail("'", what, "' takes at most ", names.size(), " arguments, not ", positional.size());
    for (size_t i = 0; i < positional.size(); ++i) out[i] = &positional[i];
    for (const auto& [name, value] : named) {
        const auto it = std::find(names.begin(), names.end(), name);
        if (it == names.end()) context.fail("'", what, "' has no argument '", name, "'");
        const Value*& slot = out[static_cast<size_t>(it - names.begin())];
        if (slot) context.fail("'", what, "' is given the argument '", name, "' twice");
        slot = &value;
    }
    for (size_t i = 0; i < required; ++i)
        if (!out[i]) context.fail("'", what, "' needs the argument '", names[i], "'");
}

FilterFunction find_filter(std::string_view name) {
    for (const std::span<const NamedFilter> table :
         {text_filters(), number_filters(), sequence_filters(), selection_filters()})
        for (const NamedFilter& one : table)
            if (one.name == name) return one.function;
    return nullptr;
}

namespace {

int64_t integer_of(const Context& context, const Value& value, std::string_view what) {
    if (value.is(Kind::undefined)) fail_undefined(context, value);
    if (!value.is_integral()) context.fail("'", what, "' needs an integer, not a ", type_name(value));
    return value.as_integer();
}

Value range(Evaluator& evaluator, const Value&, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [a, b, c] = arguments.bind<3>(context, "range", {"start", "stop", "step"}, 1);
    const int64_t first = integer_of(context, *a, "range");
    const int64_t start = b ? first : 0, stop = b ? integer_of(context, *b, "range") : first;
    const int64_t step = c ? integer_of(context, *c, "range") : 1;
    if (step == 0) context.fail("the step of range() is zero");
    constexpr int64_t largest = int64_t{1} << 53;
    for (const int64_t one : {start, stop, step})
        if (one > largest || one < -largest) context.fail("range() goes too far");
    auto out = std::make_shared<RangeObject>(context, start, stop, step);
    if (out->size() > 100'000) context.fail("range() has ", out->size(), " elements, more than the 100000 allowed");
    return Value(Kind::range, std::move(out));
}

DictObject::Items dict_items(Context& context, Arguments& arguments, std::string_view what) {
    DictObject::Items items;
    if (arguments.positional.size() > 1) context.fail("'", what, "' takes one argument without a name");
    if (!arguments.positional.empty()) {
        const Value& from = arguments.positional[0];
        if (from.is(Kind::dict)) {
            items = from.dict().items;
        } else {
            for (const Value& pair : elements(context, from)) {
                std::vector<Value> two = elements(context, pair);
                if (two.size() != 2) context.fail("'", what, "' needs pairs of a key and a value");
                items.emplace_back(std::move(two[0]), std::move(two[1]));
            }
        }
    }
    for (auto& [name, value] : arguments.named) items.emplace_back(make_string(context, name), std::move(value));
    return items;
}

Value dict(Evaluator& evaluator, const Value&, Arguments& arguments) {
    return make_dict(evaluator.context(), dict_items(evaluator.context(), arguments, "dict"));
}

Value space(Evaluator& evaluator, const Value&, Arguments& arguments) {
    Context& context = evaluator.context();
    const Value made = make_dict(context, dict_items(context, arguments, "namespace"));
    for (const auto& item : made.dict().items) {
        if (!item.first.is(Kind::string)) context.fail("names of a namespace must be strings");
        if (item.first.bytes().starts_with('_'))
            context.fail("a namespace has no attributes that begin with an underscore: '", item.first.bytes(), "'");
    }
    return evaluator.make_space(made.dict().items);
}

Value raise_exception(Evaluator& evaluator, const Value&, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [message] = arguments.bind<1>(context, "raise_exception", {"message"}, 1);
    fail(Code::invalid_argument, "the chat template refuses the messages: ", to_text(context, *message).bytes());
}

Value strftime_now(Evaluator& evaluator, const Value&, Arguments& arguments) {
    Context& context = evaluator.context();
    const auto [format] = arguments.bind<1>(context, "strftime_now", {"format"}, 1);
    if (!format->is(Kind::string)) context.fail("'strftime_now' needs a string");
    std::tm time{};
    localtime_r(&context.now, &time);
    // A mark at the end tells an empty result from one that is too long.
    const std::string pattern = format->bytes() + "|";
    std::string out(pattern.size() * 4 + 256, '\0');
    const size_t n = std::strftime(out.data(), out.size(), pattern.c_str(), &time);
    if (n == 0) context.fail("'strftime_now' makes too long a text");
    out.resize(n - 1);
    return make_string(context, format->text().with_bytes(std::move(out)));
}

struct NamedGlobal {
    std::string_view name;
    FunctionObject::Call call;
};
constexpr NamedGlobal globals[] = {{"range", range},
                                   {"dict", dict},
                                   {"namespace", space},
                                   {"raise_exception", raise_exception},
                                   {"strftime_now", strftime_now}};

}  // namespace

FunctionObject::Call find_global(std::string_view name) {
    for (const NamedGlobal& one : globals)
        if (one.name == name) return one.call;
    return nullptr;
}

}  // namespace quantplug::engine::jinja
