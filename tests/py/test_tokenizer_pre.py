"""The vocabularies of GGUF files against transformers, llama.cpp's rules and SentencePiece: one test per kind."""

from __future__ import annotations

import json
import unicodedata
from itertools import pairwise
from typing import Any

import pytest
import regex
from nasty_texts import NASTY, differing, mistral_file, mixed_texts, processor, train_sentencepiece, write_files
from sentencepiece import sentencepiece_model_pb2
from text_tokenizers import byte_level, byte_level_gguf
from transformers import CohereTokenizer, GPT2Tokenizer, GPTNeoXTokenizer, Qwen2Tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS, convert_gguf_tokenizer
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

from pagoda.pre_tokenizers import PRE_TOKENIZERS
from pagoda.tokenizer import Tokenizer

TEXTS = [*NASTY, *mixed_texts(300)]
_CLASSES = {
    "gpt-2": GPT2Tokenizer,
    "command-r": CohereTokenizer,
    "olmo": GPTNeoXTokenizer,
    "qwen2": Qwen2Tokenizer,
    "qwen35": Qwen3_5Tokenizer,
}


@pytest.mark.parametrize("pre", sorted(_CLASSES))
def test_ids_equal_those_of_the_familys_class_in_transformers(pre: str) -> None:
    model = json.loads(byte_level().to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    theirs = _CLASSES[pre](vocab=dict(model["vocab"]), merges=merges)
    tokenizer = Tokenizer.from_gguf(byte_level_gguf(pre))
    texts = [text for text in TEXTS if "<" not in text]  # the classes bring control tokens of their own
    assert differing(tokenizer, lambda text: theirs(text, add_special_tokens=False)["input_ids"], texts) == []


@pytest.mark.parametrize("pre", sorted(GGUF_PRE_TOKENIZER_SPLITS.keys() & PRE_TOKENIZERS.keys()))
def test_ids_equal_those_of_transformers_reading_the_same_gguf(pre: str) -> None:
    metadata = byte_level_gguf(pre)
    fields = {name: metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges", "token_type")}
    theirs, _more = convert_gguf_tokenizer("any", {"tokenizer_type": "gpt2", "pre_tokenizer_type": pre, **fields})
    texts = [text for text in TEXTS if unicodedata.is_normalized("NFC", text) and "<|" not in text]
    assert differing(Tokenizer.from_gguf(metadata), lambda text: theirs.encode(text).ids, texts) == []


_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_QWEN = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("pre", "patterns"),
    [
        ("gpt-2", [_GPT2]),
        ("smollm", [r"\p{N}", _GPT2]),
        ("refact", [r"\p{N}", _GPT2]),
        ("stablelm2", [_QWEN]),
        ("deepseek-coder", [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}"]),
        ("deepseek-v3", [r"\p{N}{1,3}", _CJK, _DEEPSEEK3]),
        ("seed-coder", [_QWEN.replace(r"]+[\r\n]*", r"\r\n]+")]),
    ],
)
def test_words_are_those_of_llama_cpps_patterns_one_after_the_other(pre: str, patterns: list[str]) -> None:
    steps = PRE_TOKENIZERS[pre].steps
    library = byte_level().from_str(byte_level().to_str())
    content = json.loads(library.to_str())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    library = byte_level().from_str(json.dumps(content))
    for text in [text for text in TEXTS if len(text) < 10_000 and "ſ" not in text]:
        ends = {0, len(text)}
        for pattern in patterns:
            for begin, end in pairwise(sorted(ends)):
                for match in regex.finditer(pattern, text[begin:end]):
                    ends |= {begin + match.start(), begin + match.end()}
        words = {span for _word, spans in library.pre_tokenizer.pre_tokenize_str(text) for span in spans}
        assert words | {0, len(text)} == ends, text


def test_every_pre_tokenizer_loads_and_round_trips() -> None:
    for pre in PRE_TOKENIZERS:
        tokenizer = Tokenizer.from_gguf(byte_level_gguf(pre))
        for text in NASTY[:-1]:
            expected = unicodedata.normalize("NFC", text) if PRE_TOKENIZERS[pre].nfc else text
            assert tokenizer.decode(tokenizer.encode(text)) == expected


def metadata_of(model: bytes, kind: str) -> dict[str, Any]:
    """What a converter writes for a SentencePiece model."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    rules = proto.normalizer_spec
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece.piece for piece in proto.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in proto.pieces],
        "tokenizer.ggml.token_type": [piece.type for piece in proto.pieces],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": rules.add_dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": rules.remove_extra_whitespaces,
        **({"tokenizer.ggml.precompiled_charsmap": list(rules.precompiled_charsmap)} if kind == "t5" else {}),
    }


def test_llama_vocabularies_equal_sentencepiece(tmp_path: Any) -> None:
    model = mistral_file("tokenizer.model.v1").read_bytes()
    tokenizer = Tokenizer.from_gguf(metadata_of(model, "llama"))
    assert differing(tokenizer, processor(model).encode, TEXTS) == []
    directory = Tokenizer.from_directory(write_files(tmp_path, {"tokenizer.model": model}))
    for text in [*NASTY[:-1], "<s>a</s> b"]:
        assert tokenizer.encode(text, parse_special=True) == directory.encode(text, parse_special=True)


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("prefix", [True, False])
def test_t5_vocabularies_equal_sentencepiece(rule: str, prefix: bool) -> None:
    model = train_sentencepiece(
        model_type="unigram", byte_fallback=True, normalization_rule_name=rule, add_dummy_prefix=prefix
    )
    tokenizer = Tokenizer.from_gguf(metadata_of(model, "t5"))
    assert differing(tokenizer, processor(model).encode, TEXTS) == []
    assert tokenizer.encode("the")[-1] == tokenizer.eos_token_id
    assert not tokenizer.adds_bos


def test_unused_pieces_of_a_t5_vocabulary_are_out_of_reach_of_text() -> None:
    metadata = metadata_of(train_sentencepiece(model_type="unigram", byte_fallback=True), "t5")
    size = len(metadata["tokenizer.ggml.tokens"])
    for key, value in (("tokens", "[PAD]"), ("scores", 0.0), ("token_type", 5)):
        metadata[f"tokenizer.ggml.{key}"].append(value)
    tokenizer = Tokenizer.from_gguf(metadata)
    assert size not in tokenizer.encode("a [PAD][PAD]")
    assert tokenizer.decode(tokenizer.encode("a [PAD]", add_special_tokens=False)) == "a [PAD]"
