// Tokens to a syntax tree, by jinja2's grammar.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "engine/chat/jinja/ast.h"
#include "engine/chat/jinja/lexer.h"

namespace quantplug::engine::jinja {

inline constexpr int max_nesting = 100;           // of tags and brackets in the source
inline constexpr int max_expression_depth = 400;  // of operators, a + b + c + ... too

class Parser {
 public:
    Parser(std::string_view source, const std::string& name);
    Syntax parse();

 private:
    struct Nested;

    // Statements.
    Block statements(std::initializer_list<std::string_view> ends);
    void statement(Block& out);
    StatementPtr make(Action action);
    StatementPtr for_loop();
    StatementPtr branch();
    StatementPtr set();
    StatementPtr macro();
    StatementPtr call_block();
    StatementPtr with();
    StatementPtr filter_block();
    StatementPtr generation();
    StatementPtr print();
    void signature(MacroBody& out);
    Block body_of(std::string_view end);  // from the tag's end to behind the word `end`
    Block hard_body(std::string_view end);

    // Targets.
    Target target(std::string_view end_word, bool with_attributes);
    Target single_target(bool with_attributes);

    // Expressions.
    ExpressionPtr expression();
    ExpressionPtr disjunction();
    ExpressionPtr conjunction();
    ExpressionPtr negation();
    ExpressionPtr comparison();
    ExpressionPtr sum();
    ExpressionPtr concatenation();
    ExpressionPtr product();
    ExpressionPtr power();
    ExpressionPtr unary(bool with_filters);
    ExpressionPtr primary();
    ExpressionPtr number();
    ExpressionPtr tuple(bool with_condition, bool in_parentheses, std::string_view end_word = {});
    ExpressionPtr list();
    ExpressionPtr dict();
    ExpressionPtr postfix(ExpressionPtr left);
    ExpressionPtr filters(ExpressionPtr left);
    ExpressionPtr subscript(ExpressionPtr left);
    ExpressionPtr bracketed(ExpressionPtr left);
    ExpressionPtr call(ExpressionPtr left);
    ExpressionPtr filter(ExpressionPtr left, bool first_named = false);
    ExpressionPtr test(ExpressionPtr left);
    CallArguments arguments();
    std::string dotted_name();
    ExpressionPtr constant(Value value);
    ExpressionPtr node(Op op, ExpressionPtr first = nullptr, ExpressionPtr second = nullptr);
    ExpressionPtr finish(ExpressionPtr made) const;

    // Tokens.
    const Token& here() const { return tokens_[at_]; }
    const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
    Token take();
    bool take_op(std::string_view op);
    bool take_name(std::string_view name);
    void expect_op(std::string_view op);
    void expect_name(std::string_view name);
    void expect(TokenKind kind);
    int symbol(const std::string& name);
    template <typename... Parts>
    [[noreturn]] void fail_here(const Parts&... parts) const {
        syntax_error(name_, here().line, parts...);
    }
    std::string shown() const;  // the token here, for messages

    const std::string& name_;
    std::vector<Token> tokens_;
    size_t at_ = 0;
    int nesting_ = 0;
    int soft_ = 0;  // inside of a condition: an unknown filter is an error only when it is reached
    struct Unknown {
        int line;
        std::string what;
    };
    std::vector<Unknown> unknown_;  // filters and tests that are errors even where they are never reached
    int loops_ = 0;                 // around this place, inside of its macro
    std::vector<MacroBody*> macros_;
    std::vector<std::string> symbols_;
};

}  // namespace quantplug::engine::jinja
