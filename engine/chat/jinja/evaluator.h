// Runs a parsed template.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/chat/jinja/ast.h"
#include "engine/chat/jinja/context.h"
#include "engine/chat/jinja/registry.h"
#include "engine/chat/jinja/value.h"

namespace quantplug::engine::jinja {

/// Names and values; what is not here is looked for in the scope around.
struct Scope {
    explicit Scope(std::shared_ptr<Scope> around) : parent(std::move(around)) {}
    const std::shared_ptr<Scope> parent;
    std::vector<std::pair<int, Value>> values;

    const Value* find(int symbol) const;
    void set(int symbol, Value value);
};

struct MacroObject : Object {
    MacroObject(Context& owner, const MacroBody& code, std::shared_ptr<Scope> scope)
        : Object(&owner, 0, 1), body(code), closure(std::move(scope)) {}
    const MacroBody& body;
    const std::shared_ptr<Scope> closure;
};

/// `loop` of a for loop. A condition on the elements is looked at only when the next element is asked for.
struct LoopObject : Object {
    LoopObject(Context& owner, const Statement& loop, std::shared_ptr<Scope> around, std::vector<Value> values,
               int level, int depth_inside)
        : Object(&owner, values.size() * sizeof(Value), depth_inside),
          statement(loop),
          scope(std::move(around)),
          raw(std::move(values)),
          depth0(level) {}
    const Statement& statement;
    const std::shared_ptr<Scope> scope;
    const std::vector<Value> raw;
    const int depth0;
    size_t raw_next = 0;
    std::vector<Value> items;  // those of `raw` that passed, as far as they were looked at
    size_t index0 = 0;
    std::vector<Value> last_changed;
    bool watched = false;  // changed() was called
    std::weak_ptr<LoopObject> self;
};

class Evaluator {
 public:
    /// Both outlive it.
    Evaluator(const Syntax& syntax, Context& context);
    ~Evaluator();
    Evaluator(const Evaluator&) = delete;
    Evaluator& operator=(const Evaluator&) = delete;

    void set_variable(std::string_view name, Value value);
    Text run();

    Context& context() { return context_; }
    Value call(const Value& callee, Arguments& arguments);
    /// value.name, by jinja2's rules: an attribute, else an element.
    Value attribute(const Value& value, const std::string& name);
    /// value[key]: an element, else an attribute.
    Value item(const Value& value, const Value& key);
    Value make_space(DictObject::Items items);
    bool pull(LoopObject& loop);  // one more of loop.items; false: there is none
    void watch(const Value& loop);

 private:
    enum class Flow { go_on, stop, next };
    struct Capture;

    // Statements.
    Flow execute(const Block& block);
    Flow execute(const Statement& statement);
    Flow branch(const Statement& statement);
    Flow loop(const Statement& statement);
    Flow iterate(const Statement& statement, const Value& over, int depth0);
    void with(const Statement& statement);
    void call_block(const Statement& statement);
    Flow in_new_scope(const Statement& statement, size_t body = 0);
    void unset(const std::vector<int>& symbols);
    void assign(const Target& target, Value value);
    void print(const Value& value);
    void write(const Text& text);
    Value apply_filters(const Expression* filters, Value value);
    Value make_macro(const MacroBody& body);
    Value call_macro(const MacroObject& macro, Arguments& arguments);
    Value recurse(const LoopObject& loop, Arguments& arguments);

    // Expressions.
    Value evaluate(const Expression& e);
    Value name(const Expression& e);
    Value dict(const Expression& e);
    Value slice(const Expression& e);
    Value concatenate(const Expression& e);
    Value comparison(const Expression& e);
    Value call(const Expression& e);
    Value filter(const Expression& e);
    Value test(const Expression& e);
    std::vector<Value> parts(const Expression& e);
    Arguments arguments(const CallArguments& given);
    bool find_attribute(const Value& value, const std::string& name, Value& out);
    bool loop_attribute(const Value& value, const std::string& name, Value& out);

    const Syntax& syntax_;
    Context& context_;
    std::shared_ptr<Scope> scope_;
    Text* out_ = nullptr;
    int depth_ = 0;
    // What can be part of a cycle, emptied at the end.
    std::vector<std::shared_ptr<Object>> spaces_, loops_;
    std::vector<std::shared_ptr<Scope>> captured_;
};

}  // namespace quantplug::engine::jinja
