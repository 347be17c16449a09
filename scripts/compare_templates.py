#!/usr/bin/env python3
"""Renders chat templates and generated small templates through Python's jinja2, with the settings of Hugging Face's
transformers, and through this project's engine, and compares the texts byte for byte; what one raises the other must raise.

    cmake --build build/release --target render_template
    python3 scripts/compare_templates.py --program build/release/tests/render_template FOLDER... [--fuzz 5000]

FOLDERs hold *.jinja files (for example models/templates of ggml-org/llama.cpp). Needs transformers (and jinja2)."""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import time

from template_generator import VARIABLES, Generator
from transformers.utils.chat_template_utils import _compile_jinja_template

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Weather at a place, "now" & <later>',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Näme of the city"},
                "days": {"type": "integer", "minimum": 1, "default": 3},
                "units": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "scale": {"type": "number", "default": 0.5},
                "places": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["city"],
        },
        "return": {"type": "string", "description": "text"},
    },
}
OTHER_TOOL = {
    "type": "function",
    "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}


def call(name, arguments, call_id="abcdefghi"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def conversations():
    user = {"role": "user", "content": "What is 2 + 2?"}
    yield "one turn", [user], {}
    yield "system", [{"role": "system", "content": "Be brief.\n"}, user], {}
    yield "many turns", [
        {"role": "system", "content": "You are\n  a poet."},
        user,
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "  And doubled?  "},
        {"role": "assistant", "content": " 8\n"},
        {"role": "user", "content": "Thanks"},
    ], {}
    yield "no generation prompt", [user, {"role": "assistant", "content": "4"}], {"add_generation_prompt": False}
    yield "unicode", [
        {"role": "user", "content": "Grüße, 世界 🙂 <b>&amp;</b> {{ x }} \"q\" 'q' \\n \u2028"},
        {"role": "assistant", "content": "É\u00a0"},
        {"role": "user", "content": "ß\tİ"},
    ], {}
    yield "empty", [{"role": "system", "content": ""}, {"role": "user", "content": ""}], {}
    yield "parts", [
        {"role": "user", "content": [{"type": "text", "text": "First."}, {"type": "text", "text": "Second."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Answer"}]},
        {"role": "user", "content": [{"type": "text", "text": "More"}]},
    ], {}
    yield "tools", [{"role": "system", "content": "Use tools."}, user], {"tools": [TOOL, OTHER_TOOL]}
    yield "tool calls", [
        user,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call("get_weather", {"city": "Zürich", "days": 2, "f": 1.0})],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": '{"temperature": 21.5}'},
        {"role": "assistant", "content": "It is 21.5 degrees."},
        {"role": "user", "content": "And now?"},
    ], {"tools": [TOOL]}
    yield "several calls", [
        {"role": "system", "content": "S"},
        user,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                call("get_weather", {"city": "A", "deep": {"list": [1, None, True, "x"]}}, "aaaaaaaaa"),
                call("now", {}, "bbbbbbbbb"),
            ],
        },
        {"role": "tool", "tool_call_id": "aaaaaaaaa", "name": "get_weather", "content": "sun"},
        {"role": "tool", "tool_call_id": "bbbbbbbbb", "name": "now", "content": "12:00"},
    ], {"tools": [TOOL, OTHER_TOOL]}
    yield "arguments as text", [
        user,
        {"role": "assistant", "content": "One moment", "tool_calls": [call("now", '{"a": 1}')]},
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "now", "content": "12:00"},
    ], {"tools": [TOOL, OTHER_TOOL]}
    yield "reasoning", [
        user,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4", "reasoning_content": "hm"},
        {"role": "user", "content": "Why?"},
    ], {"enable_thinking": False}
    yield "wrong order", [
        {"role": "assistant", "content": "Hello"},
        user,
        user,
        {"role": "system", "content": "late"},
    ], {}
    yield "no messages", [], {}
    yield "documents", [user], {"documents": [{"title": "T", "text": "Some\ntext"}], "enable_thinking": True}


class Engine:
    def __init__(self, program):
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def render(self, template, variables, now):
        self.process.stdin.write(json.dumps({"template": template, "variables": variables, "now": now}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the program ended (status {self.process.wait()}) at the template:\n{template}")
        return json.loads(line)


def reference(template, variables):
    try:
        return {"text": _compile_jinja_template(template).render(**variables)}
    except Exception as error:  # whatever a template raises
        return {"error": f"{type(error).__name__}: {error}"}


def shown(result, at=0):
    """The result, or its text around the place `at`."""
    return (
        "raises " + result["error"]
        if "error" in result
        else f"[{at}] " + repr(result["text"][max(0, at - 60) : at + 60])
    )


class Table:
    def __init__(self, verbose):
        self.equal = self.raised = 0
        self.different = []
        self.verbose = verbose

    def add(self, where, template, expected, got):
        if "error" in expected and "error" in got:
            self.raised += 1
            if self.verbose:
                print(f"{where}\n  Python {shown(expected)}\n  here   {shown(got)}")
        elif expected == got:
            self.equal += 1
        else:
            self.different.append(where)
            if len(self.different) <= 20:
                at = 0
                if "text" in expected and "text" in got:
                    pairs = zip(expected["text"], got["text"])
                    at = next(
                        (i for i, (x, y) in enumerate(pairs) if x != y), min(len(expected["text"]), len(got["text"]))
                    )
                print(f"different: {where}\n  Python {shown(expected, at)}\n  here   {shown(got, at)}")

    def line(self, what):
        return (
            f"{what}: {self.equal + self.raised + len(self.different)} compared, {self.equal} texts equal, "
            f"{self.raised} raised by both, {len(self.different)} different"
        )


def compare_files(folders, engine, verbose):
    table = Table(verbose)
    files = sorted({p for folder in folders for p in pathlib.Path(folder).rglob("*.jinja")})
    n_conversations = sum(1 for _ in conversations())
    for path in files:
        template = path.read_text(encoding="utf-8")
        for name, messages, more in conversations():
            variables = {
                "messages": messages,
                "tools": None,
                "documents": None,
                "add_generation_prompt": True,
                "bos_token": "<s>",
                "eos_token": "</s>",
                "pad_token": "<pad>",
                "unk_token": "<unk>",
            } | more
            expected = reference(template, json.loads(json.dumps(variables)))
            table.add(
                f"{path.parent.name}/{path.name} x {name}",
                template,
                expected,
                engine.render(template, variables, int(time.time())),
            )
    print(table.line(f"{len(files)} templates x {n_conversations} conversations"))
    return table


def comparable(expected):
    """Addresses of Python objects, and what only autoescaping's Markup does, say nothing about a template."""
    return not (
        "text" in expected
        and any(
            s in expected["text"]
            for s in (
                " object at 0x",
                "<function",
                "<built-in",
                "<class ",
                "<bound method",
                "&lt;Macro",
                "<Macro",
                "<Namespace",
                "<LoopContext",
                "jinja2.",
                "Markup(",
                "<generator",
                "Cycler",
            )
        )
    )


def fuzz(n, seed, engine, verbose):
    table = Table(verbose)
    generator = Generator(seed)
    skipped = 0
    while table.equal + table.raised + len(table.different) < n:
        template = generator.template()
        expected = reference(template, json.loads(json.dumps(VARIABLES)))
        got = engine.render(template, VARIABLES, 0)
        if not comparable(expected) or "is no real number" in got.get("error", ""):
            skipped += 1
            continue
        table.add(repr(template), template, expected, got)
    print(
        table.line(f"generated templates, seed {seed}")
        + f" ({skipped} left out: they print addresses or complex numbers)"
    )
    return table


def write_cases(path, n, seed):
    """Templates with what Python makes of them (null: it raises), for the tests."""
    generator = Generator(seed)
    cases = []
    while len(cases) < n:
        template = generator.template()
        expected = reference(template, json.loads(json.dumps(VARIABLES)))
        if (
            comparable(expected)
            and ("text" in expected or len(cases) % 4 == 0)
            and len(template) < 400
            and "**" not in template
        ):
            cases.append([template, expected.get("text")])
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    pathlib.Path(path).write_text(
        f'{{"variables": {json.dumps(VARIABLES, ensure_ascii=False)},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--program", help="render_template, unless --write")
    parser.add_argument("--fuzz", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--verbose", action="store_true", help="print what both raise")
    parser.add_argument(
        "--write", metavar="FILE", help="write that many generated templates with Python's texts, for tests/data/chat"
    )
    options = parser.parse_args()
    if options.write:
        return write_cases(options.write, options.fuzz, options.seed)
    engine = Engine(options.program)
    tables = [compare_files(options.folders, engine, options.verbose)] if options.folders else []
    if options.fuzz:
        tables.append(fuzz(options.fuzz, options.seed, engine, options.verbose))
    return 1 if any(table.different for table in tables) else 0


if __name__ == "__main__":
    sys.exit(main())
