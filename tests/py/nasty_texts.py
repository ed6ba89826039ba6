"""Texts that tokenizers get wrong, and small SentencePiece and tiktoken vocabularies to try them on."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from text_tokenizers import CORPUS
from tokenizers import models, pre_tokenizers, trainers

from pagoda.byte_level_bpe import byte_alphabet
from pagoda.tokenizer import ByteStream, Tokenizer

NASTY = [
    "",
    " ",
    "  a",
    "a ",
    "\n\n \t",
    "\t\tx\n",
    "Hello  World   x",
    "12345 6 1234567890 ½²٣ ①",
    "don't I'LL we'Re 'ſ 'S",
    "日本語の文章。東京タワー 中文字符測試",
    "👩‍👩‍👧 🇩🇪🇫🇷 👍🏽 ❤️",
    "e\u0301 \u0301x a\u0308\u0304 ﷺ",
    "\u0301",
    "مرحبا بالعالم \u202eabc\u202c שלום",
    "\x00\x7f\ufeff\u200b",
    "a" * 3000,
    "abc" * 700 + "東京" * 300,
    "<|im_end|> </s> <s> <unk> <pad>",
    " <0x41>x<0x0A>",
    "[INST] hi [/INST] <|im_start|>",
    "\u2581x \u2581\u2581 y",
    "def f(x):\n\treturn x+1\r\n\r\n  #c",
    "".join(map(chr, range(256))),
    "".join(chr(0xF700 + i) for i in range(256)),  # where byte values hide in code points
    "ｶﾞ ﬁ Ⅷ ㌔ 가 ｷ\u033a",
    " \u3000 \u00a0\u2003x\u2028\u2029\x85",
    "𝔘𝔫𝔦 𐐀 𒀀",
    "===---...!!!???/////\\\\",
    "x\n" * 50 + "   y",
    "İ ı ǅ K",
    "\r\n" * 9,
    "foo_bar fooBar FOObar fooBAR's",
    " " * 100_000,
]
_ALPHABET = [char for text in NASTY for char in text[:300]] + [" "] * 300 + list("the and of in to is") * 20


def mixed_texts(count: int, seed: int = 7) -> list[str]:
    """Made-up texts over the characters of NASTY, the same ones every time."""
    draw = random.Random(seed)
    return ["".join(draw.choice(_ALPHABET) for _ in range(draw.randint(1, 40))) for _ in range(count)]


def differing(tokenizer: Tokenizer, reference: Callable[[str], list[int]], texts: list[str]) -> list[str]:
    """The texts whose ids differ from those of `reference`."""
    return [text for text in texts if tokenizer.encode(text, add_special_tokens=False) != reference(text)]


def streamed(tokenizer: Tokenizer, ids: list[int]) -> str:
    """What a ByteStream makes of the ids, one by one."""
    stream = ByteStream(tokenizer, skip_special_tokens=True)
    return b"".join(map(stream.push, ids)).decode("utf-8", "replace")


@cache
def train_sentencepiece(**options: Any) -> bytes:
    """A serialised SentencePiece model of a few hundred pieces. `options` as for SentencePieceTrainer (tuples)."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=model,
        vocab_size=700 if options.get("model_type") == "bpe" else 500,
        hard_vocab_limit=False,
        character_coverage=0.98,
        minloglevel=2,
        **{key: list(value) if isinstance(value, tuple) else value for key, value in options.items()},
    )
    return model.getvalue()


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """The library's own tokenizer of a serialised model."""
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def mistral_file(name: str) -> Path:
    """A vocabulary file that the mistral-common package ships."""
    return Path(str(resources.files("mistral_common") / "data" / name))


@cache
def small_ranks(pattern: str) -> dict[bytes, int]:
    """A trained tiktoken vocabulary: all 256 bytes first, then what merges gave, in their order."""
    trained = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.pre_tokenizer = pre_tokenizers.Sequence([split, spell])
    alphabet = byte_alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=list(alphabet), show_progress=False)
    trained.train_from_iterator([*CORPUS, *["\n\n  \n\t\t", "    x", "123 456 7890"] * 4], trainer)
    vocab = trained.get_vocab()
    pieces = sorted(vocab, key=lambda piece: (len(piece) > 1, vocab[piece]))
    return {bytes(alphabet[char] for char in piece): i for i, piece in enumerate(pieces)}


def rank_lines(ranks: dict[bytes, int]) -> bytes:
    """The file of a tiktoken vocabulary."""
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def write_files(root: Path, files: dict[str, bytes | dict[str, Any]]) -> Path:
    """A directory with these files; dictionaries become JSON."""
    for name, content in files.items():
        (root / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return root
