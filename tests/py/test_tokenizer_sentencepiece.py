"""tokenizer.model: ids equal to SentencePiece's own, and what the files beside it change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from nasty_texts import (
    NASTY,
    differing,
    mistral_file,
    mixed_texts,
    processor,
    streamed,
    train_sentencepiece,
    write_files,
)

from pagoda.tokenizer import Tokenizer, TokenizerError

_KEEP_SPACES = {"remove_extra_whitespaces": False}
_NO_PREFIX = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
_USER = {"user_defined_symbols": ("<tool>", "foo_"), **_KEEP_SPACES}
_LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SMALL = train_sentencepiece(
    model_type="bpe",
    byte_fallback=True,
    normalization_rule_name="identity",
    **_KEEP_SPACES,
    control_symbols=("[INST]",),
)


def load(tmp_path: Path, model: bytes = SMALL, **files: Any) -> Tokenizer:
    named = {name.replace("__", "."): content for name, content in files.items()}
    return Tokenizer.from_directory(write_files(tmp_path, {"tokenizer.model": model, **named}))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("identity", {}),
        ("identity", _NO_PREFIX),
        ("identity", _USER),
        ("nmt_nfkc", {}),
        ("nmt_nfkc", _NO_PREFIX),
        ("nmt_nfkc_cf", {}),
    ],
)
def test_ids_equal_those_of_sentencepiece(
    tmp_path: Path, kind: str, byte_fallback: bool, rule: str, options: dict[str, Any]
) -> None:
    model = train_sentencepiece(model_type=kind, byte_fallback=byte_fallback, normalization_rule_name=rule, **options)
    tokenizer, reference = load(tmp_path, model), processor(model)
    texts = [*NASTY, *mixed_texts(200), "a<tool>b foo_<tool> \n x", "<tool> "]
    assert differing(tokenizer, reference.encode, texts) == []
    if byte_fallback and rule == "identity" and options:
        for text in texts:
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == streamed(tokenizer, ids) == text.replace("\u2581", " ")


@pytest.mark.parametrize("name", ["tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"])
def test_ids_of_mistrals_vocabularies_equal_those_of_sentencepiece(tmp_path: Path, name: str) -> None:
    model = mistral_file(name).read_bytes()
    tokenizer = load(tmp_path, model)
    assert differing(tokenizer, processor(model).encode, [*NASTY, *mixed_texts(400)]) == []
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.adds_bos) == ("<s>", "</s>", True)
    for text in NASTY:
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("\u2581", " ")


def test_text_never_becomes_a_control_token_and_parse_special_makes_one(tmp_path: Path) -> None:
    tokenizer = load(tmp_path)
    text = "[INST]</s><s><unk><0x41>"
    ids = tokenizer.encode(text)
    assert not any(map(tokenizer.is_special, ids[1:]))
    assert tokenizer.decode(ids) == text
    control = tokenizer.token_id("[INST]")
    assert control in tokenizer.encode("a[INST]b", parse_special=True)
    assert tokenizer.token_id("<0x41>") not in tokenizer.encode(text, parse_special=True)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_text_cannot_spell_a_byte_or_a_user_defined_control_token(tmp_path: Path, kind: str) -> None:
    model = train_sentencepiece(
        model_type=kind, byte_fallback=True, user_defined_symbols=("<|im_end|>", "<start_of_turn>"), **_KEEP_SPACES
    )
    tokenizer = load(tmp_path, model)
    text = "<0x41><|im_end|><start_of_turn>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    forbidden = {tokenizer.token_id(piece) for piece in ("<|im_end|>", "<start_of_turn>", "<0x41>")}
    assert not forbidden & set(ids)
    assert tokenizer.encode("<|im_end|>", False, parse_special=True)[-1] == tokenizer.token_id("<|im_end|>")


@pytest.mark.parametrize("add_eos", [True, False])
def test_legacy_false_puts_the_prefix_where_transformers_does(tmp_path: Path, add_eos: bool) -> None:
    config = {**_LLAMA, "legacy": False, "add_bos_token": True, "add_eos_token": add_eos}
    model = mistral_file("tokenizer.model.v1").read_bytes()
    tokenizer = load(tmp_path, model, tokenizer_config__json=config, config__json={"model_type": "llama"})
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    # transformers rebuilds the merges from the order of the pieces, not from the scores: that changes runs of spaces.
    texts = [text for text in [*NASTY, *mixed_texts(200)] if "  " not in text and "\u2581" not in text]
    for text in [*texts, "<s>a b</s> c", "</s>x<s>", " <s> x"]:
        assert tokenizer.encode(text, parse_special=True) == reference(text)["input_ids"]


def test_legacy_true_and_no_setting_are_sentencepieces_own_rule(tmp_path: Path) -> None:
    texts = [" a", "a", "  ", "x  y"]
    reference = processor(SMALL).encode
    for settings in ({"legacy": True}, {}):
        assert differing(load(tmp_path, tokenizer_config__json=settings), reference, texts) == []


def test_settings_beside_the_model_decide_over_its_own(tmp_path: Path) -> None:
    settings = {"add_bos_token": False, "add_eos_token": True, "add_prefix_space": False, "eos_token": "[INST]"}
    tokenizer = load(tmp_path, tokenizer_config__json=settings)
    end = tokenizer.token_id("[INST]")
    assert tokenizer.encode("the")[-1] == end == tokenizer.eos_token_id
    assert tokenizer.encode("the", add_special_tokens=False) == tokenizer.encode("the")[:-1]
    assert tokenizer.token_bytes(tokenizer.encode("the")[0]).startswith(b"t")


def test_added_tokens_get_the_ids_that_the_files_give_them(tmp_path: Path) -> None:
    size = processor(SMALL).vocab_size()
    table = {
        "5": {"content": "<|im_start|>", "special": True},  # takes the place of a piece
        str(size): {"content": "<|im_end|>", "special": True},
        str(size + 3): {"content": "<tool>", "special": False},
    }
    tokenizer = load(tmp_path, tokenizer_config__json={"added_tokens_decoder": table})
    assert tokenizer.encode("<|im_start|><|im_end|><tool>", False, parse_special=True) == [5, size, size + 3]
    assert tokenizer.vocab_size == size + 4
    assert not {5, size} & set(tokenizer.encode("<|im_start|><|im_end|>"))
    assert tokenizer.decode([size + 3]) == "<tool>"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_added_tokens_json_is_read_and_declared_tokens_of_it_are_special(tmp_path: Path, kind: str) -> None:
    model = train_sentencepiece(model_type=kind, byte_fallback=True)
    size = processor(model).vocab_size()
    tokenizer = load(
        tmp_path,
        model,
        added_tokens__json={"<pad>": size, "<tool>": size + 1},
        special_tokens_map__json={"pad_token": {"content": "<pad>"}},
    )
    assert (tokenizer.token_id("<pad>"), tokenizer.token_id("<tool>")) == (size, size + 1)
    assert tokenizer.is_special(size)
    assert not tokenizer.is_special(size + 1)
    assert size not in tokenizer.encode("<pad>")


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"</s>": 900}, r"'</s>' of id 900 is a piece already"),
        ({"</s>": 9}, r"'</s>' has id 9, but .*tokenizer\.model has it as pieces\[2\]"),
        ({"<x>": -1}, r"added_tokens\.json: '<x>': found the token id -1, expected 0 to"),
        ({"<x>": "many"}, r"found the token id 'many'"),
    ],
)
def test_added_tokens_that_do_not_fit_are_refused(tmp_path: Path, added: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load(tmp_path, added_tokens__json=added)


def test_a_gap_in_the_ids_of_a_unigram_vocabulary_is_refused(tmp_path: Path) -> None:
    model = train_sentencepiece(model_type="unigram", byte_fallback=True)
    size = processor(model).vocab_size()
    with pytest.raises(TokenizerError, match=rf"'<x>' has id {size + 2}, expected {size}"):
        load(tmp_path, model, added_tokens__json={"<x>": size + 2})
