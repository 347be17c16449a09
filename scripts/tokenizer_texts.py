"""Varied strings to compare tokenizers with, from a fixed seed: scripts of the world, emoji, digits, white space, code,
look-alikes of special tokens, combining marks, random Unicode, long words, bytes that are not UTF-8."""

import random
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
