#include <algorithm>

#include "engine/chat/jinja/evaluator.h"
#include "engine/chat/jinja/operations.h"
#include "engine/chat/jinja/print.h"

namespace quantplug::engine::jinja {

const Value* Scope::find(int symbol) const {
    for (const Scope* at = this; at; at = at->parent.get())
        for (const auto& [name, value] : at->values)
            if (name == symbol) return &value;
    return nullptr;
}

void Scope::set(int symbol, Value value) {
    for (auto& [name, old] : values)
        if (name == symbol) {
            old = std::move(value);
            return;
        }
    values.emplace_back(symbol, std::move(value));
}

/// Output goes to a text of its own for as long as it lives.
struct Evaluator::Capture {
    explicit Capture(Evaluator& owner) : evaluator(owner), before(owner.out_) { owner.out_ = &text; }
    ~Capture() {
        evaluator.out_ = before;
        evaluator.context_.shrink(text.size());
    }
    Capture(const Capture&) = delete;
    Capture& operator=(const Capture&) = delete;
    Value value() { return make_string(evaluator.context_, text); }
    Evaluator& evaluator;
    Text* const before;
    Text text;
};

namespace {

/// Puts a scope back.
struct Restore {
    std::shared_ptr<Scope>& place;
    std::shared_ptr<Scope> before;
    ~Restore() { place = std::move(before); }
};

}  // namespace

Evaluator::Evaluator(const Syntax& syntax, Context& context)
    : syntax_(syntax), context_(context), scope_(std::make_shared<Scope>(nullptr)) {}

Evaluator::~Evaluator() {
    std::vector<Value> values;
    for (const auto& scope : captured_)
        for (auto& one : scope->values) values.push_back(std::move(one.second));
    for (const auto& space : spaces_)
        for (auto& one : static_cast<SpaceObject&>(*space).items) values.push_back(std::move(one.second));
    for (const auto& object : loops_)
        for (auto& one : static_cast<LoopObject&>(*object).last_changed) values.push_back(std::move(one));
}

void Evaluator::set_variable(std::string_view name, Value value) {
    const auto it = std::find(syntax_.symbols.begin(), syntax_.symbols.end(), name);
    if (it != syntax_.symbols.end()) scope_->set(static_cast<int>(it - syntax_.symbols.begin()), std::move(value));
}

Text Evaluator::run() {
    Text text;
    out_ = &text;
    // Assignments of the template are above the variables that it was given.
    scope_ = std::make_shared<Scope>(scope_);
    unset(syntax_.unset);
    execute(syntax_.body);
    out_ = nullptr;
    return text;
}

Value Evaluator::make_space(DictObject::Items items) {
    auto space = std::make_shared<SpaceObject>(context_);
    spaces_.push_back(space);
    space->items = std::move(items);
    return Value(Kind::space, std::move(space));
}

void Evaluator::watch(const Value& loop) {
    auto& object = loop.as<LoopObject>();
    if (object.watched) return;
    object.watched = true;
    loops_.push_back(object.self.lock());
}

void Evaluator::write(const Text& text) {
    context_.touch(text.size());
    context_.check_text(out_->size() + text.size());
    context_.grow(text.size());
    out_->append(text);
}

void Evaluator::print(const Value& value) {
    if (value.is(Kind::string)) return write(value.text());
    // The sandbox's: printing it is no use of it, as in jinja2.
    write(to_text(context_, value));
}

Evaluator::Flow Evaluator::execute(const Block& block) {
    for (const StatementPtr& statement : block) {
        const Flow flow = execute(*statement);
        if (flow != Flow::go_on) return flow;
    }
    return Flow::go_on;
}

Evaluator::Flow Evaluator::execute(const Statement& statement) {
    const Deeper deeper(context_, depth_);
    context_.line = statement.line;
    context_.step();
    switch (statement.action) {
        case Action::text:
            context_.touch(statement.data.size());
            context_.check_text(out_->size() + statement.data.size());
            context_.grow(statement.data.size());
            out_->append(statement.data);
            break;
        case Action::print:
            for (const ExpressionPtr& one : statement.expressions) print(evaluate(*one));
            break;
        case Action::branch:
            return branch(statement);
        case Action::loop:
            return loop(statement);
        case Action::set:
            assign(statement.target, evaluate(*statement.expressions[0]));
            break;
        case Action::set_block: {
            Value value;
            {
                Capture capture(*this);
                in_new_scope(statement);
                value = capture.value();
            }
            assign(statement.target, apply_filters(statement.expressions[0].get(), std::move(value)));
            break;
        }
        case Action::macro:
            scope_->set(statement.symbol, make_macro(statement.macro));
            break;
        case Action::call:
            call_block(statement);
            break;
        case Action::filter: {
            Value value;
            {
                Capture capture(*this);
                in_new_scope(statement);
                value = capture.value();
            }
            print(apply_filters(statement.expressions[0].get(), std::move(value)));
            break;
        }
        case Action::with:
            with(statement);
            break;
        case Action::scope:
            return in_new_scope(statement);
        case Action::stop:
            return Flow::stop;
        case Action::next:
            return Flow::next;
    }
    return Flow::go_on;
}

void Evaluator::unset(const std::vector<int>& symbols) {
    for (const int symbol : symbols)
        scope_->set(symbol,
                    Value::undefined(context_, "'" + syntax_.symbols[static_cast<size_t>(symbol)] + "' is undefined"));
}

Evaluator::Flow Evaluator::in_new_scope(const Statement& statement, size_t body) {
    const Restore restore{scope_, scope_};
    scope_ = std::make_shared<Scope>(scope_);
    unset(statement.unset[body]);
    return execute(statement.bodies[body]);
}

Evaluator::Flow Evaluator::branch(const Statement& statement) {
    for (size_t i = 0; i < statement.expressions.size(); ++i)
        if (truth(evaluate(*statement.expressions[i]))) return execute(statement.bodies[i]);
    return statement.bodies.size() > statement.expressions.size() ? execute(statement.bodies.back()) : Flow::go_on;
}

Evaluator::Flow Evaluator::loop(const Statement& statement) {
    return iterate(statement, evaluate(*statement.expressions[0]), 0);
}

Evaluator::Flow Evaluator::iterate(const Statement& statement, const Value& over, int depth0) {
    if (over.is(Kind::undefined) && over.object() && over.as<UndefinedObject>().unsafe) fail_undefined(context_, over);
    const auto object =
        std::make_shared<LoopObject>(context_, statement, scope_, elements(context_, over), depth0, over.depth() + 1);
    object->self = object;
    LoopObject& state = *object;
    const Value value(Kind::loop, object);
    const Restore restore{scope_, scope_};
    const std::shared_ptr<Scope> around = scope_;
    for (; state.index0 < state.items.size() || pull(state); ++state.index0) {
        context_.step(3);  // a scope costs more than a node
        scope_ = std::make_shared<Scope>(around);
        scope_->values.emplace_back(symbol_loop, value);
        unset(statement.unset[0]);
        assign(statement.target, state.items[state.index0]);
        if (execute(statement.bodies[0]) == Flow::stop) break;
    }
    scope_ = around;
    if (state.items.empty() && statement.bodies.size() > 1) return in_new_scope(statement, 1);
    return Flow::go_on;
}

bool Evaluator::pull(LoopObject& state) {
    while (state.raw_next < state.raw.size()) {
        context_.step();
        const Value& candidate = state.raw[state.raw_next++];
        if (const auto& condition = state.statement.expressions[1]) {
            const Restore restore{scope_, scope_};
            scope_ = std::make_shared<Scope>(state.scope);
            assign(state.statement.target, candidate);
            if (!truth(evaluate(*condition))) continue;
        }
        state.items.push_back(candidate);
        return true;
    }
    return false;
}

Value Evaluator::recurse(const LoopObject& state, Arguments& arguments) {
    if (!state.statement.recursive) context_.fail("the loop is called, but it is not marked 'recursive'");
    const auto [over] = arguments.bind<1>(context_, "loop", {"iterable"}, 1);
    const Restore restore{scope_, scope_};
    scope_ = state.scope;
    Capture capture(*this);
    iterate(state.statement, *over, state.depth0 + 1);
    return capture.value();
}

void Evaluator::with(const Statement& statement) {
    std::vector<Value> values;
    for (const ExpressionPtr& one : statement.expressions) values.push_back(evaluate(*one));
    const Restore restore{scope_, scope_};
    scope_ = std::make_shared<Scope>(scope_);
    unset(statement.unset[0]);
    for (size_t i = 0; i < values.size(); ++i) assign(statement.targets[i], std::move(values[i]));
    execute(statement.bodies[0]);
}

void Evaluator::assign(const Target& target, Value value) {
    if (target.symbol < 0) {
        std::vector<Value> values = elements(context_, value);
        if (values.size() != target.items.size())
            context_.fail(values.size(), " values cannot be assigned to ", target.items.size(), " names");
        for (size_t i = 0; i < values.size(); ++i) assign(target.items[i], std::move(values[i]));
        return;
    }
    if (target.attribute.empty()) return scope_->set(target.symbol, std::move(value));
    const Value* space = scope_->find(target.symbol);
    if (!space || !space->is(Kind::space))
        context_.fail("cannot assign the attribute '", target.attribute, "' of what is no namespace");
    if (target.attribute[0] == '_')
        context_.fail("a namespace has no attributes that begin with an underscore: '", target.attribute, "'");
    auto& object = space->as<SpaceObject>();
    if (Value* old = object.find(target.attribute)) {
        // A value that holds values goes when nothing else is touched.
        std::swap(*old, value);
        return;
    }
    object.items.emplace_back(make_string(context_, target.attribute), std::move(value));
}

Value Evaluator::apply_filters(const Expression* filters, Value value) {
    if (!filters) return value;
    const Deeper deeper(context_, depth_);
    context_.line = filters->line;
    Value input = apply_filters(filters->parts.empty() ? nullptr : filters->parts[0].get(), std::move(value));
    if (!filters->filter) context_.fail("there is no filter '", filters->text, "'");
    Arguments given = arguments(filters->arguments);
    return filters->filter(*this, input, given);
}

Value Evaluator::make_macro(const MacroBody& body) {
    // Once for a scope is enough, and the last one is the usual case.
    if (captured_.empty() || captured_.back() != scope_) {
        context_.grow(256);  // it stays to the end
        captured_.push_back(scope_);
    }
    return Value(Kind::macro, std::make_shared<MacroObject>(context_, body, scope_));
}

void Evaluator::call_block(const Statement& statement) {
    const Expression& e = *statement.expressions[0];
    const Value callee = evaluate(*e.parts[0]);
    Arguments given = arguments(e.arguments);
    given.named.emplace_back("caller", make_macro(statement.macro));
    print(call(callee, given));
}

Value Evaluator::call_macro(const MacroObject& macro, Arguments& given) {
    const Deeper deeper(context_, depth_);
    const MacroBody& body = macro.body;
    const size_t n = body.symbols.size();
    const Restore restore{scope_, scope_};
    scope_ = std::make_shared<Scope>(macro.closure);
    unset(body.unset);
    for (size_t i = 0; i < n; ++i) {
        if (i < given.positional.size()) {
            scope_->set(body.symbols[i], given.positional[i]);
            continue;
        }
        const auto it = std::find_if(given.named.begin(), given.named.end(),
                                     [&](const auto& one) { return one.first == body.names[i]; });
        if (it != given.named.end()) {
            scope_->set(body.symbols[i], std::move(it->second));
            given.named.erase(it);
        } else if (body.defaults[i]) {
            scope_->set(body.symbols[i], evaluate(*body.defaults[i]));
        } else {
            scope_->set(body.symbols[i],
                        Value::undefined(context_, concat("parameter '", body.names[i], "' was not provided")));
        }
    }
    if (body.uses_caller && std::find(body.names.begin(), body.names.end(), "caller") == body.names.end()) {
        Value caller = Value::undefined(context_, "No caller defined");
        const auto it =
            std::find_if(given.named.begin(), given.named.end(), [](const auto& one) { return one.first == "caller"; });
        if (it != given.named.end()) {
            caller = std::move(it->second);
            given.named.erase(it);
        }
        scope_->set(symbol_caller, std::move(caller));
    }
    if (body.uses_kwargs) {
        DictObject::Items items;
        for (auto& [name, value] : given.named) items.emplace_back(make_string(context_, name), std::move(value));
        scope_->set(symbol_kwargs, make_dict(context_, std::move(items)));
    } else if (!given.named.empty()) {
        context_.fail("macro '", body.name, "' takes no keyword argument '", given.named.front().first, "'");
    }
    if (body.uses_varargs) {
        std::vector<Value> rest;
        for (size_t i = n; i < given.positional.size(); ++i) rest.push_back(given.positional[i]);
        scope_->set(symbol_varargs, make_sequence(context_, Flavour::tuple, std::move(rest)));
    } else if (given.positional.size() > n) {
        context_.fail("macro '", body.name, "' takes not more than ", n, " arguments");
    }
    Capture capture(*this);
    execute(body.body);
    return capture.value();
}

}  // namespace quantplug::engine::jinja
