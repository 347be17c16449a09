"""The libraries that quantplug's tokenizers have to agree with, behind one interface: what a folder holds decides which.

  tokenizer.json              Hugging Face's tokenizers
  tokenizer.model             sentencepiece, or tiktoken where it is text
  *.tiktoken                  tiktoken
  tekken.json                 mistral-common

encode(texts, special, bos): ids of each text, special tokens as tokens or as text, with what comes in front and behind
or without; decode(ids, special): text. `modes`: pairs of special and bos that the library can tell. `n_vocab`: rows that
a model needs.
"""

import base64
import json
import unicodedata

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = LLAMA3.replace("{1,3}", "")


class HuggingFace:
    name = "tokenizers"

    def __init__(self, folder):
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        self.tokenizer = self.as_text = Tokenizer.from_file(str(file))
        # The library's Unigram finds `</s>` in a text whatever encode_special_tokens says; sentencepiece and quantplug
        # do not. There the special tokens get spellings that no text has.
        content = json.loads(file.read_text())
        if content["model"].get("type") == "Unigram":
            special = {token["id"] for token in content["added_tokens"] if token["special"]}
            for id in special:
                content["model"]["vocab"][id][0] = f"\U0010fffd{id}"
            content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
            self.as_text = Tokenizer.from_str(json.dumps(content))
        for tokenizer in (self.tokenizer, self.as_text):
            tokenizer.no_padding()
            tokenizer.no_truncation()
        self.n_vocab = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        config = folder / "tokenizer_config.json"
        explicit = config.exists() and "add_bos_token" in json.loads(config.read_text())
        self.modes = [(special, bos) for special in (False, True) for bos in ((False,) if explicit else (False, True))]

    def encode(self, texts, special, bos):
        tokenizer = self.tokenizer if special else self.as_text
        tokenizer.encode_special_tokens = not special
        return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=bos)]

    def decode(self, ids, special):
        return self.tokenizer.decode(ids, skip_special_tokens=not special)


class SentencePiece:
    name = "sentencepiece"
    modes = [(False, False)]

    def __init__(self, folder):
        import sentencepiece

        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.n_vocab = self.processor.get_piece_size()

    def encode(self, texts, special, bos):
        return self.processor.encode(texts)

    def decode(self, ids, special):
        return self.processor.decode(ids)


class Tiktoken:
    name = "tiktoken"
    modes = [(False, False), (True, False)]

    def __init__(self, folder, path):
        import tiktoken

        ranks = {}
        for line in path.read_bytes().splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token)] = int(rank)
        model_type = json.loads((folder / "config.json").read_text())["model_type"]
        self.nfc = model_type == "qwen"
        if model_type == "qwen":
            pattern, names = QWEN, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
            names += [f"<|extra_{i}|>" for i in range(205)]
            special = {name: len(ranks) + i for i, name in enumerate(names)}
        else:
            pattern, special = self.llama(folder, model_type, len(ranks))
        self.special_ids = set(special.values())
        self.n_vocab = len(ranks) + len(special)
        self.encoding = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)

    @staticmethod
    def llama(folder, model_type, n_ranks):
        """Expression and special tokens of Meta's own program, whose wheel (llama-models) is unpacked in the folder."""
        import importlib
        import sys

        sys.path.insert(0, str(folder))
        module = importlib.import_module(
            f"llama_models.{'llama4' if model_type.startswith('llama4') else 'llama3'}.tokenizer"
        )
        sys.path.pop(0)
        original = module.Tokenizer(folder / "tokenizer.model")
        return original.model._pat_str, original.special_tokens

    def encode(self, texts, special, bos):
        if self.nfc:
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        return [
            self.encoding.encode(text, allowed_special="all" if special else set(), disallowed_special=())
            for text in texts
        ]

    def decode(self, ids, special):
        return self.encoding.decode([i for i in ids if special or i not in self.special_ids])


class Tekken:
    name = "mistral-common"
    modes = [(False, False), (False, True)]

    def __init__(self, folder):
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer

        self.tokenizer = Tekkenizer.from_file(str(folder / "tekken.json"))
        self.n_vocab = self.tokenizer.n_words

    def encode(self, texts, special, bos):
        return [self.tokenizer.encode(text, bos=bos, eos=False) for text in texts]

    def decode(self, ids, special):
        from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy

        return self.tokenizer.decode(
            ids, special_token_policy=SpecialTokenPolicy.KEEP if special else SpecialTokenPolicy.IGNORE
        )


def reference(folder):
    if (folder / "tokenizer.json").exists():
        return HuggingFace(folder)
    model = folder / "tokenizer.model"
    if model.exists():
        first = model.read_bytes()[:200].split(b"\n")[0].split(b" ")
        text = len(first) == 2 and first[1].strip().isdigit()
        return Tiktoken(folder, model) if text else SentencePiece(folder)
    for path in sorted(folder.glob("*.tiktoken")):
        return Tiktoken(folder, path)
    if (folder / "tekken.json").exists():
        return Tekken(folder)
    raise SystemExit(f"{folder} has no tokenizer")
