#!/usr/bin/env python3
"""Compares quantplug's token ids and decoded text with the reference libraries (tokenizer_references.py).

    pip install tokenizers sentencepiece tiktoken mistral-common
    scripts/compare_tokenizers.py FOLDER...           # folders that hold a tokenizer
    scripts/compare_tokenizers.py --speed FILE FOLDER...

Makes varied strings from a fixed seed (tokenizer_texts.py) and compares, for each folder:

  lines   strings without line breaks, one a line: ids with special tokens as text and as tokens, and with --bos auto;
          the text decoded from those ids, with and without special tokens
  joined  strings with line breaks, joined 25 a text: ids

A folder without weights gets a model of zeros to go with its tokenizer, in a temporary folder. Prints how many were
compared and how many differ; exit status 1 if any does. --speed prints MB/s of the reference library on one thread for a
text and of the program for 1 and 9 copies of it, their difference being free of start and load.
"""

import argparse
import json
import pathlib
import os
import shlex
import struct
import subprocess
import sys
import tempfile
import time

from tokenizer_references import reference
from tokenizer_texts import Maker


class Program:
    def __init__(self, command, folder):
        self.command, self.folder = shlex.split(command), str(folder)

    def run(self, verb, *arguments):
        done = subprocess.run([*self.command, verb, self.folder, "--json", *arguments], capture_output=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(self.command)} {verb}: {done.stderr.decode(errors='replace')}")
        return [json.loads(line) for line in done.stdout.decode().split("\n") if line.strip()]


def with_model(folder, n_vocab, temp):
    """`folder` if it has weights; else a folder with its files and the smallest Llama."""
    if any(folder.glob("*.safetensors")):
        return folder
    temp.mkdir()
    for name in (
        "tokenizer.json",
        "tokenizer.model",
        "tekken.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ):
        if (folder / name).exists():
            (temp / name).symlink_to((folder / name).resolve())
    for path in folder.glob("*.tiktoken"):
        (temp / path.name).symlink_to(path.resolve())
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else {}
    hidden = 64
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": [n_vocab, hidden],
        "model.norm.weight": [hidden],
        layer + "input_layernorm.weight": [hidden],
        layer + "post_attention_layernorm.weight": [hidden],
    }
    shapes |= {
        layer + name + ".weight": [hidden, hidden]
        for name in (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        )
    }
    header, size = {}, 0
    for name, shape in shapes.items():
        end = size + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [size, end]}
        size = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(temp / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + size)
    (temp / "config.json").write_text(
        json.dumps(
            dict(
                architectures=["LlamaForCausalLM"],
                model_type=config.get("model_type", "llama"),
                hidden_size=hidden,
                intermediate_size=hidden,
                num_hidden_layers=1,
                num_attention_heads=1,
                num_key_value_heads=1,
                vocab_size=n_vocab,
                max_position_embeddings=512,
                rms_norm_eps=1e-5,
                rope_theta=10000.0,
                hidden_act="silu",
                tie_word_embeddings=True,
                torch_dtype="float16",
            )
        )
    )
    return temp


class Report:
    def __init__(self):
        self.compared = self.different = 0

    def check(self, name, text, expected, got):
        self.compared += 1
        if expected != got:
            self.different += 1
            if self.different <= 5:
                print(f"  {name} {text!r}\n    expected {expected!r}\n    got      {got!r}")


def compare(folder, options):
    theirs = reference(folder)
    maker = Maker(options.seed)
    lines = [""] + [line for line in (maker.line() for _ in range(options.count)) if line]
    raw = [line.encode() for line in lines] + [
        data for data in (maker.not_utf8() for _ in range(options.count // 20)) if data
    ]
    raw = list(dict.fromkeys(raw))
    texts = [data.decode(errors="replace") for data in raw]
    joined = ["".join(maker.broken() for _ in range(25)) for _ in range(options.joined)]
    switch = lambda on: "on" if on else "off"

    report = Report()
    with tempfile.TemporaryDirectory() as temp:
        temp = pathlib.Path(temp)
        ours = Program(options.program, with_model(folder, theirs.n_vocab, temp / "model"))
        (temp / "lines").write_bytes(b"\n".join(raw) + b"\n")
        for special, bos in theirs.modes:
            name = f"special {switch(special)}, bos {'auto' if bos else 'off'}:"
            flags = ("--special", switch(special), "--bos", "auto" if bos else "off")
            expected = theirs.encode(texts, special, bos)
            got = [row["ids"] for row in ours.run("tokenize", "--lines", "-f", str(temp / "lines"), *flags)]
            if len(got) != len(expected):
                sys.exit(f"{folder}: {len(got)} results for {len(expected)} lines")
            for text, a, b in zip(texts, expected, got):
                report.check(name, text, a, b)
            (temp / "ids").write_text("\n".join(",".join(map(str, ids)) for ids in expected if ids) + "\n")
            decodable = [(text, ids) for text, ids in zip(texts, expected) if ids]
            got = ours.run("detokenize", "--lines", "-f", str(temp / "ids"), "--special", switch(special))
            if len(got) != len(decodable):
                sys.exit(f"{folder}: {len(got)} results for {len(decodable)} lines of ids")
            for (text, ids), row in zip(decodable, got):
                report.check("decode, " + name, text, theirs.decode(ids, special), row["text"])
        for number, text in enumerate(joined):
            special = theirs.modes[number % len(theirs.modes)][0]
            (temp / "joined").write_bytes(text.encode())
            flags = ("--special", switch(special), "--bos", "off")
            got = ours.run("tokenize", "-f", str(temp / "joined"), *flags)[0]["ids"]
            report.check(f"joined, special {switch(special)}:", text, theirs.encode([text], special, False)[0], got)
    print(
        f"{folder} ({theirs.name}): {len(texts)} lines and {len(joined)} texts of 25 strings with line breaks; "
        f"{report.compared} comparisons, {report.different} differ",
        flush=True,
    )
    return len(texts) + 25 * len(joined), report.different


def speed(folder, options):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    theirs = reference(folder)
    text = options.speed.read_text()
    size = len(text.encode()) / 1e6

    def seconds(run):
        start = time.time()
        run()
        return time.time() - start

    first = seconds(lambda: theirs.encode([text], False, False))
    again = seconds(lambda: theirs.encode([text], False, False))
    with tempfile.TemporaryDirectory() as temp:
        temp = pathlib.Path(temp)
        ours = Program(options.program, with_model(folder, theirs.n_vocab, temp / "model"))
        times = []
        for copies in (1, 9):
            (temp / "text").write_text(text * copies)
            run = lambda: ours.run("tokenize", "-f", str(temp / "text"), "--special", "off", "--bos", "off")
            times.append(min(seconds(run) for _ in range(2)))
    print(
        f"{folder}: {theirs.name} {size / first:.1f} MB/s, again {size / again:.1f} MB/s; "
        f"quantplug {8 * size / (times[1] - times[0]):.1f} MB/s with the printing of its ids",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument(
        "--program", default=str(pathlib.Path(__file__).resolve().parent.parent / "build/release/bin/quantplug")
    )
    parser.add_argument("--count", type=int, default=12000, help="lines (default %(default)s)")
    parser.add_argument(
        "--joined", type=int, default=40, help="texts with line breaks, each a run of the program (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=pathlib.Path, metavar="FILE", help="measure instead, with this UTF-8 text")
    options = parser.parse_args()
    if options.speed:
        for folder in options.folders:
            speed(folder, options)
        return 0
    strings = different = 0
    for folder in options.folders:
        a, b = compare(folder, options)
        strings, different = strings + a, different + b
    print(f"total: {len(options.folders)} vocabularies, {strings} strings; {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
