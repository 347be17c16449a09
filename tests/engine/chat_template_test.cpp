// The template engine against texts of Python's jinja2 (scripts/compare_templates.py --write), its messages, its
// limits, and which parts of a text came from the messages.
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/base/error.h"
#include "engine/chat/jinja/template.h"
#include "tests/support/data.h"

namespace quantplug::test {
namespace {

using engine::Code;
using engine::Error;
using engine::jinja::Limits;
using engine::jinja::Mark;
using engine::jinja::Template;
using engine::jinja::Text;
using engine::jinja::Variable;
using OrderedJson = nlohmann::ordered_json;

Text render(const std::string& source, const OrderedJson& variables = OrderedJson::object(),
            const Limits& limits = {}) {
    std::vector<Variable> all;
    for (const auto& one : variables.items()) all.push_back({one.key(), &one.value(), one.key() != "plain"});
    return Template(source, "t").render(all, 86400 * 365, limits);
}

std::string text(const std::string& source, const OrderedJson& variables = OrderedJson::object()) {
    return render(source, variables).bytes();
}

/// "CODE: message", "" where nothing is wrong.
std::string refusal(const std::string& source, const OrderedJson& variables = OrderedJson::object(),
                    const Limits& limits = {}) {
    try {
        render(source, variables, limits);
    } catch (const Error& error) {
        return std::to_string(int(error.code())) + ": " + error.what();
    }
    return "";
}

TEST_CASE("generated templates give the texts of Python's jinja2, and raise where it raises") {
    std::ifstream in(data_dir() / "chat" / "cases.json");
    const OrderedJson data = OrderedJson::parse(in);
    REQUIRE(data["cases"].size() > 500);
    int raised = 0;
    for (const auto& one : data["cases"]) {
        const auto source = one[0].get<std::string>();
        CAPTURE(source);
        if (one[1].is_null()) {
            CHECK(refusal(source, data["variables"]).substr(0, 3) == "3: ");
            ++raised;
        } else {
            CHECK(text(source, data["variables"]) == one[1].get<std::string>());
        }
    }
    CHECK(raised > 30);
}

TEST_CASE("white space around tags, by trim_blocks, lstrip_blocks and signs") {
    CHECK(text("a\n  {% if true %}\n  b\n  {% endif %}\nc\n") == "a\n  b\nc");
    CHECK(text("a\n  {%+ if true %}\n  b\n  {%- endif +%}\nc\n\n") == "a\n    b\nc\n");
    CHECK(text("a  {{- 1 -}}  b {# x -#}  c\n") == "a1b c");
    CHECK(text("x {% raw %}{{ y }}\n{% endraw %}\nz") == "x {{ y }}\nz");
    CHECK(text("1\r\n2\r3") == "1\n2\n3");
}

TEST_CASE("numbers print as Python prints them") {
    CHECK(text("{{ 1e16 }} {{ 1e15 }} {{ 1.0 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }} {{ 1e300 * 1e10 }}") ==
          "1e+16 1000000000000000.0 1.0 0.0001 1e-05 -0.0 inf");
    CHECK(text("{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** -1 }} {{ true + 1 }} {{ 2.5|round }} {{ 2.675|round(2) "
               "}}") == "-4 2 3.5 0.5 2 2.0 2.67");
    CHECK(text("{{ [1, none, true, 'it\\'s', {'a': (1,)}] }}") == "[1, None, True, \"it's\", {'a': (1,)}]");
}

TEST_CASE("keys keep their order in tojson, which is Python's json.dumps") {
    const OrderedJson tool = OrderedJson::parse(R"({"tool": {"z": 1, "a": {"é": [1.0, null, "<\"\n"]}}})");
    CHECK(text("{{ tool|tojson }}", tool) == "{\"z\": 1, \"a\": {\"é\": [1.0, null, \"<\\\"\\n\"]}}");
    CHECK(text("{{ tool|tojson(indent=2, sort_keys=true) }}", tool) ==
          "{\n  \"a\": {\n    \"é\": [\n      1.0,\n      null,\n      \"<\\\"\\n\"\n    ]\n  },\n  \"z\": 1\n}");
    CHECK(text("{{ tool|tojson(ensure_ascii=true, separators=(',', ':')) }}", tool) ==
          "{\"z\":1,\"a\":{\"\\u00e9\":[1.0,null,\"<\\\"\\n\"]}}");
}

TEST_CASE("strftime_now and raise_exception") {
    CHECK(text("{{ strftime_now('%Y') }}") == "1971");
    CHECK(refusal("{{ 1 }}{{ raise_exception('Only ' ~ 2 ~ ' roles') }}").find("refuses the messages: Only 2 roles") !=
          std::string::npos);
}

TEST_CASE("the sandbox: nothing is changed, and Python's inside is out of reach") {
    const OrderedJson list{{"l", {1, 2}}, {"d", {{"a", 1}}}};
    for (const char* source : {"{{ l.append(3) }}", "{{ l.pop() }}", "{{ d.update({}) }}", "{{ d.pop('a') }}",
                               "{{ l.__class__.__mro__ }}", "{% set n = namespace(_x=1) %}", "{% set l.x = 1 %}"})
        CHECK_MESSAGE(!refusal(source, list).empty(), source);
    CHECK(text("{{ l.append is defined }}{{ l.__class__ }}", list) == "False");
}

TEST_CASE("messages name the line and what is wrong") {
    CHECK(refusal("a\n{% for x in y %}").find("t, line 2: ") != std::string::npos);
    CHECK(refusal("\n\n{{ x.y }}").find("t, line 3: 'x' is undefined") != std::string::npos);
    CHECK(refusal("{{ 'a'|nofilter }}").find("there is no filter 'nofilter'") != std::string::npos);
    CHECK(refusal("{% include 'x' %}").find("'include' is not supported") != std::string::npos);
    CHECK(refusal("{{ 9223372036854775807 + 1 }}").find("64 bits") != std::string::npos);
    CHECK(refusal("{{ 'x' + 1 }}").find("a str + a int") != std::string::npos);
}

TEST_CASE("marks follow the text of the messages") {
    const auto marked = [](const std::string& source) {
        const Text out = render(source, {{"u", "User"}, {"plain", "own"}});
        std::string shown;
        size_t at = 0;
        for (const Mark& mark : out.marks()) {
            shown += out.bytes().substr(at, mark.begin - at) + "<" +
                     out.bytes().substr(mark.begin, mark.end - mark.begin) + ">";
            at = mark.end;
        }
        return shown + out.bytes().substr(at);
    };
    CHECK(marked("a{{ u }}b{{ plain }}") == "a<User>bown");
    CHECK(marked("{{ 'x' + u + 'y' }}{{ 'x' ~ u ~ 1 }}") == "x<User>yx<User>1");
    CHECK(marked("{{ ('  ' + u + 'b ')|trim }}{{ u[1:3] }}") == "<User>b<se>");
    CHECK(marked("{{ u.replace('s', '-') }}") == "<U>-<er>");
    CHECK(marked("{{ ['a', u]|join('+') }} {{ u|upper }} {{ 'a'|upper }}") == "a+<User> <USER> A");
    CHECK(marked("{{ '%s: %s' % ('r', u) }} {{ '{}!'.format(u) }}") == "r: <User> <User>!");
    CHECK(marked("{{ {'k': u}|tojson }} {{ u.split('s')|last }}") == "<{\"k\": \"User\"}> <er>");
    CHECK(marked("{% set x %}[{{ u }}]{% endset %}{{ x }}{% macro m(y) %}({{ y }}){% endmacro %}{{ m(u) }}") ==
          "[<User>](<User>)");
    CHECK(marked("{{ 'abc' if u == 'User' else u }}") == "abc");
}

TEST_CASE("work without an end is refused") {
    Limits limits;
    limits.steps = 200'000;
    for (const char* source :
         {"{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}{% endfor %}{% endfor %}{% "
          "endfor %}",
          "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
          "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}", "{{ 'x' * 1000000000 }}",
          "{{ [0] * 1000000000 }}",
          "{% set n = namespace(x='ab') %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}",
          "{% set n = namespace(x=[]) %}{% for i in range(10000) %}{% set n.x = [n.x] %}{% endfor %}",
          "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
          "{{ 'a'.ljust(100000000) }}"})
        CHECK_MESSAGE(refusal(source, OrderedJson::object(), limits).substr(0, 3) == "8: ", source);
    CHECK(refusal("{{ range(1000000) }}").substr(0, 3) == "3: ");
    CHECK(refusal("{{ '%100000000d' % 1 }}").substr(0, 3) == "3: ");
    const auto many = [](const std::string& piece, int n) {
        std::string out;
        for (int i = 0; i < n; ++i) out += piece;
        return out;
    };
    CHECK(refusal("{{ " + many("(", 100000) + "1" + many(")", 100000) + " }}").find("nested deeper") !=
          std::string::npos);
    CHECK(refusal("{{ " + many("not ", 100000) + "1 }}").find("nested deeper") != std::string::npos);
    CHECK(refusal("{{ 1" + many(" + 1", 100000) + " }}").find("nested deeper") != std::string::npos);
    CHECK(refusal(many("{% if 1 %}", 100000)).find("nested deeper") != std::string::npos);
    CHECK(refusal("{{ x" + many(".a", 100000) + " }}").find("nested deeper") != std::string::npos);
}

TEST_CASE("what refers to itself goes when the rendering ends") {
    CHECK(text("{% set n = namespace() %}{% set n.self = n %}{% macro m() %}{{ n.v }}{% endmacro %}{% set n.v = 3 %}"
               "{% set n.m = m %}{{ n.self.self.v }}{{ n.m() }}") == "33");
    CHECK(text("{% set n = namespace(p=none) %}{% for i in range(3000) %}{% set n.p = namespace(p=n.p) %}{% endfor %}"
               "{% set n.p = none %}{% for x in [1, 1, 2] %}{{ loop.changed(x, loop) }} {% endfor %}") ==
          "True False True ");
}

}  // namespace
}  // namespace quantplug::test
