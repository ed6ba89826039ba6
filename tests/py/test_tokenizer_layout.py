"""A tokenizer.json with parts of another kind than Pagoda reads from them is refused by field, without a KeyError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from text_tokenizers import write_directory

from pagoda.tokenizer import Tokenizer, TokenizerError

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("model", [1], 'no "model" with a "vocab"'),
        ("model", {"type": "BPE"}, 'no "model" with a "vocab"'),
        ("added_tokens", {"a": 1}, "added_tokens: found {'a': 1}, expected a list"),
        ("added_tokens", [5], r"added_tokens\[0\]: found 5, expected an object with id, content and special"),
        ("added_tokens", [{"id": 1, "special": True, **FLAGS}], r"added_tokens\[0\]: found .*, expected an object"),
        ("added_tokens", [{"id": "1", "content": "a", "special": True, **FLAGS}], r"added_tokens\[0\]: found"),
        ("added_tokens", [{"id": 1, "content": "a", "special": "yes", **FLAGS}], r"added_tokens\[0\]: found"),
        ("added_tokens", [{"id": -1, "content": "a", "special": True, **FLAGS}], r"added_tokens\[0\]\.id: found -1"),
        ("decoder", "ByteLevel", "decoder must be an object or a Sequence of such, got 'ByteLevel'"),
        ("decoder", {"type": "Sequence"}, "decoder must be an object or a Sequence of such"),
        ("decoder", {"type": "Sequence", "decoders": [1]}, "decoder must be an object or a Sequence of such"),
        ("decoder", {"type": "Replace", "pattern": 1, "content": "a"}, "decoder step .* is not supported"),
        ("decoder", {"type": "Replace", "pattern": {"String": "a"}}, "decoder step .* is not supported"),
        ("decoder", {"type": "Metaspace", "replacement": 5}, "decoder step .* is not supported"),
        ("decoder", {"type": "Strip", "content": 5, "start": 1, "stop": 0}, "decoder step .* is not supported"),
        ("model.vocab", 5, "vocab: found 5, expected a list"),
        ("model.vocab", {"a": "b"}, "model.vocab.a: found 'b', expected a token id"),
        ("model.vocab", {"a": 2**40}, "model.vocab.a: found 1099511627776, expected a token id"),
        ("model.vocab", [["a", 1.0], "b"], r"model.vocab\[1\]: found 'b', expected \[piece, score\]"),
        ("model.merges", {"a": 1}, "merges: found {'a': 1}, expected a list"),
        ("model.merges", ["ab"], r"model.merges\[0\]: found 'ab', expected two pieces"),
        ("model.merges", [["a", 1]], r"model.merges\[0\]: found \['a', 1\], expected two pieces"),
    ],
)
def test_a_part_of_another_kind_is_named(part: str, value: Any, message: str, tmp_path: Path) -> None:
    write_directory(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    Tokenizer.from_directory(tmp_path)
    owner = content["model"] if part.startswith("model.") else content
    owner[part.split(".")[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"<|a|>": 0, "<|b|>": 0}, r"id: found N, expected an id of its own for '<\|b\|>': '<\|a\|>' has it"),
        ({"<|a|>": -65}, r"id: found .*, expected an id of its own for '<\|a\|>': '.*' has it"),
        ({"A": 0}, r"id: found N, expected \d+, the id that 'A' has already"),
    ],
)
def test_added_tokens_of_an_id_that_is_not_free_are_refused(
    tokens: dict[str, int], message: str, tmp_path: Path
) -> None:
    write_directory(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    size = Tokenizer.from_directory(tmp_path).vocab_size
    content["added_tokens"] += [
        {"id": size + offset, "content": token, "special": True, **FLAGS} for token, offset in tokens.items()
    ]
    path.write_text(json.dumps(content))
    place = r"tokenizer\.json: added_tokens\[\d+\]\."
    with pytest.raises(TokenizerError, match=place + message.replace("N", str(size))):
        Tokenizer.from_directory(tmp_path)


def test_added_tokens_that_are_listed_twice_alike_are_one(tmp_path: Path) -> None:
    write_directory(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    expected = Tokenizer.from_directory(tmp_path).encode("<|im_start|>a", parse_special=True)
    content["added_tokens"] *= 2
    path.write_text(json.dumps(content))
    assert Tokenizer.from_directory(tmp_path).encode("<|im_start|>a", parse_special=True) == expected


def test_a_vocabulary_that_has_no_token_for_a_character_says_so(tmp_path: Path) -> None:
    model = {"type": "Unigram", "unk_id": None, "vocab": [["<|im_start|>", 0.0], ["<|im_end|>", 0.0], ["a", -1.0]]}
    write_directory(tmp_path, model=model, added_tokens=[], pre_tokenizer=None, decoder=None)
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.encode("aa") == [2, 2]
    with pytest.raises(TokenizerError, match=r"the text cannot be encoded: .*unk_id"):
        tokenizer.encode("b")
