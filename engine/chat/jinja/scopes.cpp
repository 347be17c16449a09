#include "engine/chat/jinja/scopes.h"

#include <algorithm>
#include <set>

namespace quantplug::engine::jinja {
namespace {

class ScopeReader {
 public:
    explicit ScopeReader(const ScopeReader* around) : around_(around) {}

    std::vector<int> read(const Block& block) {
        visit(block, false);
        return std::move(unset_);
    }

    void declare(int symbol) { known_.insert(symbol); }

    void store(const Target& target, bool in_branch) {
        for (const Target& one : target.items) store(one, in_branch);
        if (target.symbol < 0) return;
        if (target.attribute.empty())
            store(target.symbol, in_branch);
        else
            load(target.symbol);
    }

    void visit(const ExpressionPtr& e) {
        if (!e) return;
        if (e->op == Op::name) load(e->symbol);
        for (const ExpressionPtr& one : e->parts) visit(one);
        for (const ExpressionPtr& one : e->arguments.positional) visit(one);
        for (const auto& one : e->arguments.named) visit(one.second);
        visit(e->arguments.list);
        visit(e->arguments.dict);
    }

 private:
    bool knows(int symbol) const { return known_.contains(symbol) || (around_ && around_->knows(symbol)); }

    void load(int symbol) {
        if (!knows(symbol)) known_.insert(symbol);
    }

    void store(int symbol, bool in_branch) {
        if (known_.contains(symbol)) return;
        if (!in_branch && !(around_ && around_->knows(symbol))) unset_.push_back(symbol);
        known_.insert(symbol);
    }

    void visit(const Block& block, bool in_branch) {
        for (const StatementPtr& statement : block) visit(*statement, in_branch);
    }

    // What is inside of a scope of its own is not looked at here.
    void visit(const Statement& statement, bool in_branch) {
        switch (statement.action) {
            case Action::print:
            case Action::call:
            case Action::filter:
            case Action::with:
                for (const ExpressionPtr& one : statement.expressions) visit(one);
                break;
            case Action::branch:
                for (size_t i = 0; i < statement.bodies.size(); ++i) {
                    if (i < statement.expressions.size()) visit(statement.expressions[i]);
                    visit(statement.bodies[i], true);
                }
                break;
            case Action::loop:
                visit(statement.expressions[0]);
                break;
            case Action::set:
                visit(statement.expressions[0]);
                store(statement.target, in_branch);
                break;
            case Action::set_block:
                store(statement.target, in_branch);
                break;
            case Action::macro:
                store(statement.symbol, in_branch);
                break;
            default:
                break;
        }
    }

    const ScopeReader* around_;
    std::set<int> known_;
    std::vector<int> unset_;
};

void read_scopes(const Block& block, const ScopeReader& scope);

void read_macro(MacroBody& macro, const ScopeReader& around) {
    ScopeReader scope(&around);
    for (const int symbol : macro.symbols) scope.declare(symbol);
    for (const ExpressionPtr& one : macro.defaults) scope.visit(one);
    macro.unset = scope.read(macro.body);
    read_scopes(macro.body, scope);
}

void read_statement(Statement& statement, const ScopeReader& around) {
    if (statement.action == Action::branch) {
        for (const Block& body : statement.bodies) read_scopes(body, around);
        return;
    }
    if (statement.action == Action::macro || statement.action == Action::call) read_macro(statement.macro, around);
    for (size_t i = 0; i < statement.bodies.size(); ++i) {
        ScopeReader scope(&around);
        if (statement.action == Action::loop && i == 0) {
            scope.store(statement.target, true);
            scope.declare(symbol_loop);
        }
        for (const Target& one : statement.targets) scope.store(one, true);
        if (statement.action == Action::filter) scope.visit(statement.expressions[0]);
        statement.unset.push_back(scope.read(statement.bodies[i]));
        read_scopes(statement.bodies[i], scope);
    }
}

void read_scopes(const Block& block, const ScopeReader& scope) {
    for (const StatementPtr& statement : block) read_statement(*statement, scope);
}

}  // namespace

void find_unset_names(Syntax& syntax) {
    ScopeReader scope(nullptr);
    syntax.unset = scope.read(syntax.body);
    read_scopes(syntax.body, scope);
}

}  // namespace quantplug::engine::jinja
