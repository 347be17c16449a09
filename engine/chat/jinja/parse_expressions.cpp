// Expressions, from the weakest operator to the strongest.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/chat/jinja/parser.h"
#include "engine/chat/jinja/parser_nested.h"

namespace quantplug::engine::jinja {

ExpressionPtr Parser::finish(ExpressionPtr made) const {
    int depth = 0;
    const auto look = [&](const ExpressionPtr& one) {
        if (one) depth = std::max(depth, one->depth);
    };
    for (const ExpressionPtr& one : made->parts) look(one);
    for (const ExpressionPtr& one : made->arguments.positional) look(one);
    for (const auto& one : made->arguments.named) look(one.second);
    look(made->arguments.list);
    look(made->arguments.dict);
    made->depth = depth + 1;
    if (made->depth > max_expression_depth)
        syntax_error(name_, made->line, "an expression is nested deeper than ", max_expression_depth, " operators");
    return made;
}

ExpressionPtr Parser::node(Op op, ExpressionPtr first, ExpressionPtr second) {
    auto out = std::make_unique<Expression>();
    out->op = op;
    out->line = first ? first->line : here().line;
    if (first) out->parts.push_back(std::move(first));
    if (second) out->parts.push_back(std::move(second));
    return finish(std::move(out));
}

ExpressionPtr Parser::constant(Value value) {
    ExpressionPtr out = node(Op::constant);
    out->constant = std::move(value);
    return out;
}

ExpressionPtr Parser::expression() {
    const Nested nested(*this);
    const size_t n_unknown = unknown_.size();
    ExpressionPtr out = disjunction();
    while (take_name("if")) {
        unknown_.resize(n_unknown);
        ++soft_;
        ExpressionPtr condition = disjunction();
        ExpressionPtr otherwise = take_name("else") ? expression() : nullptr;
        --soft_;
        ExpressionPtr made = node(Op::condition, std::move(condition), std::move(out));
        made->parts.push_back(std::move(otherwise));
        out = finish(std::move(made));
    }
    return out;
}

ExpressionPtr Parser::disjunction() {
    ExpressionPtr out = conjunction();
    while (take_name("or")) out = node(Op::logical_or, std::move(out), conjunction());
    return out;
}

ExpressionPtr Parser::conjunction() {
    ExpressionPtr out = negation();
    while (take_name("and")) out = node(Op::logical_and, std::move(out), negation());
    return out;
}

ExpressionPtr Parser::negation() {
    if (!here().is_name("not")) return comparison();
    const Nested nested(*this);
    ++at_;
    return node(Op::logical_not, negation());
}

ExpressionPtr Parser::comparison() {
    struct Known {
        std::string_view op;
        Comparison comparison;
    };
    constexpr Known known[] = {{"==", Comparison::equal},  {"!=", Comparison::unequal},
                               {"<", Comparison::less},    {"<=", Comparison::less_equal},
                               {">", Comparison::greater}, {">=", Comparison::greater_equal}};
    ExpressionPtr first = sum();
    ExpressionPtr out;
    while (true) {
        const auto it =
            std::find_if(std::begin(known), std::end(known), [&](const Known& one) { return here().is_op(one.op); });
        Comparison found{};
        if (it != std::end(known)) {
            found = it->comparison;
            ++at_;
        } else if (take_name("in")) {
            found = Comparison::in;
        } else if (here().is_name("not") && ahead().is_name("in")) {
            found = Comparison::not_in;
            at_ += 2;
        } else {
            break;
        }
        if (!out) out = node(Op::compare, std::move(first));
        out->comparisons.push_back(found);
        out->parts.push_back(sum());
    }
    return out ? finish(std::move(out)) : std::move(first);
}

ExpressionPtr Parser::sum() {
    ExpressionPtr out = concatenation();
    while (true) {
        if (take_op("+"))
            out = node(Op::add, std::move(out), concatenation());
        else if (take_op("-"))
            out = node(Op::subtract, std::move(out), concatenation());
        else
            return out;
    }
}

ExpressionPtr Parser::concatenation() {
    ExpressionPtr out = product();
    if (!here().is_op("~")) return out;
    out = node(Op::concat, std::move(out));
    while (take_op("~")) out->parts.push_back(product());
    return finish(std::move(out));
}

ExpressionPtr Parser::product() {
    ExpressionPtr out = power();
    while (true) {
        if (take_op("*"))
            out = node(Op::multiply, std::move(out), power());
        else if (take_op("/"))
            out = node(Op::divide, std::move(out), power());
        else if (take_op("//"))
            out = node(Op::floor_divide, std::move(out), power());
        else if (take_op("%"))
            out = node(Op::modulo, std::move(out), power());
        else
            return out;
    }
}

ExpressionPtr Parser::power() {
    ExpressionPtr out = unary(true);
    while (take_op("**")) out = node(Op::power, std::move(out), unary(true));
    return out;
}

ExpressionPtr Parser::unary(bool with_filters) {
    ExpressionPtr out;
    if (here().is_op("-") || here().is_op("+")) {
        const Nested nested(*this);
        const Op op = take().text == "-" ? Op::negate : Op::plus;
        out = node(op, unary(false));
    } else {
        out = primary();
    }
    out = postfix(std::move(out));
    return with_filters ? filters(std::move(out)) : std::move(out);
}

ExpressionPtr Parser::primary() {
    const Token& token = here();
    switch (token.kind) {
        case TokenKind::name: {
            const std::string name = take().text;
            if (name == "true" || name == "True") return constant(Value::boolean(true));
            if (name == "false" || name == "False") return constant(Value::boolean(false));
            if (name == "none" || name == "None") return constant(Value::none());
            for (MacroBody* macro : macros_) {  // those around it too, as jinja2 has it
                macro->uses_caller |= name == "caller";
                macro->uses_varargs |= name == "varargs";
                macro->uses_kwargs |= name == "kwargs";
            }
            ExpressionPtr out = node(Op::name);
            out->symbol = symbol(name);
            return out;
        }
        case TokenKind::string: {
            std::string text;
            while (here().kind == TokenKind::string) text += take().text;
            return constant(Value::string(nullptr, Text(std::move(text))));
        }
        case TokenKind::integer:
        case TokenKind::real:
            return number();
        case TokenKind::op:
            if (take_op("(")) {
                ExpressionPtr out = tuple(true, true);
                expect_op(")");
                return out;
            }
            if (token.is_op("[")) return list();
            if (token.is_op("{")) return dict();
            break;
        default:
            break;
    }
    fail_here("unexpected ", shown());
}

ExpressionPtr Parser::number() {
    const Token token = take();
    std::string digits;
    for (const char c : token.text)
        if (c != '_') digits += c;
    if (token.kind == TokenKind::real) {
        double value = 0;
        if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc())
            value = digits.find('-') == std::string::npos ? HUGE_VAL : 0;
        return constant(Value::real(value));
    }
    int base = 10;
    std::string_view text = digits;
    if (text.size() > 1 && text[0] == '0') {
        const char kind = static_cast<char>(text[1] | 0x20);
        base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
        if (base != 10) text.remove_prefix(2);
    }
    int64_t value = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), value, base).ec != std::errc())
        syntax_error(name_, token.line, "the number ", token.text, " does not fit in 64 bits");
    return constant(Value::integer(value));
}

ExpressionPtr Parser::tuple(bool with_condition, bool in_parentheses, std::string_view end_word) {
    const Nested nested(*this);
    const auto at_end = [&] {
        return here().kind == TokenKind::variable_end || here().kind == TokenKind::block_end || here().is_op(")") ||
               (!end_word.empty() && here().is_name(end_word));
    };
    ExpressionPtr out = node(Op::tuple);
    bool several = false;
    do {
        if (at_end()) break;
        out->parts.push_back(with_condition ? expression() : disjunction());
        if (here().is_op(",")) several = true;
    } while (take_op(","));
    if (!several) {
        if (out->parts.size() == 1) return std::move(out->parts.front());
        if (!in_parentheses) fail_here("expected an expression, got ", shown());
    }
    return finish(std::move(out));
}

ExpressionPtr Parser::list() {
    ExpressionPtr out = node(Op::list);
    expect_op("[");
    while (!here().is_op("]")) {
        if (!out->parts.empty()) expect_op(",");
        if (here().is_op("]")) break;
        out->parts.push_back(expression());
    }
    expect_op("]");
    return finish(std::move(out));
}

ExpressionPtr Parser::dict() {
    ExpressionPtr out = node(Op::dict);
    expect_op("{");
    while (!here().is_op("}")) {
        if (!out->parts.empty()) expect_op(",");
        if (here().is_op("}")) break;
        out->parts.push_back(expression());
        expect_op(":");
        out->parts.push_back(expression());
    }
    expect_op("}");
    return finish(std::move(out));
}

ExpressionPtr Parser::postfix(ExpressionPtr left) {
    while (true) {
        if (here().is_op(".") || here().is_op("["))
            left = subscript(std::move(left));
        else if (here().is_op("("))
            left = call(std::move(left));
        else
            return left;
    }
}

ExpressionPtr Parser::filters(ExpressionPtr left) {
    while (true) {
        if (here().is_op("|"))
            left = filter(std::move(left));
        else if (here().is_name("is"))
            left = test(std::move(left));
        else if (here().is_op("("))
            left = call(std::move(left));
        else
            return left;
    }
}

ExpressionPtr Parser::subscript(ExpressionPtr left) {
    if (take_op(".")) {
        if (here().kind == TokenKind::integer) {
            ExpressionPtr index = number();
            return node(Op::item, std::move(left), std::move(index));
        }
        if (here().kind != TokenKind::name) fail_here("expected a name or a number behind '.', got ", shown());
        std::string name = take().text;
        ExpressionPtr out = node(Op::attribute, std::move(left));
        out->text = std::move(name);
        return out;
    }
    expect_op("[");
    ExpressionPtr out = bracketed(std::move(left));
    if (here().is_op(",")) {
        if (out->op == Op::slice) fail_here("a slice beside another index is not supported");
        ExpressionPtr keys = node(Op::tuple, std::move(out->parts[1]));
        while (take_op(",")) keys->parts.push_back(expression());
        out->parts[1] = finish(std::move(keys));
        out = finish(std::move(out));
    }
    expect_op("]");
    return out;
}

ExpressionPtr Parser::bracketed(ExpressionPtr left) {
    ExpressionPtr first;
    if (!here().is_op(":")) {
        first = expression();
        if (!here().is_op(":")) return node(Op::item, std::move(left), std::move(first));
    }
    expect_op(":");
    const auto bound = [&]() -> ExpressionPtr {
        if (here().is_op(":") || here().is_op("]") || here().is_op(",")) return nullptr;
        return expression();
    };
    ExpressionPtr last = bound();
    ExpressionPtr step = take_op(":") ? bound() : nullptr;
    ExpressionPtr out = node(Op::slice, std::move(left));
    out->parts.push_back(std::move(first));
    out->parts.push_back(std::move(last));
    out->parts.push_back(std::move(step));
    return finish(std::move(out));
}

CallArguments Parser::arguments() {
    CallArguments out;
    expect_op("(");
    bool first = true;
    while (!here().is_op(")")) {
        if (!first) {
            expect_op(",");
            if (here().is_op(")")) break;
        }
        first = false;
        if (take_op("*")) {
            if (out.list || out.dict) fail_here("invalid arguments of a call");
            out.list = expression();
        } else if (take_op("**")) {
            if (out.dict) fail_here("invalid arguments of a call");
            out.dict = expression();
        } else if (here().kind == TokenKind::name && ahead().is_op("=")) {
            if (out.dict) fail_here("invalid arguments of a call");
            std::string name = take().text;
            ++at_;
            out.named.emplace_back(std::move(name), expression());
        } else {
            if (out.list || out.dict || !out.named.empty())
                fail_here("an argument without a name follows one that has a name");
            out.positional.push_back(expression());
        }
    }
    expect_op(")");
    return out;
}

ExpressionPtr Parser::call(ExpressionPtr left) {
    ExpressionPtr out = node(Op::call, std::move(left));
    out->arguments = arguments();
    return finish(std::move(out));
}

std::string Parser::dotted_name() {
    if (here().kind != TokenKind::name) fail_here("expected a name, got ", shown());
    std::string name = take().text;
    while (take_op(".")) {
        if (here().kind != TokenKind::name) fail_here("expected a name, got ", shown());
        name += "." + take().text;
    }
    return name;
}

ExpressionPtr Parser::filter(ExpressionPtr left, bool first_named) {
    if (!first_named) expect_op("|");
    const int line = here().line;
    ExpressionPtr out = node(Op::filter);
    out->text = dotted_name();
    out->filter = find_filter(out->text);
    if (!out->filter && soft_ == 0) unknown_.push_back({line, "filter '" + out->text + "'"});
    if (here().is_op("(")) out->arguments = arguments();
    out->parts.push_back(std::move(left));
    return finish(std::move(out));
}

ExpressionPtr Parser::test(ExpressionPtr left) {
    expect_name("is");
    const int line = here().line;
    const bool negated = take_name("not");
    ExpressionPtr out = node(Op::test, std::move(left));
    out->negated = negated;
    out->text = dotted_name();
    out->test = find_test(out->text);
    if (!out->test && soft_ == 0) unknown_.push_back({line, "test '" + out->text + "'"});
    const TokenKind kind = here().kind;
    if (here().is_op("(")) {
        out->arguments = arguments();
    } else if ((kind == TokenKind::name && !here().is_name("else") && !here().is_name("or") &&
                !here().is_name("and")) ||
               kind == TokenKind::string || kind == TokenKind::integer || kind == TokenKind::real ||
               here().is_op("[") || here().is_op("{")) {
        if (here().is_name("is")) fail_here("tests cannot be chained");
        out->arguments.positional.push_back(postfix(primary()));
    }
    return finish(std::move(out));
}

}  // namespace quantplug::engine::jinja
