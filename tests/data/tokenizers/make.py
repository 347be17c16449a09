#!/usr/bin/env python3
"""Makes the files of this folder with Hugging Face's tokenizers 0.23, sentencepiece 0.2, tiktoken 0.14 and mistral-common 1.13
(pip install tokenizers sentencepiece tiktoken mistral-common protobuf).

byte_level/tokenizer.json     byte-level BPE in Llama 3's form, trained on CORPUS
byte_fallback/tokenizer.json  SentencePiece-style BPE with byte fallback in Llama 2's form
sentencepiece/tokenizer.model the SentencePiece model that byte_fallback was made from
unigram/tokenizer.json        Unigram with byte fallback, Precompiled and Metaspace in T5's form
tiktoken/tokenizer.model      the words of byte_level as tiktoken text, a Llama 3 by its config.json
tekken/tekken.json            the same as Mistral writes them
*/cases.json                  texts, and the ids and texts that those libraries give
parts.json                    normalizers, pre_tokenizers and decoders alone: objects, inputs and results
"""

import base64
import io
import json
import pathlib
import random
import tempfile

import sentencepiece
import tiktoken
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "the tokens of a text are the parts of the text",
    "don't we'll it's they're",
    "naïve café über straße",
    "Привет мир, как дела",
    "你好世界 你好",
    "for (int i = 0; i < n; ++i) { x += 10; }",
    "1234 567 89 0",
    "    indented\n\tline\n\n",
    "hello hello world world's end",
    "🙂🙂 👍🏽",
] * 4
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = [
    "",
    " ",
    "a",
    "Hello world",
    "  the  quick   brown ",
    "DON'T don't IT'S",
    "1234567890 12 ٣٤٥ Ⅷ½",
    "naïve cafe\u0301 ÅÅ",
    "Привет, мир!",
    "你好，世界。你好",
    "สวัสดีชาวโลก नमस्ते",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈👍🏽\U0001fae8 \U0001fa77",
    "a\tb\n\nc\r\n d\u00a0e\u3000f\u180eg\u200bh\u2028i\x85j\x0bk",
    "<s>the</s> <tag>dog <tag> x",
    "foo bar foobar foo",
    "  foo  ",
    "<0x0A> <0xE2>",
    "▁▁ the ▁x",
    "Ġthe Ċ",
    "\x00\x01\x7f\xad",
    "if (x<=10){y='q';}  // end\n",
    "e\u0301\u0327\u0334 q\u0307\u0323",
    "ﬁ Ⅷ ㍿ ½",
    "x" * 70,
    "ab" * 60,
    "the " * 30,
    "\ufeffbom",
    "\u1dfa\u0897 mark",
    "ſ'S K",
    "ǅ ß ẞ İ",
    "\uac00\u11a7\u11a8 \u1100\u1161\u11a7\u11a8",
]


def write(path, value):
    path.parent.mkdir(exist_ok=True)
    if isinstance(value, list):
        path.write_text("[\n" + ",\n".join(json.dumps(one) for one in value) + "\n]\n")
    else:
        path.write_text(
            "{\n"
            + ",\n".join(
                json.dumps(key)
                + ": "
                + (
                    json.dumps(one)
                    if not isinstance(one, list)
                    else "[\n" + ",\n".join(json.dumps(x) for x in one) + "\n]"
                )
                for key, one in value.items()
            )
            + "\n}\n"
        )


def cases(whole, as_text=None):
    """`as_text` encodes where special tokens are to stay text."""
    out = []
    for text in TEXTS:
        for special in (False, True):
            tokenizer = whole if special else as_text or whole
            tokenizer.encode_special_tokens = not special
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            out.append(
                {
                    "text": text,
                    "special": special,
                    "ids": ids,
                    "auto_ids": tokenizer.encode(text).ids,
                    "decoded": whole.decode(ids, skip_special_tokens=False),
                    "auto_decoded": whole.decode(tokenizer.encode(text).ids, skip_special_tokens=not special),
                }
            )
    return out


def byte_level():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    t.add_special_tokens(
        [AddedToken("<s>", special=True, normalized=False), AddedToken("</s>", special=True, normalized=False)]
    )
    t.add_tokens(
        [
            AddedToken("<tag>", lstrip=True, rstrip=True, normalized=False),
            AddedToken("foo", single_word=True, normalized=True),
        ]
    )
    t.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", t.token_to_id("<s>"))]
            ),
        ]
    )
    folder = HERE / "byte_level"
    folder.mkdir(exist_ok=True)
    t.save(str(folder / "tokenizer.json"), pretty=False)
    write(folder / "cases.json", cases(Tokenizer.from_file(str(folder / "tokenizer.json"))))


def sentencepieces():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        character_coverage=0.98,
        minloglevel=2,
        num_threads=1,
    )
    folder = HERE / "sentencepiece"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    write(
        folder / "tokenizer_config.json",
        {
            "bos_token": "<s>",
            "eos_token": {"content": "</s>"},
            "model_max_length": 10**30,
            "legacy": True,
            "added_tokens_decoder": {
                str(sp.get_piece_size()): {"content": "<tag>", "special": True, "normalized": False}
            },
        },
    )
    write(
        folder / "cases.json",
        [{"text": text, "ids": sp.encode(text), "decoded": sp.decode(sp.encode(text))} for text in TEXTS],
    )
    pieces = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    ids = {piece: i for i, piece in enumerate(pieces)}
    # All splits of a piece in two pieces, in the order of the pieces' scores and then of their parts.
    merges = []
    for piece in sorted(
        (
            p
            for p in pieces
            if len(p) > 1 and not sp.is_byte(ids[p]) and not sp.is_control(ids[p]) and not sp.is_unknown(ids[p])
        ),
        key=lambda p: -sp.get_score(ids[p]),
    ):
        parts = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in ids and piece[i:] in ids]
        merges += sorted(parts, key=lambda p: (ids[p[0]], ids[p[1]]))
    t = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<unk>", "<s>", "</s>")])
    t.add_tokens(
        [AddedToken("<tag>", rstrip=True, normalized=False), AddedToken("foo bar", single_word=True, normalized=True)]
    )
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    folder = HERE / "byte_fallback"
    folder.mkdir(exist_ok=True)
    t.save(str(folder / "tokenizer.json"), pretty=False)
    j = json.loads((folder / "tokenizer.json").read_text())
    j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]  # the older spelling
    (folder / "tokenizer.json").write_text(json.dumps(j))
    write(folder / "cases.json", cases(Tokenizer.from_file(str(folder / "tokenizer.json"))))


def charsmap():
    """A precompiled_charsmap of a few rules: sentencepiece's own has 240 KB."""
    rules = {
        "ﬁ": "fi",
        "Ⅷ": "VIII",
        "½": "1⁄2",
        "\u212b": "\u00c5",
        "e\u0301": "\u00e9",
        "\t": " ",
        "\n": " ",
        "\u3000": " ",
        "\u200b": "",
        "ＡＢ": "ab",
        "Ａ": "A",
        "\u0301": "",
    }
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as tsv:
        for source, target in rules.items():
            tsv.write(" ".join(f"{ord(c):X}" for c in source) + "\t" + " ".join(f"{ord(c):X}" for c in target) + "\n")
        tsv.flush()
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=model,
            vocab_size=380,
            model_type="unigram",
            byte_fallback=True,
            normalization_rule_tsv=tsv.name,
            remove_extra_whitespaces=False,
            character_coverage=0.98,
            hard_vocab_limit=False,
            minloglevel=2,
            num_threads=1,
        )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto


def unigram():
    proto = charsmap()
    t = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=0, byte_fallback=True))
    t.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), "▁"),
        ]
    )
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in ("<unk>", "<s>", "</s>")])
    t.add_tokens([AddedToken("<tag>", rstrip=True, normalized=False), AddedToken("foo", single_word=True)])
    t.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    folder = HERE / "unigram"
    folder.mkdir(exist_ok=True)
    t.save(str(folder / "tokenizer.json"), pretty=False)
    # The library's Unigram finds `</s>` in a text whatever encode_special_tokens says; there it gets another spelling.
    content = json.loads((folder / "tokenizer.json").read_text())
    for id in range(3):
        content["model"]["vocab"][id][0] = f"\U0010fffd{id}"
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    as_text = Tokenizer.from_str(json.dumps(content))
    write(folder / "cases.json", cases(Tokenizer.from_file(str(folder / "tokenizer.json")), as_text))
    return proto.normalizer_spec.precompiled_charsmap


def byte_ranks():
    """The tokens of byte_level in the order of its merges, behind the 256 bytes."""
    model = json.loads((HERE / "byte_level" / "tokenizer.json").read_text())["model"]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    byte = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    ranks = {bytes([b]): b for b in range(256)}
    for left, right in model["merges"]:
        ranks.setdefault(bytes(byte[c] for c in left + right), len(ranks))
    return ranks


def tiktokens():
    ranks = byte_ranks()
    folder = HERE / "tiktoken"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_text(
        "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    )
    write(folder / "config.json", {"model_type": "llama"})
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
    names += ["<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"]
    names += ["<|eot_id|>", "<|python_tag|>", "<|image|>"]
    names += [f"<|reserved_special_token_{2 + i}|>" for i in range(256 - len(names))]
    special = {name: len(ranks) + i for i, name in enumerate(names)}
    encoding = tiktoken.Encoding("llama3", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=special)
    texts = TEXTS + ["<|begin_of_text|>the<|eot_id|> <|reserved_special_token_245|>", "<|eot_id", "the<|python_tag|>"]
    write(
        folder / "cases.json",
        [
            {
                "text": text,
                "plain": encoding.encode(text, disallowed_special=()),
                "special": encoding.encode(text, allowed_special="all"),
            }
            for text in texts
        ],
    )


def tekken():
    ranks = byte_ranks()
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for token, rank in ranks.items()
    ]
    config = {
        "pattern": LLAMA3.replace("{1,3}", ""),
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": len(vocab) - 20 + 30,  # the last 20 are not used
        "default_num_special_tokens": 30,
        "version": "v3",
    }
    folder = HERE / "tekken"
    write(folder / "tekken.json", {"config": config, "vocab": vocab})
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    tokenizer = Tekkenizer.from_file(folder / "tekken.json")
    write(
        folder / "cases.json",
        [
            {
                "text": text,
                "ids": tokenizer.encode(text, bos=False, eos=False),
                "decoded": tokenizer.decode(tokenizer.encode(text, bos=True, eos=True)),
            }
            for text in TEXTS
        ],
    )


def state(part):
    return json.loads(part.__getstate__())


def parts(precompiled):
    rng = random.Random(3)
    short = ["".join(rng.choice("ab  -1٣.é你\n\t'sSx{") for _ in range(rng.randint(1, 20))) for _ in range(12)]
    texts = [text for text in TEXTS if len(text) < 50] + short
    texts += [
        "ＡＢ Ａ\u0301ＡＢＣ",
        "a\u0301\r\ne\u0301 x\u200d\u0301",
        "\u1cf2\u1cf3\u0951 \u1df6 ก\u0e33",
        "\x85\x8f\x9f\ufffd",
    ]
    out = {"normalizers": [], "pre_tokenizers": [], "decoders": []}
    n = normalizers
    for part in [
        n.NFC(),
        n.NFD(),
        n.NFKC(),
        n.NFKD(),
        n.Lowercase(),
        n.Strip(),
        n.Strip(left=False),
        n.Strip(right=False),
        n.Prepend("▁"),
        n.Replace(" ", "▁"),
        n.Replace(Regex(r"\s+|q*"), "_"),
        n.ByteLevel(),
        n.Nmt(),
        n.StripAccents(),
        n.Sequence([n.NFD(), n.StripAccents()]),
        n.Precompiled(precompiled),
        n.Sequence([n.NFKD(), n.Lowercase(), n.Replace("a", "bb")]),
    ]:
        out["normalizers"].append(
            {"object": state(part), "cases": [[text, part.normalize_str(text)] for text in texts]}
        )
    p = pre_tokenizers
    splits = [
        p.Split(pattern, behavior, invert)
        for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")
        for invert in (False, True)
        for pattern in (" ", Regex(r"[a-z]+"), Regex(r"x*"))
    ]
    regexes = [
        LLAMA3,
        r"\p{N}{1,3}+",
        r"a{2}?",
        r"a{,2}b",
        r"[\w-]+",
        r"\W+",
        r"\bs\b|\B.",
        r"[^\s\S]|[\S\d]",
        r"\h+",
        r"(?m:.+)",
        r"^.|.$",
        r"[a[bc]]+",
        r"[\p{L}&&[^\p{Han}]]+",
        r"\p{Han}+",
        r"\p{^L}+",
        r"\p{Letter}\p{Alpha}*",
        r"[[:alpha:]]+[[:punct:]]?",
        r"(a|b)\1",
        r"(?<q>['\"]).*?\k<q>",
        r"a++b?|(?>x+)",
        r"(?<=a)b|(?<!a)b",
        r"\u4f60|\x{597d}",
        r"[!-/\[\]:-@]",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        r"{|}|\{",
        r"\v|\e|\t",
        r"\d+|\D",
        r"[一-龥\u3040-ゟ゠-ヿ]+",
        r"\s*[\r\n]|\s+(?!\S)|\s",
    ]
    for part in (
        splits
        + [p.Split(Regex(r), "isolated") for r in regexes]
        + [
            p.Digits(True),
            p.Digits(False),
            p.Punctuation(),
            p.Punctuation("contiguous"),
            p.Whitespace(),
            p.WhitespaceSplit(),
            p.CharDelimiterSplit("a"),
            p.BertPreTokenizer(),
            p.FixedLength(),
            p.FixedLength(length=3),
            p.ByteLevel(True, use_regex=True),
            p.ByteLevel(False, use_regex=True),
            p.ByteLevel(True, use_regex=False),
            p.Metaspace(),
            p.Metaspace(prepend_scheme="never"),
            p.Metaspace(prepend_scheme="first", split=False),
            p.Sequence([p.Digits(True), p.ByteLevel(False, use_regex=True)]),
            p.Sequence([p.ByteLevel(False, use_regex=False), p.Split("Ġ", "merged_with_next")]),
            p.Sequence([p.WhitespaceSplit(), p.Sequence([p.Punctuation(), p.Metaspace(prepend_scheme="first")])]),
        ]
    ):
        chosen = short + ["", "  foo  "] if part in splits else texts
        out["pre_tokenizers"].append(
            {
                "object": state(part),
                "cases": [[text, [word for word, _ in part.pre_tokenize_str(text)]] for text in chosen],
            }
        )
    d = decoders
    lists = [
        [],
        ["a"],
        ["▁a", "▁b", "c"],
        ["Ġa", "é", "Ċ", "ðŁĻ", "Ĥ", "x"],
        ["<0xE4>", "<0xBD>", "<0xA0>", "<0xE4>", "b", "<0x0A>", "<0xFF>"],
        ["  ", " a ", " ", "  b", "   "],
        ["▁▁", "<s>", "▁x▁y", "▁"],
        ["ä½", "ł", "Ã", "q"],
        ["<0xF0>", "<0x9F>", "<0x99>"],
        [" ", " ", "a"],
        ["<0x4g>", "<0x4a>", "<0X4A>"],
    ]
    for part in [
        d.ByteLevel(),
        d.ByteFallback(),
        d.Fuse(),
        d.Metaspace(),
        d.Metaspace(prepend_scheme="never"),
        d.Replace("▁", " "),
        d.Replace(Regex("a|b"), "__"),
        d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)]),
        d.Sequence([d.Fuse(), d.Strip(" ", 2, 1), d.Replace(" ", "_")]),
        d.Strip("▁", 1, 0),
        d.Sequence([d.ByteLevel(), d.Strip(" ", 1, 0)]),
        d.BPEDecoder(suffix="a"),
        d.Sequence([d.BPEDecoder(suffix="▁"), d.Fuse(), d.Strip(" ", 1, 0)]),
    ]:
        out["decoders"].append(
            {"object": state(part), "cases": [[tokens, part.decode(tokens)] for tokens in lists if tokens]}
        )
    write(HERE / "parts.json", out)


if __name__ == "__main__":
    byte_level()
    sentencepieces()
    tiktokens()
    tekken()
    parts(unigram())
