"""Random small templates, for compare_templates.py."""

import random

VARIABLES = {
    "messages": [
        {"role": "user", "content": "Hi <b> there"},
        {"role": "assistant", "content": "  Yes.\n"},
        {"role": "tool", "content": None, "n": 3},
    ],
    "s": "Hello World  ",
    "t": "a,b,,c",
    "u": "äß Ünï 日本 🙂",
    "e": "",
    "i": 7,
    "z": 0,
    "neg": -3,
    "f": 2.5,
    "g": 1e-07,
    "big": 1e17,
    "yes": True,
    "no": False,
    "nil": None,
    "l": [3, 1, 2],
    "w": ["b", "A", "c", "a"],
    "m": [1, "x", None, 2.0, [1, "it's"]],
    "d": {"b": 1, "a": {"k": [1, 2]}, "items": 5, "q": 'it\'s "x"'},
    "empty": [],
    "ed": {},
    "lines": "one\n  two\r\n\nthree\n",
}


class Generator:
    """Small templates: expressions of a few levels over VARIABLES, statements, white space, tags of every kind."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, *choices):
        return self.random.choice(choices)

    def string(self):
        return self.pick(
            "''",
            "' '",
            "'a'",
            '"it\'s"',
            "'x y'",
            "'\\n'",
            "'l'",
            "','",
            "'\\u00e9'",
            "'content'",
            "'%s-%s'",
            "'{}'",
            "'A' 'b'",
        )

    def atom(self):
        return self.pick(
            *VARIABLES,
            self.string(),
            self.string(),
            str(self.random.randint(-3, 12)),
            "1.5",
            "0.1",
            "1e3",
            "true",
            "none",
            "missing",
            "[]",
            "{}",
            "(1, 2)",
            "[1, 'a', none]",
            "{'a': 1, 'b': [2]}",
            "messages[0]",
            "messages[-1].content",
            "d.a",
            "range(3)",
            "('x',)",
            "ns.v",
            "messages[5]",
            "d['items']",
            "namespace(a=1).a",
        )

    def number(self):
        return self.pick("i", "z", "neg", "f", "2", "3", "0", "-1", "l|length", "1.5", "yes", "10")

    def text(self, depth):
        return (
            self.pick("s", "t", "u", "lines", "messages[0].content", self.string(), self.string())
            if depth <= 0
            else self.pick(
                f"{self.text(depth - 1)}{self.method()}",
                f"{self.text(depth - 1)}|{self.text_filter()}",
                f"({self.text(depth - 1)} ~ {self.expression(depth - 1)})",
                f"({self.text(depth - 1)} + {self.text(depth - 1)})",
                f"{self.text(depth - 1)}[{self.slice()}]",
            )
        )

    def slice(self):
        n = lambda: self.pick("", "", "1", "-1", "2", "-2", "0", "10")
        return self.pick(f"{n()}:{n()}", f"{n()}:{n()}:{self.pick('1', '2', '-1', '-2', '')}", f"{n()}:")

    def method(self):
        s = self.string
        return "." + self.pick(
            "strip()",
            "lstrip()",
            "rstrip()",
            f"strip({s()})",
            f"lstrip({s()})",
            "upper()",
            "lower()",
            "title()",
            "capitalize()",
            f"split({s()})[0]",
            "split()|join('|')",
            f"split({s()}, 1)|tojson",
            f"rsplit({s()}, 1)|list",
            f"replace({s()}, {s()})",
            f"replace({s()}, {s()}, 1)",
            f"startswith({s()})",
            f"endswith({s()})",
            f"find({s()})",
            f"count({s()})",
            f"join(w)",
            "splitlines()",
            f"partition({s()})",
            "format(1, 'b')",
            "isdigit()",
            "isalpha()",
            "isupper()",
            "islower()",
            "swapcase()",
            f"removeprefix({s()})",
            f"removesuffix({s()})",
            f"rfind({s()})",
            f"index({s()})",
            "zfill(5)",
            "ljust(8) ~ '|'",
            "center(9, '*')",
        )

    def text_filter(self):
        s = self.string
        return self.pick(
            "upper",
            "lower",
            "title",
            "capitalize",
            "trim",
            f"trim({s()})",
            "length",
            f"replace({s()}, {s()})",
            "list",
            "first",
            "last",
            "reverse",
            "indent",
            "indent(2, true)",
            "indent(2, false, true)",
            "indent('> ')",
            "string",
            "tojson",
            "int",
            "float",
            "int(5)",
            "wordcount",
            "safe",
            "default('z')",
            "default('z', true)",
            "d",
            "escape",
            "truncate(5)",
            "truncate(5, true, '.', 0)",
            "center(10)",
            "unique|list",
            "batch(2)|list",
            "map('upper')|list",
            "select('in', 'aeiou')|list",
            "count",
            "e",
            "format(1, 2)",
            "sort|join",
            "items|list",
            "abs",
            "round",
        )

    def list_filter(self):
        return self.pick(
            "list",
            "first",
            "last",
            "length",
            "join",
            "join(', ')",
            "sort",
            "sort(reverse=true)",
            "sort(case_sensitive=true)",
            "unique|list",
            "reverse|list",
            "map('string')|list",
            "map('upper')|join('-')",
            "select|list",
            "reject|list",
            "select('number')|list",
            "reject('none')|list",
            "select('odd')|list",
            "map(attribute='role')|list",
            "map(attribute='n', default=0)|list",
            "selectattr('role', 'equalto', 'user')|list",
            "selectattr('n')|list",
            "selectattr('n', 'defined')|list",
            "rejectattr('role', 'in', ['user', 'tool'])|map(attribute='content')|list",
            "batch(2)|list",
            "batch(2, 'x')|list",
            "slice(2)|list",
            "slice(2, 'x')|list",
            "sum",
            "min",
            "max",
            "tojson",
            "tojson(indent=2)",
            "tojson(indent=4, sort_keys=true)",
            "tojson(separators=(',', ':'))",
            "string",
            "groupby('role')|list|length",
            "sum(attribute='n')",
            "dictsort",
            "items|list",
            "map('length')|list",
            "map('default', 'q')|list",
            "select('string')|first",
            "tojson(ensure_ascii=true)",
            "dictsort(by='value')",
            "dictsort(reverse=true)",
            "default([])",
            "random_filter_that_is_not" if self.random.random() < 0.05 else "list",
        )

    def sequence(self):
        return self.pick(
            "l",
            "w",
            "m",
            "empty",
            "messages",
            "d",
            "ed",
            "d.items()",
            "d.values()|list",
            "d.keys()",
            "range(5)",
            "s",
            "u",
            "[3, 1.5, true]",
            "(1, 2, 3)",
            "messages[1:]",
            "t.split(',')",
            "missing",
            "d|dictsort",
        )

    def test(self):
        return self.pick(
            "defined",
            "undefined",
            "none",
            "string",
            "mapping",
            "iterable",
            "sequence",
            "number",
            "integer",
            "float",
            "boolean",
            "true",
            "false",
            "odd",
            "even",
            "divisibleby 3",
            "divisibleby(2)",
            "equalto 7",
            "eq('a')",
            "in l",
            "in [1, 'a']",
            "sameas true",
            "lower",
            "upper",
            "callable",
            "gt 2",
            "lt(3)",
            "ne none",
            "not defined",
            "not none",
            "not string",
        )

    def expression(self, depth):
        if depth <= 0:
            return self.atom()
        e = lambda: self.expression(depth - 1)
        kind = self.random.randrange(17)
        if kind == 0:
            return f"{e()} {self.pick('+', '-', '*', '/', '//', '%', '**', '~')} {e()}"
        if kind == 1:
            return f"{self.number()} {self.pick('+', '-', '*', '/', '//', '%', '**')} {self.number()} {self.pick('+', '-', '*', '/', '//', '%')} {self.number()}"
        if kind == 2:
            return f"{e()} {self.pick('==', '!=', '<', '<=', '>', '>=', 'in', 'not in')} {e()}"
        if kind == 3:
            return f"({e()} {self.pick('and', 'or')} {e()})"
        if kind == 4:
            return f"not {e()}"
        if kind == 5:
            return f"({e()} if {e()} else {e()})"
        if kind == 6:
            return f"({e()} if {e()})"
        if kind == 7:
            return f"{self.text(2)}"
        if kind == 8:
            return f"{self.sequence()}|{self.list_filter()}"
        if kind == 9:
            return f"({e()}) is {self.test()}"
        if kind == 10:
            return f"{self.sequence()}[{self.pick('0', '-1', '5', self.slice(), self.slice(), repr('role'))}]"
        if kind == 11:
            return f"[{e()}, {e()}]"
        if kind == 12:
            return f"{{{self.string()}: {e()}, 'k': {e()}}}"
        if kind == 13:
            return f"({e()})|{self.pick(self.text_filter(), self.list_filter())}"
        if kind == 14:
            return f"{self.number()} {self.pick('<', '<=', '==')} {self.number()} {self.pick('<', '>', '!=')} {self.number()}"
        if kind == 15:
            return self.pick(
                "'%s and %d' % ('a', i)",
                "'%5.2f|%-5s|%05d|%x' % (f, s, i, i)",
                "'{:>5}|{:<5}|{:^5}|{:.2f}|{!r}'.format(i, s, e, f, t)",
                "'%s' % l",
                "'%(a)s' % {'a': f}",
                "'{a} {b[a]}'.format(a=1, b=d)",
                "d.get('a')",
                "d.get('zz', 3)",
                "d.items()|list",
                "-i",
                "+f",
                "-i|abs",
                "messages|length",
                "(f, i)|sum",
                "2 ** 3 ** 2",
                "(i / 2)|round(1)",
                "(f * 1.1)|round(2, 'floor')",
                "'7.9'|int",
                "'x'|int(3)",
                "'0x1f'|int(0, 16)",
                "'1e3'|float",
                "g",
                "big",
                "1/3",
                "100000000000000000.0",
                "1e16",
                "0.1 + 0.2",
                "123456.789e3",
                "dict(a=1, b=2)",
                "dict([('x', 1)])",
                "namespace(a=1, b='x')['b']",
                "range(10, 0, -3)|list",
                "range(2)",
                "d.keys()",
                "d.values()",
                "'a' in d",
                "nil is none",
                "w|map('upper')|select('in', ['A', 'B'])|list",
                "'%.3e|%g|%s' % (f, g, big)",
            )
        return self.atom()

    def space(self):
        return self.pick("", "", " ", "\n", "  \n", "\n  ", "x", "x\n", " y ", "\t", "\r\n")

    def block(self, content):
        return (
            "{%"
            + self.pick("", "", "-", "+")
            + self.pick(" ", "", "\n ")
            + content
            + self.pick(" ", "")
            + self.pick("", "", "-", "+")
            + "%}"
        )

    def output(self, depth):
        return "{{" + self.pick("", "", "-", "+") + " " + self.expression(depth) + " " + self.pick("", "", "-") + "}}"

    def body(self, depth):
        return "".join(self.space() + self.statement(depth) for _ in range(self.random.randint(1, 2))) + self.space()

    def statement(self, depth):
        if depth <= 0:
            return self.output(2)
        b, e = lambda: self.body(depth - 1), lambda: self.expression(1)
        kind = self.random.randrange(16)
        if kind == 0:
            return (
                self.block(f"if {e()}")
                + b()
                + (self.block(f"elif {e()}") + b() if self.random.random() < 0.3 else "")
                + (self.block("else") + b() if self.random.random() < 0.5 else "")
                + self.block("endif")
            )
        if kind in (1, 2):
            head = self.pick(
                f"for x in {self.sequence()}",
                f"for x in {self.sequence()} if x",
                "for k, v in d.items()",
                "for x in messages if x.role != 'user'",
                "for k, v in d|items",
                f"for x in {e()}",
            )
            name = "k" if "k, v" in head else "x"
            inner = (
                "{{ "
                + self.pick(
                    name,
                    "loop.index",
                    "loop.index0",
                    "loop.last",
                    "loop.first",
                    "loop.length",
                    "loop.revindex",
                    f"{name} ~ loop.previtem",
                    f"{name} ~ loop.nextitem",
                    "loop.cycle('a', 'b')",
                    f"loop.changed({name})",
                    "loop.depth",
                    "v",
                )
                + " }}"
            )
            extra = self.pick(
                "",
                "",
                self.block("if loop.index > 2") + self.block(self.pick("break", "continue")) + self.block("endif"),
                self.block("set i = loop.index"),
                self.block("set ns.v = ns.v ~ loop.index"),
            )
            return (
                self.block(head)
                + inner
                + extra
                + b()
                + (self.block("else") + b() if self.random.random() < 0.3 else "")
                + self.block("endfor")
            )
        if kind == 3:
            return self.block(f"set {self.pick('q', 'i', 's')} = {e()}") + "{{ q }}{{ i }}"
        if kind == 4:
            return self.block("set a, b = " + self.pick("1, 2", "(1, l)", "l", "'xy'", "d", "1")) + "{{ a }}{{ b }}"
        if kind == 5:
            return (
                self.block("set q" + self.pick("", " | upper", "|trim|replace('a', 'b')"))
                + b()
                + self.block("endset")
                + "[{{ q }}]"
            )
        if kind == 6:
            return (
                self.block("macro mf(x, y=" + self.pick("1", "x", "i", "none") + ")")
                + "{{ x }}/{{ y }}"
                + self.pick("", "{{ caller() }}", "{{ varargs }}", "{{ kwargs }}", "{{ caller is defined }}")
                + b()
                + self.block("endmacro")
                + "{{ mf("
                + self.pick("1", "1, 2", "y=3", "1, 2, 3", "x=1, z=2", "*l", "**{'x': 5}", "")
                + ") }}"
            )
        if kind == 7:
            return (
                self.block("macro mg(x)")
                + "<{{ caller(x) }}>"
                + self.block("endmacro")
                + self.block("call" + self.pick("(c)", "(c, h=4)", "") + " mg(" + self.pick("1", "s") + ")")
                + "{{ c }}"
                + b()
                + self.block("endcall")
            )
        if kind == 8:
            return "{#" + self.pick("", "-", "+") + " comment \n" + self.pick("", "-", "+") + "#}"
        if kind == 9:
            return self.block("raw") + self.space() + "{{ x }} {% if %}" + self.space() + self.block("endraw")
        if kind == 10:
            return (
                self.block("with " + self.pick("q = 1", "q = i, i = 2", ""))
                + "{{ q }}{{ i }}"
                + b()
                + self.block("endwith")
            )
        if kind == 11:
            return (
                self.block("filter " + self.pick("upper", "trim", "replace('a', 'x')|upper", "indent(2)"))
                + b()
                + self.block("endfilter")
            )
        if kind == 12:
            return (
                self.block("for x in [1, [2, [3]]] recursive")
                + "{{ loop.depth }}{{ loop(x) if x is iterable else x }}"
                + self.block("endfor")
            )
        if kind == 13:
            return self.block("generation") + b() + self.block("endgeneration")
        if kind == 14:
            return self.block("set ns.v = " + e()) + "{{ ns.v }}"
        return self.output(3)

    def template(self):
        kind = self.random.random()
        if kind < 0.5:
            return "{{ " + self.expression(3) + " }}"
        return "{% set ns = namespace(v=0) %}" + self.body(3) + self.pick("", "\n", "\n\n", " \n")
