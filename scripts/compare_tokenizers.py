#!/usr/bin/env python3
"""Compares quantplug's token ids and decoded text with Hugging Face's tokenizers.

    pip install tokenizers
    scripts/compare_tokenizers.py FOLDER...           # folders that hold a tokenizer.json

Makes varied strings from a fixed seed (scripts of the world, emoji, digits, white space, code, look-alikes of special tokens,
combining marks, random Unicode, long words, bytes that are not UTF-8) and compares, for each folder:

  lines   strings without line breaks, one a line: ids with special tokens as text and as tokens, and with --bos auto;
          the text decoded from those ids, with and without special tokens
  joined  strings with line breaks, joined 25 a text: ids

A folder without a config.json gets a model of zeros to go with its tokenizer, in a temporary folder. Prints how many were
compared and how many differ; exit status 1 if any does.
"""

import argparse
import json
import pathlib
import random
import shlex
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata

RANGES = {  # name: first and last code point of letters of a script
    "latin": (0x41, 0x7A),
    "latin-1": (0xC0, 0xFF),
    "latin-ext": (0x100, 0x24F),
    "ipa": (0x250, 0x2AF),
    "greek": (0x386, 0x3FF),
    "cyrillic": (0x400, 0x52F),
    "armenian": (0x531, 0x587),
    "hebrew": (0x591, 0x5F4),
    "arabic": (0x620, 0x6FF),
    "syriac": (0x710, 0x74F),
    "thaana": (0x780, 0x7B1),
    "nko": (0x7C0, 0x7FA),
    "devanagari": (0x900, 0x97F),
    "bengali": (0x985, 0x9FB),
    "gurmukhi": (0xA05, 0xA75),
    "gujarati": (0xA85, 0xAF1),
    "tamil": (0xB83, 0xBFA),
    "telugu": (0xC05, 0xC7F),
    "kannada": (0xC85, 0xCF2),
    "malayalam": (0xD05, 0xD7F),
    "sinhala": (0xD85, 0xDF4),
    "thai": (0xE01, 0xE5B),
    "lao": (0xE81, 0xEDF),
    "tibetan": (0xF00, 0xFDA),
    "myanmar": (0x1000, 0x109F),
    "georgian": (0x10A0, 0x10FF),
    "jamo": (0x1100, 0x11FF),
    "ethiopic": (0x1200, 0x1399),
    "cherokee": (0x13A0, 0x13FD),
    "khmer": (0x1780, 0x17F9),
    "mongolian": (0x1800, 0x18AA),
    "latin-add": (0x1E00, 0x1EFF),
    "greek-ext": (0x1F00, 0x1FFE),
    "punctuation": (0x2000, 0x206F),
    "superscript": (0x2070, 0x209C),
    "currency": (0x20A0, 0x20C0),
    "letterlike": (0x2100, 0x214F),
    "number-forms": (0x2150, 0x218B),
    "arrows": (0x2190, 0x21FF),
    "math": (0x2200, 0x22FF),
    "enclosed": (0x2460, 0x24FF),
    "box": (0x2500, 0x25FF),
    "dingbats": (0x2600, 0x27BF),
    "kana": (0x3041, 0x30FF),
    "bopomofo": (0x3105, 0x312F),
    "cjk-marks": (0x3000, 0x303F),
    "cjk": (0x4E00, 0x9FFF),
    "cjk-a": (0x3400, 0x4DBF),
    "yi": (0xA000, 0xA48C),
    "vai": (0xA500, 0xA62B),
    "hangul": (0xAC00, 0xD7A3),
    "cjk-compat": (0xF900, 0xFAD9),
    "presentation": (0xFB00, 0xFDFF),
    "fullwidth": (0xFF01, 0xFFEE),
    "gothic": (0x10330, 0x1034A),
    "math-letters": (0x1D400, 0x1D7FF),
    "emoji": (0x1F300, 0x1F64F),
    "emoji-2": (0x1F680, 0x1F6FC),
    "emoji-3": (0x1F900, 0x1F9FF),
    "cjk-b": (0x20000, 0x2A6DF),
}
WORDS = """the quick brown fox jumps over lazy dog don't I'll we've they're it's he'd I'm DON'T WE'RE naïve café über straße Zoë
Привет мир как дела Κόσμος Γειά שלום עולם مرحبا بالعالم سلام नमस्ते दुनिया வணக்கம் สวัสดี ชาวโลก ສະບາຍດີ မင်္ဂလာပါ ជំរាបសួរ გამარჯობა
你好 世界 今天天气 こんにちは 世界 カタカナ 안녕하세요 세계 ሰላም ᏣᎳᎩ Việt Nam tiếng İstanbul ığdır ǅ Ǆ ß ẞ ſ ﬁ ﬂ ﬀ ﬆ Å Ω K ½ ² ① Ⅷ ㍿
tokenizer antidisestablishmentarianism Donaudampfschifffahrtsgesellschaft HTTPServer snake_case camelCase kebab-case""".split()
EMOJI = [
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "👍🏽",
    "🇩🇪",
    "🇯🇵🇺🇸",
    "❤️",
    "1️⃣",
    "🧑🏿‍🚀",
    "🫠",
    "👁️‍🗨️",
    "😀",
    "🤷‍♀️",
    "©️",
    "\U0001fae8",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
]
CODE = [
    "for (int i = 0; i < n; ++i) {",
    "def f(x: int) -> str:",
    "    return x ** 2  # square",
    "\tif err != nil { return nil, err }",
    "SELECT * FROM t WHERE a>=1 AND b<>'x''y';",
    "#include <stdio.h>",
    '<div class="a">&nbsp;</div>',
    "x = [1,2,3][::-1]",
    "https://example.org/a/b?c=d&e=%20f#g",
    "user@example.com",
    "\\frac{1}{2} \\alpha_{i}",
    '{"key": [null, true, 1.5e-10]}',
    "/* comment */ // another",
    "$HOME/.config ~/x ../y C:\\Windows",
    "a&&b||c ?? d?.e",
    "-----BEGIN KEY-----",
    "0xDEADbeef 1_000_000",
]
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_start|",
    "|im_end|>",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<s>",
    "</s>",
    "<unk>",
    "[INST]",
    "[/INST]",
    "<0x0A>",
    "<0xE2>",
    "<pad>",
    "<think>",
    "</think>",
    "<｜begin▁of▁sentence｜>",
    "<｜User｜>",
    "<|start_header_id|>",
    "<META>",
    "<META_START>",
    "<EOT>",
    "\n\nHuman:",
    "\n\nAssistant:",
    "<jupyter_code>",
    "<fim_prefix>",
    "▁",
    "▁▁",
    "Ġ",
    "Ċ",
    "##ing",
    "</w>",
]
SPACE = [
    " ",
    "  ",
    "   ",
    "\t",
    "\t\t",
    "\u00a0",
    "\u3000",
    "\u2003",
    "\u2009",
    "\u202f",
    "\u205f",
    "\u1680",
    "\u180e",
    "\u200b",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\u0085",
    "\u2028",
    "\u2029",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1f",
    "\x00",
    "\x7f",
    "\u00ad",
]
BREAKS = ["\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\n\t\n", "\n\n\n\n"]


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def char(self, low, high):
        while True:
            code = self.random.randint(low, high)
            if not 0xD800 <= code <= 0xDFFF and code not in (10, 13):
                return chr(code)

    def script(self):
        low, high = self.random.choice(list(RANGES.values()))
        words = [
            "".join(self.char(low, high) for _ in range(self.random.randint(1, 12)))
            for _ in range(self.random.randint(1, 8))
        ]
        return self.random.choice([" ", " ", "", "  ", "\u3000"]).join(words)

    def words(self):
        pick = lambda: self.random.choice(WORDS)
        return self.random.choice(["", " ", "  "]) + " ".join(
            self.random.choice([str.lower, str.upper, str.title, str])(pick())
            for _ in range(self.random.randint(1, 20))
        )

    def emoji(self):
        return "".join(self.random.choice(EMOJI + WORDS[:6] + [" "]) for _ in range(self.random.randint(1, 10)))

    def digits(self):
        kinds = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "０１２３４５", "०१२३", "²³¹½¾ⅧⅨ①②㊿", "0123456789.,:-/+%$€"]
        return " ".join(
            "".join(self.random.choice(self.random.choice(kinds)) for _ in range(self.random.randint(1, 15)))
            for _ in range(self.random.randint(1, 5))
        )

    def space(self):
        return "".join(
            (
                self.random.choice(SPACE) * self.random.choice([1, 1, 1, 2, 5, 33])
                if self.random.random() < 0.7
                else self.random.choice(WORDS)
            )
            for _ in range(self.random.randint(1, 12))
        )

    def code(self):
        return self.random.choice(["", "    ", "\t\t", "        "]) + "".join(
            self.random.choice(CODE) + self.random.choice(["", " ", "    "]) for _ in range(self.random.randint(1, 4))
        )

    def special(self):
        return "".join(
            self.random.choice(self.random.choice([SPECIAL, SPECIAL, WORDS, [" ", "  ", ""]]))
            for _ in range(self.random.randint(1, 8))
        )

    def marks(self):
        out = ""
        for _ in range(self.random.randint(1, 12)):
            out += self.random.choice("aeiouAEnc가각qऀक\u0627") + "".join(
                self.char(
                    *self.random.choice(
                        [
                            (0x300, 0x36F),
                            (0x300, 0x36F),
                            (0x591, 0x5BD),
                            (0x64B, 0x65F),
                            (0x93C, 0x94D),
                            (0x1DC0, 0x1DFF),
                            (0x20D0, 0x20F0),
                            (0xE31, 0xE3A),
                            (0x1161, 0x11C2),
                        ]
                    )
                )
                for _ in range(self.random.randint(0, 5))
            )
        return (
            unicodedata.normalize(self.random.choice(["NFC", "NFD", "NFKC", "NFKD"]), out)
            if self.random.random() < 0.4
            else out
        )

    def anything(self):
        # Characters that Python's Unicode tables have: tables of later versions differ from one another.
        out = ""
        while len(out) < self.random.randint(1, 25):
            c = self.char(*self.random.choice([(0, 0x7F), (0, 0x7FF), (0, 0xFFFF), (0x10000, 0x1FFFF), (0, 0x10FFFF)]))
            if unicodedata.category(c) != "Cn":
                out += c
        return out

    def long_word(self):
        kind = self.random.randint(0, 3)
        if kind == 0:
            return self.random.choice("aA0-=.ßж你 ") * self.random.randint(20, 400)
        return "".join(self.random.choice(self.random.choice(WORDS)) for _ in range(self.random.randint(40, 300)))

    def mixed(self):
        return "".join(self.random.choice(self.kinds[:-1])() for _ in range(self.random.randint(1, 3)))

    @property
    def kinds(self):
        return [
            self.script,
            self.script,
            self.words,
            self.words,
            self.emoji,
            self.digits,
            self.space,
            self.code,
            self.special,
            self.marks,
            self.anything,
            self.long_word,
            self.mixed,
        ]

    def line(self):
        return self.random.choice(self.kinds)().replace("\n", " ").replace("\r", " ")

    def broken(self):
        return "".join(
            self.random.choice(self.kinds)() + self.random.choice(BREAKS) for _ in range(self.random.randint(1, 5))
        )

    def not_utf8(self):
        data = bytearray(self.line().encode())
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randint(0, len(data))
            data[at:at] = self.random.choice(
                [
                    b"\x80",
                    b"\xff",
                    b"\xc3",
                    b"\xe2\x82",
                    b"\xf0\x9f\x92",
                    b"\xed\xa0\x80",
                    b"\xc0\xaf",
                    b"\xf4\x90\x80\x80",
                    bytes(self.random.choice([x for x in range(128, 256)]) for _ in range(3)),
                ]
            )
        return bytes(data)


class Program:
    def __init__(self, command, folder):
        self.command, self.folder = shlex.split(command), str(folder)

    def run(self, verb, *arguments):
        done = subprocess.run([*self.command, verb, self.folder, "--json", *arguments], capture_output=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(self.command)} {verb}: {done.stderr.decode(errors='replace')}")
        return [json.loads(line) for line in done.stdout.decode().split("\n") if line.strip()]


def with_model(folder, n_vocab, temp):
    """`folder` if it is a model's; else a folder with its files and the smallest Llama."""
    if (folder / "config.json").exists():
        return folder
    temp.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            (temp / name).symlink_to((folder / name).resolve())
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
                model_type="llama",
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
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    maker = Maker(options.seed)
    lines = [""] + [line for line in (maker.line() for _ in range(options.count)) if line]
    raw = [line.encode() for line in lines] + [
        data for data in (maker.not_utf8() for _ in range(options.count // 20)) if data
    ]
    raw = list(dict.fromkeys(raw))
    texts = [data.decode(errors="replace") for data in raw]
    joined = ["".join(maker.broken() for _ in range(25)) for _ in range(options.joined)]
    config = folder / "tokenizer_config.json"
    explicit_bos = config.exists() and "add_bos_token" in json.loads(config.read_text())

    report = Report()
    with tempfile.TemporaryDirectory() as temp:
        temp = pathlib.Path(temp)
        n_vocab = max(theirs.get_vocab(with_added_tokens=True).values()) + 1
        ours = Program(options.program, with_model(folder, n_vocab, temp / "model"))
        (temp / "lines").write_bytes(b"\n".join(raw) + b"\n")
        for special in ("off", "on"):
            theirs.encode_special_tokens = special == "off"
            for bos in ("off",) if explicit_bos else ("off", "auto"):
                start = time.time()
                expected = [e.ids for e in theirs.encode_batch(texts, add_special_tokens=bos == "auto")]
                their_time = time.time() - start
                start = time.time()
                got = [
                    row["ids"]
                    for row in ours.run(
                        "tokenize", "--lines", "-f", str(temp / "lines"), "--special", special, "--bos", bos
                    )
                ]
                if len(got) != len(expected):
                    sys.exit(f"{folder}: {len(got)} results for {len(expected)} lines")
                for text, a, b in zip(texts, expected, got):
                    report.check(f"special {special}, bos {bos}:", text, a, b)
                if options.verbose:
                    print(
                        f"  lines, special {special}, bos {bos}: {their_time:.2f} s theirs, {time.time() - start:.2f} s ours with process and JSON"
                    )
            (temp / "ids").write_text("\n".join(",".join(map(str, ids)) for ids in expected if ids) + "\n")
            decodable = [(text, ids) for text, ids in zip(texts, expected) if ids]
            got = [
                row["text"] for row in ours.run("detokenize", "--lines", "-f", str(temp / "ids"), "--special", special)
            ]
            if len(got) != len(decodable):
                sys.exit(f"{folder}: {len(got)} results for {len(decodable)} lines of ids")
            for (text, ids), b in zip(decodable, got):
                report.check(
                    f"decode, special {special}:", text, theirs.decode(ids, skip_special_tokens=special == "off"), b
                )
        for number, text in enumerate(joined):
            special = "on" if number % 2 else "off"
            theirs.encode_special_tokens = special == "off"
            (temp / "joined").write_bytes(text.encode())
            got = ours.run("tokenize", "-f", str(temp / "joined"), "--special", special, "--bos", "off")[0]["ids"]
            report.check(f"joined, special {special}:", text, theirs.encode(text, add_special_tokens=False).ids, got)
    print(
        f"{folder}: {len(texts)} lines and {len(joined)} texts of 25 strings with line breaks; {report.compared} comparisons, {report.different} differ",
        flush=True,
    )
    return len(texts) + 25 * len(joined), report.different


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
    parser.add_argument("--verbose", action="store_true", help="times")
    options = parser.parse_args()
    strings = different = 0
    for folder in options.folders:
        a, b = compare(folder, options)
        strings, different = strings + a, different + b
    print(f"total: {len(options.folders)} vocabularies, {strings} strings; {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
