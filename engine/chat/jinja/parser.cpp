#include "engine/chat/jinja/parser.h"

#include <algorithm>

#include "engine/chat/jinja/parser_nested.h"
#include "engine/chat/jinja/scopes.h"

namespace quantplug::engine::jinja {

Parser::Parser(std::string_view source, const std::string& name)
    : name_(name), tokens_(tokenize(source, name)), symbols_{"loop", "caller", "varargs", "kwargs"} {}

Syntax Parser::parse() {
    Syntax out;
    out.body = statements({});
    if (here().kind != TokenKind::end) fail_here("unexpected ", shown());
    if (!unknown_.empty()) syntax_error(name_, unknown_[0].line, "there is no ", unknown_[0].what);
    out.symbols = std::move(symbols_);
    find_unset_names(out);
    return out;
}

Token Parser::take() {
    Token out = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return out;
}

bool Parser::take_op(std::string_view op) {
    const bool found = here().is_op(op);
    if (found) ++at_;
    return found;
}

bool Parser::take_name(std::string_view name) {
    const bool found = here().is_name(name);
    if (found) ++at_;
    return found;
}

void Parser::expect_op(std::string_view op) {
    if (!take_op(op)) fail_here("expected '", op, "', got ", shown());
}

void Parser::expect_name(std::string_view name) {
    if (!take_name(name)) fail_here("expected '", name, "', got ", shown());
}

void Parser::expect(TokenKind kind) {
    if (here().kind != kind)
        fail_here("expected ",
                  kind == TokenKind::block_end      ? "the end of the tag (%})"
                  : kind == TokenKind::variable_end ? "the end of the expression (}})"
                                                    : "a name",
                  ", got ", shown());
    ++at_;
}

std::string Parser::shown() const {
    switch (here().kind) {
        case TokenKind::end:
            return "the end of the template";
        case TokenKind::data:
            return "text";
        case TokenKind::block_begin:
            return "'{%'";
        case TokenKind::block_end:
            return "'%}'";
        case TokenKind::variable_begin:
            return "'{{'";
        case TokenKind::variable_end:
            return "'}}'";
        default:
            return "'" + here().text + "'";
    }
}

int Parser::symbol(const std::string& name) {
    const auto it = std::find(symbols_.begin(), symbols_.end(), name);
    if (it != symbols_.end()) return static_cast<int>(it - symbols_.begin());
    if (symbols_.size() >= 10'000) fail_here("the template has too many names");
    symbols_.push_back(name);
    return static_cast<int>(symbols_.size()) - 1;
}

Block Parser::statements(std::initializer_list<std::string_view> ends) {
    const Nested nested(*this);
    Block out;
    while (true) {
        if (here().kind == TokenKind::end) {
            if (ends.size() > 0) fail_here("the template ends before '", *ends.begin(), "'");
            return out;
        }
        if (here().kind == TokenKind::data) {
            StatementPtr text = make(Action::text);
            text->data = take().text;
            out.push_back(std::move(text));
        } else if (here().kind == TokenKind::variable_begin) {
            StatementPtr print = make(Action::print);
            ++at_;
            print->expressions.push_back(tuple(true, false));
            expect(TokenKind::variable_end);
            out.push_back(std::move(print));
        } else {
            if (here().kind != TokenKind::block_begin) fail_here("unexpected ", shown());
            ++at_;
            for (const std::string_view end : ends)
                if (here().is_name(end)) return out;
            statement(out);
            expect(TokenKind::block_end);
        }
    }
}

StatementPtr Parser::make(Action action) {
    auto out = std::make_unique<Statement>();
    out->action = action;
    out->line = here().line;
    return out;
}

void Parser::statement(Block& out) {
    if (here().kind != TokenKind::name) fail_here("expected the name of a tag, got ", shown());
    const std::string tag = here().text;
    if (tag == "for") return out.push_back(for_loop());
    if (tag == "if") return out.push_back(branch());
    if (tag == "set") return out.push_back(set());
    if (tag == "macro") return out.push_back(macro());
    if (tag == "call") return out.push_back(call_block());
    if (tag == "with") return out.push_back(with());
    if (tag == "filter") return out.push_back(filter_block());
    if (tag == "generation") return out.push_back(generation());
    if (tag == "print") return out.push_back(print());
    if (tag == "break" || tag == "continue") {
        if (loops_ == 0) fail_here("'", tag, "' outside of a loop");
        out.push_back(make(tag == "break" ? Action::stop : Action::next));
        ++at_;
        return;
    }
    for (const char* known : {"block", "extends", "include", "import", "from", "autoescape", "do", "trans"})
        if (tag == known) fail_here("the tag '", tag, "' is not supported");
    fail_here("unknown tag '", tag, "'");
}

Block Parser::body_of(std::string_view end) {
    expect(TokenKind::block_end);
    Block out = statements({end});
    expect_name(end);
    return out;
}

// Names and filters inside stand on their own: what is unknown there is an error now.
Block Parser::hard_body(std::string_view end) {
    const int soft = std::exchange(soft_, 0);
    Block out = body_of(end);
    soft_ = soft;
    return out;
}

Target Parser::single_target(bool with_attributes) {
    if (here().kind != TokenKind::name) fail_here("cannot assign to ", shown());
    const Token name = take();
    for (const char* constant : {"true", "false", "none", "True", "False", "None"})
        if (name.text == constant) syntax_error(name_, name.line, "cannot assign to '", name.text, "'");
    Target out;
    out.symbol = symbol(name.text);
    if (with_attributes && here().is_op(".")) {
        ++at_;
        if (here().kind != TokenKind::name) fail_here("expected the name of an attribute, got ", shown());
        out.attribute = take().text;
    }
    return out;
}

Target Parser::target(std::string_view end_word, bool with_attributes) {
    Target out;
    bool several = false;
    const bool parentheses = take_op("(");
    const auto at_end = [&] {
        return here().kind == TokenKind::block_end || here().is_op("=") || here().is_op(")") ||
               (!end_word.empty() && here().is_name(end_word));
    };
    do {
        if (at_end()) break;
        const Nested nested(*this);
        out.items.push_back(here().is_op("(") ? target({}, with_attributes) : single_target(with_attributes));
        if (here().is_op(",")) several = true;
    } while (take_op(","));
    if (parentheses) expect_op(")");
    if (out.items.empty()) fail_here("expected the name to assign to, got ", shown());
    if (!several) return std::move(out.items.front());
    return out;
}

StatementPtr Parser::for_loop() {
    StatementPtr out = make(Action::loop);
    ++at_;
    out->target = target("in", false);
    expect_name("in");
    out->expressions.push_back(tuple(false, false, "recursive"));
    const int soft = std::exchange(soft_, 0);
    out->expressions.push_back(take_name("if") ? expression() : nullptr);
    out->recursive = take_name("recursive");
    expect(TokenKind::block_end);
    ++loops_;
    out->bodies.push_back(statements({"endfor", "else"}));
    --loops_;
    if (take_name("else")) {
        expect(TokenKind::block_end);
        out->bodies.push_back(statements({"endfor"}));
    }
    expect_name("endfor");
    soft_ = soft;
    return out;
}

StatementPtr Parser::branch() {
    StatementPtr out = make(Action::branch);
    ++at_;
    ++soft_;
    out->expressions.push_back(tuple(false, false));
    while (true) {
        expect(TokenKind::block_end);
        out->bodies.push_back(statements({"endif", "elif", "else"}));
        if (take_name("elif")) {
            out->expressions.push_back(tuple(false, false));
            continue;
        }
        if (take_name("else")) {
            expect(TokenKind::block_end);
            out->bodies.push_back(statements({"endif"}));
        }
        expect_name("endif");
        break;
    }
    --soft_;
    return out;
}

StatementPtr Parser::set() {
    StatementPtr out = make(Action::set);
    ++at_;
    out->target = target({}, true);
    if (take_op("=")) {
        out->expressions.push_back(tuple(true, false));
        return out;
    }
    out->action = Action::set_block;
    ExpressionPtr filtered;
    while (here().is_op("|")) filtered = filter(std::move(filtered));
    out->expressions.push_back(std::move(filtered));
    out->bodies.push_back(hard_body("endset"));
    return out;
}

void Parser::signature(MacroBody& out) {
    expect_op("(");
    while (!here().is_op(")")) {
        if (!out.names.empty()) expect_op(",");
        if (here().kind != TokenKind::name) fail_here("expected the name of a parameter, got ", shown());
        const std::string name = take().text;
        if (std::find(out.names.begin(), out.names.end(), name) != out.names.end())
            fail_here("the parameter '", name, "' is there twice");
        out.symbols.push_back(symbol(name));
        out.names.push_back(name);
        if (take_op("="))
            out.defaults.push_back(expression());
        else if (!out.defaults.empty() && out.defaults.back())
            fail_here("the parameter '", name, "' without a default follows one that has one");
        else
            out.defaults.push_back(nullptr);
    }
    expect_op(")");
}

StatementPtr Parser::macro() {
    StatementPtr out = make(Action::macro);
    ++at_;
    if (here().kind != TokenKind::name) fail_here("expected the name of a macro, got ", shown());
    out->macro.name = take().text;
    out->symbol = symbol(out->macro.name);
    const int loops = std::exchange(loops_, 0);
    macros_.push_back(&out->macro);
    signature(out->macro);
    out->macro.body = hard_body("endmacro");
    macros_.pop_back();
    loops_ = loops;
    return out;
}

StatementPtr Parser::call_block() {
    StatementPtr out = make(Action::call);
    ++at_;
    const int loops = std::exchange(loops_, 0);
    out->macro.name = "caller";
    macros_.push_back(&out->macro);
    if (here().is_op("(")) signature(out->macro);
    macros_.pop_back();
    out->expressions.push_back(expression());
    if (out->expressions[0]->op != Op::call) fail_here("expected a call");
    macros_.push_back(&out->macro);
    out->macro.body = hard_body("endcall");
    macros_.pop_back();
    loops_ = loops;
    return out;
}

StatementPtr Parser::with() {
    StatementPtr out = make(Action::with);
    ++at_;
    while (here().kind != TokenKind::block_end) {
        if (!out->targets.empty()) expect_op(",");
        out->targets.push_back(single_target(false));
        expect_op("=");
        out->expressions.push_back(expression());
    }
    out->bodies.push_back(hard_body("endwith"));
    return out;
}

StatementPtr Parser::filter_block() {
    StatementPtr out = make(Action::filter);
    ++at_;
    ExpressionPtr filtered = filter(nullptr, true);
    while (here().is_op("|")) filtered = filter(std::move(filtered));
    out->expressions.push_back(std::move(filtered));
    out->bodies.push_back(hard_body("endfilter"));
    return out;
}

// Hugging Face's mark around the assistant's text: its names are its own.
StatementPtr Parser::generation() {
    StatementPtr out = make(Action::scope);
    ++at_;
    const int loops = std::exchange(loops_, 0);
    out->bodies.push_back(hard_body("endgeneration"));
    loops_ = loops;
    return out;
}

StatementPtr Parser::print() {
    StatementPtr out = make(Action::print);
    ++at_;
    while (here().kind != TokenKind::block_end) {
        if (!out->expressions.empty()) expect_op(",");
        out->expressions.push_back(expression());
    }
    return out;
}

}  // namespace quantplug::engine::jinja
