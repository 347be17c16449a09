// A parsed template.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/chat/jinja/registry.h"
#include "engine/chat/jinja/value.h"

namespace quantplug::engine::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct CallArguments {
    std::vector<ExpressionPtr> positional;
    std::vector<std::pair<std::string, ExpressionPtr>> named;
    ExpressionPtr list, dict;  // *list, **dict
};

enum class Op : uint8_t {
    constant,
    name,       // symbol
    list,       // parts
    tuple,      // parts
    dict,       // parts: key, value, key, value ...
    attribute,  // parts[0].text
    item,       // parts[0][parts[1]]
    slice,      // parts[0][parts[1]:parts[2]:parts[3]], any of the three null
    call,       // parts[0](arguments)
    filter,     // parts[0] | text(arguments); parts[0] is null where a block is filtered
    test,       // parts[0] is [not] text(arguments)
    negate,
    plus,
    logical_not,
    logical_and,
    logical_or,
    condition,  // parts[1] if parts[0] else parts[2], which may be null
    add,
    subtract,
    multiply,
    divide,
    floor_divide,
    modulo,
    power,
    concat,   // parts[0] ~ parts[1] ~ ...
    compare,  // parts[0] comparisons[0] parts[1] comparisons[1] parts[2] ...
};

enum class Comparison : uint8_t { equal, unequal, less, less_equal, greater, greater_equal, in, not_in };

struct Expression {
    Op op = Op::constant;
    bool negated = false;
    int line = 1;
    int depth = 1;
    int symbol = -1;
    Value constant;
    std::string text;
    std::vector<ExpressionPtr> parts;
    std::vector<Comparison> comparisons;
    CallArguments arguments;
    FilterFunction filter = nullptr;  // null: there is none of this name
    TestFunction test = nullptr;
};

/// What is assigned to: a name, a namespace's attribute, or several of these.
struct Target {
    int symbol = -1;  // -1: `items`
    std::string attribute;
    std::vector<Target> items;
};

struct Statement;
using StatementPtr = std::unique_ptr<Statement>;
using Block = std::vector<StatementPtr>;

struct MacroBody {
    std::string name;
    std::vector<int> symbols;             // of the parameters
    std::vector<std::string> names;       // the same
    std::vector<ExpressionPtr> defaults;  // null where there is none
    Block body;
    std::vector<int> unset;  // names of its own that are undefined at first (scopes.h)
    bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

enum class Action : uint8_t {
    text,       // data
    print,      // expressions
    branch,     // expressions[i] ? bodies[i]; one more body: else
    loop,       // for target in expressions[0] if expressions[1] (or null): bodies[0], else bodies[1]
    set,        // target = expressions[0]
    set_block,  // target = bodies[0], filtered by expressions[0] (or null)
    macro,
    call,    // macro is the caller, expressions[0] what is called
    filter,  // bodies[0] filtered by expressions[0]
    with,    // targets = expressions; bodies[0]
    scope,   // bodies[0] with names of its own
    stop,    // break
    next,    // continue
};

struct Statement {
    Action action = Action::text;
    bool recursive = false;
    int line = 1;
    int symbol = -1;  // of a macro
    std::string data;
    Target target;
    std::vector<Target> targets;
    std::vector<ExpressionPtr> expressions;
    std::vector<Block> bodies;
    std::vector<std::vector<int>> unset;  // of the bodies that are scopes
    MacroBody macro;
};

struct Syntax {
    Block body;
    std::vector<int> unset;
    std::vector<std::string> symbols;  // names of variables; the first is "loop", the second "caller"
};

enum WellKnownSymbol : int { symbol_loop, symbol_caller, symbol_varargs, symbol_kwargs };

}  // namespace quantplug::engine::jinja
