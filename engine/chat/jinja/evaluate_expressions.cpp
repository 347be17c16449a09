#include <algorithm>

#include "engine/chat/jinja/evaluator.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"

namespace quantplug::engine::jinja {

Value Evaluator::evaluate(const Expression& e) {
    const Deeper deeper(context_, depth_);
    context_.line = e.line;
    context_.step();
    switch (e.op) {
        case Op::constant:
            return e.constant;
        case Op::name:
            return name(e);
        case Op::list:
            return make_list(context_, parts(e));
        case Op::tuple:
            return make_sequence(context_, Flavour::tuple, parts(e));
        case Op::dict:
            return dict(e);
        case Op::attribute:
            return attribute(evaluate(*e.parts[0]), e.text);
        case Op::item: {
            const Value value = evaluate(*e.parts[0]);
            return item(value, evaluate(*e.parts[1]));
        }
        case Op::slice:
            return slice(e);
        case Op::call:
            return call(e);
        case Op::filter:
            return filter(e);
        case Op::test:
            return test(e);
        case Op::negate:
            return negative(context_, evaluate(*e.parts[0]));
        case Op::plus: {
            Value value = evaluate(*e.parts[0]);
            if (value.is(Kind::undefined)) fail_undefined(context_, value);
            if (!value.is_number()) context_.fail("a ", type_name(value), " has no sign");
            return value.is(Kind::boolean) ? Value::integer(value.as_integer()) : value;
        }
        case Op::logical_not:
            return Value::boolean(!truth(evaluate(*e.parts[0])));
        case Op::logical_and: {
            Value left = evaluate(*e.parts[0]);
            return truth(left) ? evaluate(*e.parts[1]) : left;
        }
        case Op::logical_or: {
            Value left = evaluate(*e.parts[0]);
            return truth(left) ? left : evaluate(*e.parts[1]);
        }
        case Op::condition:
            if (truth(evaluate(*e.parts[0]))) return evaluate(*e.parts[1]);
            if (e.parts[2]) return evaluate(*e.parts[2]);
            return Value::undefined(context_, "the inline if is false and has no else");
        case Op::concat:
            return concatenate(e);
        case Op::compare:
            return comparison(e);
        default: {
            const Value left = evaluate(*e.parts[0]);
            const Value right = evaluate(*e.parts[1]);
            context_.line = e.line;
            return arithmetic(context_, e.op, left, right);
        }
    }
}

std::vector<Value> Evaluator::parts(const Expression& e) {
    std::vector<Value> out;
    for (const ExpressionPtr& part : e.parts) out.push_back(evaluate(*part));
    return out;
}

Value Evaluator::name(const Expression& e) {
    if (const Value* found = scope_->find(e.symbol)) return *found;
    const std::string& text = syntax_.symbols[static_cast<size_t>(e.symbol)];
    if (const auto global = find_global(text))
        return Value(Kind::function, std::make_shared<FunctionObject>(context_, text, global, Value()));
    return Value::undefined(context_, "'" + text + "' is undefined");
}

Value Evaluator::dict(const Expression& e) {
    DictObject::Items items;
    for (size_t i = 0; i + 1 < e.parts.size(); i += 2) {
        Value key = evaluate(*e.parts[i]);
        items.emplace_back(std::move(key), evaluate(*e.parts[i + 1]));
    }
    return make_dict(context_, std::move(items));
}

Value Evaluator::slice(const Expression& e) {
    const Value value = evaluate(*e.parts[0]);
    Value bounds[3];
    const Value* given[3] = {};
    for (size_t i = 0; i < 3; ++i)
        if (e.parts[i + 1]) {
            bounds[i] = evaluate(*e.parts[i + 1]);
            given[i] = &bounds[i];
        }
    return jinja::slice(context_, value, given[0], given[1], given[2]);
}

Value Evaluator::concatenate(const Expression& e) {
    Text out;
    for (const ExpressionPtr& part : e.parts) append_text(context_, out, evaluate(*part));
    return make_string(context_, std::move(out));
}

Value Evaluator::comparison(const Expression& e) {
    Value left = evaluate(*e.parts[0]);
    for (size_t i = 0; i < e.comparisons.size(); ++i) {
        Value right = evaluate(*e.parts[i + 1]);
        if (!compare(context_, e.comparisons[i], left, right)) return Value::boolean(false);
        left = std::move(right);
    }
    return Value::boolean(true);
}

Arguments Evaluator::arguments(const CallArguments& given) {
    Arguments out;
    for (const ExpressionPtr& one : given.positional) out.positional.push_back(evaluate(*one));
    for (const auto& [key, one] : given.named) {
        for (const auto& before : out.named)
            if (before.first == key) context_.fail("the argument '", key, "' is there twice");
        out.named.emplace_back(key, evaluate(*one));
    }
    if (given.list)
        for (Value& one : elements(context_, evaluate(*given.list))) out.positional.push_back(std::move(one));
    if (given.dict) {
        const Value dict = evaluate(*given.dict);
        if (!dict.is(Kind::dict)) context_.fail("what follows ** must be a dict, not a ", type_name(dict));
        for (const auto& [key, value] : dict.dict().items) {
            if (!key.is(Kind::string)) context_.fail("names of arguments must be strings, not ", type_name(key));
            for (const auto& before : out.named)
                if (before.first == key.bytes()) context_.fail("the argument '", key.bytes(), "' is there twice");
            out.named.emplace_back(key.bytes(), value);
        }
    }
    return out;
}

Value Evaluator::call(const Expression& e) {
    const Value callee = evaluate(*e.parts[0]);
    Arguments given = arguments(e.arguments);
    context_.line = e.line;
    return call(callee, given);
}

Value Evaluator::call(const Value& callee, Arguments& given) {
    switch (callee.kind()) {
        case Kind::function: {
            const auto& function = callee.as<FunctionObject>();
            return function.call(*this, function.self, given);
        }
        case Kind::macro:
            return call_macro(callee.as<MacroObject>(), given);
        case Kind::loop:
            return recurse(callee.as<LoopObject>(), given);
        case Kind::undefined:
            fail_undefined(context_, callee);
        default:
            context_.fail("a ", type_name(callee), " cannot be called");
    }
}

Value Evaluator::filter(const Expression& e) {
    const Value value = evaluate(*e.parts[0]);
    Arguments given = arguments(e.arguments);
    context_.line = e.line;
    if (!e.filter) context_.fail("there is no filter '", e.text, "'");
    return e.filter(*this, value, given);
}

Value Evaluator::test(const Expression& e) {
    const Value value = evaluate(*e.parts[0]);
    Arguments given = arguments(e.arguments);
    context_.line = e.line;
    if (!e.test) context_.fail("there is no test '", e.text, "'");
    return Value::boolean(e.test(*this, value, given) != e.negated);
}

Value Evaluator::attribute(const Value& value, const std::string& name) {
    if (value.is(Kind::undefined)) fail_undefined(context_, value);
    Value out;
    if (find_attribute(value, name, out)) return out;
    return get_item(context_, value, make_string(context_, name));
}

Value Evaluator::item(const Value& value, const Value& key) {
    if (value.is(Kind::undefined)) fail_undefined(context_, value);
    if (key.is(Kind::string)) {
        if (value.is(Kind::dict))
            if (const Value* found = value.dict().find(key.bytes())) return *found;
        Value out;
        if (find_attribute(value, key.bytes(), out)) return out;
    }
    return get_item(context_, value, key);
}

namespace {

bool changes_it(Kind kind, std::string_view name) {
    constexpr std::string_view of_dicts[] = {"clear", "pop", "popitem", "setdefault", "update"};
    constexpr std::string_view of_lists[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
    if (kind == Kind::dict) return std::find(std::begin(of_dicts), std::end(of_dicts), name) != std::end(of_dicts);
    return std::find(std::begin(of_lists), std::end(of_lists), name) != std::end(of_lists);
}

}  // namespace

bool Evaluator::find_attribute(const Value& value, const std::string& name, Value& out) {
    if (name.starts_with("__")) {
        out = Value::undefined(context_, "access to the attribute '" + name + "' is not allowed", true);
        return true;
    }
    Method method;
    switch (value.kind()) {
        case Kind::string:
            method = find_string_method(name);
            break;
        case Kind::sequence:
            if (value.sequence().named && (name == "grouper" || name == "list")) {
                out = value.sequence().items[name == "list"];
                return true;
            }
            [[fallthrough]];
        case Kind::dict:
            if ((value.is(Kind::dict) || value.sequence().flavour == Flavour::list) && changes_it(value.kind(), name)) {
                out = Value::undefined(
                    context_, concat("a ", type_name(value), " cannot be changed: '", name, "' is not allowed"), true);
                return true;
            }
            if (value.is(Kind::dict) || value.sequence().indexed()) method = find_container_method(value.kind(), name);
            break;
        case Kind::space: {
            const Value* found = value.as<SpaceObject>().find(name);
            if (found) out = *found;
            return found != nullptr;
        }
        case Kind::loop:
            return loop_attribute(value, name, out);
        case Kind::macro:
            if (name != "name") return false;
            out = make_string(context_, value.as<MacroObject>().body.name);
            return true;
        default:
            break;
    }
    if (!method.call) return false;
    out = Value(Kind::function, std::make_shared<FunctionObject>(context_, method.name, method.call, value));
    return true;
}

bool Evaluator::loop_attribute(const Value& value, const std::string& name, Value& out) {
    auto& loop = value.as<LoopObject>();
    const auto index = static_cast<int64_t>(loop.index0);
    const auto all = [&] {
        while (pull(loop)) {
        }
        return static_cast<int64_t>(loop.items.size());
    };
    if (name == "index")
        out = Value::integer(index + 1);
    else if (name == "index0")
        out = Value::integer(index);
    else if (name == "first")
        out = Value::boolean(index == 0);
    else if (name == "last")
        out = Value::boolean(loop.index0 + 1 >= loop.items.size() && !pull(loop));
    else if (name == "length")
        out = Value::integer(all());
    else if (name == "revindex")
        out = Value::integer(all() - index);
    else if (name == "revindex0")
        out = Value::integer(all() - index - 1);
    else if (name == "depth")
        out = Value::integer(loop.depth0 + 1);
    else if (name == "depth0")
        out = Value::integer(loop.depth0);
    else if (name == "previtem")
        out = index > 0 ? loop.items[loop.index0 - 1] : Value::undefined(context_, "there is no previous item");
    else if (name == "nextitem")
        out = loop.index0 + 1 < loop.items.size() || pull(loop) ? loop.items[loop.index0 + 1]
                                                                : Value::undefined(context_, "there is no next item");
    else if (const Method method = find_container_method(Kind::loop, name); method.call)
        out = Value(Kind::function, std::make_shared<FunctionObject>(context_, method.name, method.call, value));
    else
        return false;
    return true;
}

}  // namespace quantplug::engine::jinja
