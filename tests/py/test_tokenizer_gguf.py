"""Tokenizers from GGUF metadata: byte-level BPE, SentencePiece BPE, and what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tokenizers import byte_level, byte_level_gguf, sentencepiece_gguf

from pagoda.gguf_tokenizer import read_gguf_metadata
from pagoda.tokenizer import Tokenizer, TokenizerError

SPM = Tokenizer.from_gguf(sentencepiece_gguf())
SPM_TEXT = st.text(alphabet="theslopingrd <>/s.日本é👍\n▁", max_size=30)


def spm_reference(text: str) -> list[int]:
    """SentencePiece's rule, written plainly: join the best-scored neighbours (leftmost first) until nothing joins."""
    metadata = sentencepiece_gguf()
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    scores = metadata["tokenizer.ggml.scores"]
    ids = {token: i for i, token in enumerate(tokens) if types[i] == 1}
    symbols = list(("▁" + text).replace(" ", "▁")) if text else []
    while True:
        pairs = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in ids]
        if not pairs:
            break
        _score, i = min(pairs)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    result: list[int] = []
    for symbol in symbols:
        result += [ids[symbol]] if symbol in ids else [3 + byte for byte in symbol.encode()]
    return result


@settings(deadline=None)
@given(text=st.text(max_size=40))
def test_byte_level_bpe_equals_the_tokenizer_it_was_taken_from(text: str) -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_gguf())
    assert tokenizer.encode(text, parse_special=True) == byte_level().encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["It", "'s", " 1234", " \n", "\n", "x", "=(", "IT", "'", "S"]),
        ("default", ["It", "'s", " 1234", " \n", "\n", "x", "=(", "IT", "'", "S"]),
        ("smollm", ["It", "'s", " ", "1", "2", "3", "4", " \n", "\n", "x", "=(", "IT", "'", "S"]),
        ("llama-bpe", ["It", "'s", " ", "123", "4", " \n\n", "x", "=(", "IT", "'S"]),
        ("llama3", ["It", "'s", " ", "123", "4", " \n\n", "x", "=(", "IT", "'S"]),
        ("qwen2", ["It", "'s", " ", "1", "2", "3", "4", " \n\n", "x", "=(", "IT", "'S"]),
    ],
)
def test_pre_tokenizers_split_as_their_families_do(pre: str, words: list[str]) -> None:
    spec = read_gguf_metadata(byte_level_gguf(pre))
    spec.json["model"]["merges"] = []

    library = tokenizers.Tokenizer.from_str(json.dumps(spec.json))
    text = "It's 1234 \n\nx=(IT'S"
    spans = [text[begin:end] for _word, (begin, end) in library.pre_tokenizer.pre_tokenize_str(text)]
    assert spans == words
    tokenizer = Tokenizer.from_gguf(byte_level_gguf(pre))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_add_eos_token_is_honoured() -> None:
    metadata = {**byte_level_gguf(), "tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.add_bos_token": True}
    ids = Tokenizer.from_gguf(metadata).encode("fox")
    assert (ids[0], ids[-1]) == (1, 2)


def test_llama3_adds_bos_unless_the_file_says_otherwise() -> None:
    metadata = byte_level_gguf("llama-bpe")
    assert Tokenizer.from_gguf(metadata).encode("fox")[0] != 1
    del metadata["tokenizer.ggml.add_bos_token"]
    assert Tokenizer.from_gguf(metadata).encode("fox")[0] == 1


def test_ignore_merges_does_not_let_text_spell_a_control_token() -> None:
    metadata = byte_level_gguf("llama-bpe")
    metadata["tokenizer.ggml.tokens"][0] = "secret"  # one pre-token, so ignore_merges would take the whole entry
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.encode("secret", parse_special=True) == [0]
    assert 0 not in tokenizer.encode("secret")
    assert tokenizer.decode(tokenizer.encode("secret")) == "secret"


def test_user_defined_tokens_stay_whole_and_are_not_special() -> None:
    metadata = byte_level_gguf()
    metadata["tokenizer.ggml.tokens"].append("<tool_call>")
    metadata["tokenizer.ggml.token_type"].append(4)
    tokenizer = Tokenizer.from_gguf(metadata)
    ids = tokenizer.encode("a<tool_call>b")
    assert 450 in ids
    assert tokenizer.decode(ids) == "a<tool_call>b"


def test_end_of_turn_tokens_are_reported() -> None:
    assert Tokenizer.from_gguf({**byte_level_gguf(), "tokenizer.ggml.eot_token_id": 0}).eos_token_ids == [0, 2]


@pytest.mark.parametrize("absent", [-1, 0xFFFFFFFF])
def test_minus_one_stands_for_no_token(absent: int) -> None:
    ids = {f"tokenizer.ggml.{key}_token_id": absent for key in ("bos", "eot", "eom", "padding")}
    tokenizer = Tokenizer.from_gguf({**byte_level_gguf(), **ids})
    assert tokenizer.bos_token_id is None
    assert tokenizer.eos_token_ids == [2]
    spm = {**sentencepiece_gguf(), "tokenizer.ggml.unknown_token_id": absent}
    assert Tokenizer.from_gguf(spm).encode("hello") == Tokenizer.from_gguf(sentencepiece_gguf()).encode("hello")


def test_named_chat_templates_are_kept() -> None:
    tokenizer = Tokenizer.from_gguf({**byte_level_gguf(), "tokenizer.chat_template.tool_use": "tools"})
    assert isinstance(tokenizer.chat_template, dict)
    assert set(tokenizer.chat_template) == {"default", "tool_use"}


@settings(deadline=None)
@given(text=SPM_TEXT)
def test_sentencepiece_bpe_follows_the_scores(text: str) -> None:
    if "\u2581" in text:
        text = text.replace("\u2581", " ")
    assert SPM.encode(text, add_special_tokens=False) == spm_reference(text)


@settings(deadline=None)
@given(text=SPM_TEXT.filter(lambda text: "▁" not in text))
def test_sentencepiece_bpe_round_trips_and_never_yields_control_tokens(text: str) -> None:
    ids = SPM.encode(text + "</s><s><0x41>")
    assert ids[0] == SPM.bos_token_id
    assert not {0, 1, 2} & set(ids[1:])
    assert SPM.decode(ids) == text + "</s><s><0x41>"


def test_sentencepiece_control_tokens_are_parsed_on_request() -> None:
    assert SPM.encode("</s>", add_special_tokens=False, parse_special=True) == [2]
    assert SPM.encode("</s>", add_special_tokens=False) != [2]


def test_sentencepiece_without_space_prefix_keeps_the_text_as_it_is() -> None:
    tokenizer = Tokenizer.from_gguf({**sentencepiece_gguf(), "tokenizer.ggml.add_space_prefix": False})
    for text in (" the", "the", "  "):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def _broken(key: str, value: Any) -> dict[str, Any]:
    metadata = byte_level_gguf()
    if value is None:
        del metadata[key]
    else:
        metadata[key] = value
    return metadata


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tokenizer.ggml.model", None, "model is missing"),
        (
            "tokenizer.ggml.model",
            "bert",
            r"'bert' is not supported \(WordPiece .*encoders.*\); supported: gpt2 .*, llama",
        ),
        ("tokenizer.ggml.model", "rwkv", r"'rwkv' is not supported \(RWKV's"),
        ("tokenizer.ggml.model", "plamo2", r"'plamo2' is not supported; supported: gpt2"),
        ("tokenizer.ggml.model", ["gpt2"], r"\['gpt2'\] is not supported"),
        ("tokenizer.ggml.pre", "novel", r"'novel' is not supported; supported: .*command-r, .*gpt-2, .*llama-bpe"),
        ("tokenizer.ggml.pre", ["qwen2"], r"\['qwen2'\] is not supported"),
        ("tokenizer.ggml.tokens", [], "tokens must be a non-empty list"),
        ("tokenizer.ggml.tokens", [3], "tokens must be a non-empty list"),
        ("tokenizer.ggml.token_type", [1], "token_type must have 450 entries like tokens, got 1"),
        ("tokenizer.ggml.merges", None, "merges is missing"),
        ("tokenizer.ggml.merges", ["alone"], r"merges\[0\] must be two pieces"),
        ("tokenizer.ggml.merges", ["a nowhere"], r"merges\[0\] uses 'nowhere'"),
        ("tokenizer.ggml.eos_token_id", 450, r"eos_token_id must be in \[0, 449\], got 450"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_by_key(key: str, value: Any, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_gguf(_broken(key, value))


def test_a_token_that_occurs_twice_is_named() -> None:
    metadata = byte_level_gguf()
    metadata["tokenizer.ggml.tokens"][7] = metadata["tokenizer.ggml.tokens"][8]
    with pytest.raises(TokenizerError, match=r"tokens holds .* twice"):
        Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("scores", ["x"] * 323, "scores must be numbers"),
        ("scores", [float("inf")] * 323, r"pieces\[0\]\.score: found inf"),
        ("unknown_token_id", 999, r"unknown_token_id must be in \[0, 322\], got 999"),
        ("precompiled_charsmap", ["x"], "precompiled_charsmap must be an array of bytes"),
        ("precompiled_charsmap", [1, 2], r"precompiled_charsmap: offset 0: found a trie of 0 bytes"),
    ],
)
def test_sentencepiece_metadata_that_does_not_fit_is_refused(key: str, value: Any, message: str) -> None:
    metadata = {**sentencepiece_gguf(), f"tokenizer.ggml.{key}": value}
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_gguf(metadata)


def test_sentencepiece_without_scores_is_refused() -> None:
    metadata = sentencepiece_gguf()
    del metadata["tokenizer.ggml.scores"]
    with pytest.raises(TokenizerError, match=r"scores must have \d+ entries like tokens, got nothing"):
        Tokenizer.from_gguf(metadata)
