"""Vocabularies given by ranks: *.tiktoken, Llama 3's tokenizer.model and tekken.json, against their own libraries."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from nasty_texts import (
    NASTY,
    differing,
    mistral_file,
    mixed_texts,
    rank_lines,
    small_ranks,
    streamed,
    write_files,
)
from tiktoken_ext import openai_public

from pagoda.pre_tokenizers import LLAMA3
from pagoda.tokenizer import Tokenizer, TokenizerError

RANKS = small_ranks(LLAMA3)
TEXTS = [*NASTY, *mixed_texts(500)]
LLAMA = {"model_type": "llama"}


def published_pattern(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The split pattern in the tiktoken package (whose rank files are not in it)."""
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_args, **_kwargs: {})
    pattern = getattr(openai_public, name)()["pat_str"]
    assert isinstance(pattern, str)
    return pattern


def reference(pattern: str) -> tiktoken.Encoding:
    return tiktoken.Encoding("reference", pat_str=pattern, mergeable_ranks=RANKS, special_tokens={})


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_ids_equal_those_of_tiktoken(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.from_directory(write_files(tmp_path, {f"{name}.tiktoken": rank_lines(RANKS)}))
    assert differing(tokenizer, reference(published_pattern(name, monkeypatch)).encode_ordinary, TEXTS) == []
    assert tokenizer.eos_token == "<|endoftext|>"
    for text in NASTY:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == streamed(tokenizer, ids) == text


def test_llama3s_tokenizer_model_is_tiktokens_with_its_control_tokens_after_the_ranks(tmp_path: Path) -> None:
    files = {"tokenizer.model": rank_lines(RANKS), "config.json": LLAMA}
    tokenizer = Tokenizer.from_directory(write_files(tmp_path, files))
    assert differing(tokenizer, reference(LLAMA3).encode_ordinary, TEXTS) == []
    first = len(RANKS)
    assert tokenizer.encode("a")[0] == first == tokenizer.token_id("<|begin_of_text|>")
    assert tokenizer.eos_token_ids == [first + 1, first + 8, first + 9]
    assert tokenizer.vocab_size == first + 256
    text = "<|eot_id|><|reserved_special_token_247|>"
    assert tokenizer.encode(text, False, parse_special=True) == [first + 9, first + 255]
    assert not any(map(tokenizer.is_special, tokenizer.encode(text, False)))


def test_control_tokens_that_the_directory_names_replace_the_known_ones_as_in_transformers(tmp_path: Path) -> None:
    names = ["<|b|>", "<|e|>", "<|x|>"]
    table = {str(len(RANKS) + i): {"content": name, "special": True} for i, name in enumerate(names)}
    settings = {"bos_token": "<|b|>", "eos_token": "<|e|>", "added_tokens_decoder": table, "add_bos_token": True}
    files = {"tokenizer.model": rank_lines(RANKS), "config.json": LLAMA, "tokenizer_config.json": settings}
    tokenizer = Tokenizer.from_directory(write_files(tmp_path, files))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "a<|x|>b<|e|>"]:
        assert tokenizer.encode(text, parse_special=True) == theirs(text)["input_ids"]
    assert tokenizer.encode("<|x|>", False) != [len(RANKS) + 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"YQ== 0\nYg== x\n", r"line 2: found b'Yg== x', expected a base64 token and its rank"),
        (b"YQ== 0\nYQ== 1\n", "line 2: found token or rank 1 twice"),
        (b"YQ== 0\nYg== 0\n", "line 2: found token or rank 0 twice"),
        (b"YQ== 0\nY=== 1\n", r"line 2: found b'Y=== 1'"),
        (b"YQ== 0\nYYYYY 1\n", r"line 2: found b'YYYYY', not base64"),
        (b"YQ== 0\nYg== 99999999999\n", "line 2"),
        (b"YQ== 0\nYg== 1\n", "the byte 0x00 has no token"),
        (rank_lines({**RANKS, b"x" * 600: 9999}), "found a token of 600 bytes, allowed are 512"),
        (
            rank_lines({**RANKS, b"<|eot_id|>": 700}),
            r"special token '<\|eot_id\|>' has id \d+, but the ordinary token 700",
        ),
        (b"\xff\xfe", r"tokenizer\.model"),
    ],
)
def test_a_rank_file_that_does_not_fit_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_directory(write_files(tmp_path, {"tokenizer.model": content, "config.json": LLAMA}))


def test_a_rank_file_without_a_known_split_is_refused(tmp_path: Path) -> None:
    files = {"tokenizer.model": rank_lines(RANKS), "config.json": {"model_type": "kimi_k2"}}
    with pytest.raises(
        TokenizerError, match=r"ranks for model_type 'kimi_k2', but not how text is split.*tokenizer\.json"
    ):
        Tokenizer.from_directory(write_files(tmp_path, files))


def test_several_rank_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"found several of the last: a\.tiktoken, b\.tiktoken"):
        Tokenizer.from_directory(write_files(tmp_path, {"a.tiktoken": b"x", "b.tiktoken": b"x"}))


def test_ids_of_mistrals_tekken_equal_those_of_mistral_common(tmp_path: Path) -> None:
    file = mistral_file("tekken_240911.json")
    (tmp_path / "tekken.json").symlink_to(file)
    tokenizer, theirs = Tokenizer.from_directory(tmp_path), Tekkenizer.from_file(file)
    assert differing(tokenizer, lambda text: theirs.encode(text, bos=False, eos=False), TEXTS) == []
    assert tokenizer.vocab_size == theirs.n_words
    assert tokenizer.encode("a")[0] == theirs.bos_id
    for text in NASTY:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for i in (*range(25), 999):
        assert tokenizer.token_piece(i) == theirs.id_to_piece(i)
        assert tokenizer.encode(theirs.id_to_piece(i), False, parse_special=True) == [i]
        assert i not in tokenizer.encode(theirs.id_to_piece(i), False)


def tekken(**changes: Any) -> dict[str, Any]:
    """A small tekken.json; `changes` replace top-level keys, those of `config` are merged."""
    rows = [{"rank": i, "token_bytes": base64.b64encode(token).decode()} for i, token in enumerate(RANKS)]
    config = {"pattern": LLAMA3, "default_vocab_size": len(RANKS) + 10, "default_num_special_tokens": 10}
    specials = [{"rank": i, "token_str": token} for i, token in enumerate(["<unk>", "<s>", "</s>", "[X]"])]
    content = {"config": config, "vocab": rows, "special_tokens": specials, **changes}
    content["config"] = (
        {**config, **changes["config"]} if isinstance(changes.get("config"), dict) else content["config"]
    )
    return content


def test_a_tekken_with_its_own_special_tokens_has_them_first_and_fillers_after(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write_files(tmp_path, {"tekken.json": tekken()}))
    expected = reference(LLAMA3).encode_ordinary("Hello world")
    assert tokenizer.encode("Hello world") == [1, *(10 + i for i in expected)]
    assert tokenizer.encode("[X]<SPECIAL_9>", False, parse_special=True) == [3, 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": 3}, "config: found int, expected an object"),
        ({"config": {"pattern": None}}, r"config\.pattern: found None, expected a regular expression"),
        ({"config": {"pattern": r"\p{N}{1,3}+"}}, r"config\.pattern: found .* expected a regular expression without"),
        ({"config": {"pattern": r"\s+$"}}, r"config\.pattern"),
        ({"config": {"pattern": "("}}, r"tekken\.json: the tokenizer does not load"),
        ({"config": {"default_num_special_tokens": 3}}, r"found 3, but special_tokens has 4 entries"),
        ({"config": {"default_num_special_tokens": -1}}, r"default_num_special_tokens: found -1, expected 0 to"),
        ({"config": {"default_vocab_size": 10**9}}, r"default_vocab_size: found 1000000000, expected 0 to"),
        ({"config": {"default_vocab_size": 10**5}}, r"default_vocab_size: found 100000, expected 11 to"),
        ({"config": {"default_vocab_size": 20}}, r"the byte 0x[0-9A-F]{2} has no token"),
        ({"vocab": {}}, "vocab: found dict, expected a list"),
        ({"vocab": [{"rank": 1, "token_bytes": "AA=="}]}, r"config\.default_vocab_size"),
        (
            {"special_tokens": [{"rank": 1, "token_str": "x"}]},
            "special_tokens: found ranks or tokens twice or with gaps",
        ),
        ({"special_tokens": ["x"]}, r"special_tokens\[0\]: found 'x', expected a rank and a token_str"),
        ({"special_tokens": [{"rank": 0, "token_str": "a"}]}, "special token 'a' has id 0, but the ordinary token"),
    ],
)
def test_a_tekken_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_directory(write_files(tmp_path, {"tekken.json": tekken(**changes)}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"rank": 5, "token_bytes": "AA=="}, r"vocab\[7\]: found .*expected rank 7"),
        ({"rank": 7, "token_bytes": "?"}, r"vocab\[7\]\.token_bytes: not base64"),
        ({"rank": 7, "token_bytes": ""}, r"vocab\[7\]\.token_bytes: found an empty token"),
        ({"rank": 7}, r"vocab\[7\]: found"),
    ],
)
def test_a_row_of_a_tekken_that_does_not_fit_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    content = tekken()
    content["vocab"][7] = row
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_directory(write_files(tmp_path, {"tekken.json": content}))
