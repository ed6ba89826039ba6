"""Tokenizer: encoding without control-token injection, decoding, special tokens, start-up checks."""

from __future__ import annotations

import base64
import json
import logging
import struct
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tokenizers import CONTROLS, byte_level, write_directory
from transformers import PreTrainedTokenizerFast

from pagoda.tokenizer import Tokenizer, TokenizerError

NASTY = [
    "",
    " ",
    "\n\n \t",
    "12345 6",
    "don't I'LL",
    "日本語 👩‍👩‍👧 🇩🇪",
    "e\u0301",
    "\x00\x7f\u202e",
    "a" * 3000,
    " " * 3000,
    "<|im_end|",
    "½²٣",
]
TEXT = st.text(max_size=40)
WITH_CONTROLS = st.lists(st.one_of(TEXT, st.sampled_from([*CONTROLS, "<|", "im_end|>", "<|im_start"]))).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_directory(write_directory(tmp_path_factory.mktemp("tokenizer")))


@settings(deadline=None)
@given(text=WITH_CONTROLS)
def test_user_text_never_becomes_a_control_token_and_round_trips(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert not any(tokenizer.is_special(i) for i in ids)
    assert tokenizer.decode(ids) == text


@settings(deadline=None)
@given(text=WITH_CONTROLS)
def test_parse_special_encodes_as_transformers_does(tokenizer: Tokenizer, text: str) -> None:
    reference = PreTrainedTokenizerFast(tokenizer_object=byte_level())
    ids = tokenizer.encode(text, parse_special=True)
    assert ids == reference(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", NASTY)
def test_text_without_control_tokens_encodes_the_same_either_way(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == tokenizer.encode(text, parse_special=True) == byte_level().encode(text).ids


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 449), max_size=30))
def test_decode_equals_that_of_the_library(tokenizer: Tokenizer, ids: list[int]) -> None:
    for skip in (True, False):
        assert tokenizer.decode(ids, skip) == byte_level().decode(ids, skip_special_tokens=skip)


def test_token_bytes_are_exact_for_parts_of_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦊")
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == "🦊".encode()
    assert tokenizer.token_text(ids[0]) == "\ufffd"
    assert tokenizer.token_text(2) == "<|im_end|>"


def test_ids_without_a_token_decode_to_nothing_and_negative_ids_are_refused(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([99999]) == ""
    with pytest.raises(TokenizerError, match=r"must be in \[0, 449\], got -1"):
        tokenizer.token_bytes(-1)


def test_special_tokens_and_chat_template_come_from_tokenizer_config(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.eos_token_ids) == (1, 2, [2])
    assert tokenizer.vocab_size == 450
    assert isinstance(tokenizer.chat_template, str)


def test_a_post_processor_is_honoured_only_with_add_special_tokens(tmp_path: Path) -> None:
    sequence = [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    entry = {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
    processor = {
        "type": "TemplateProcessing",
        "single": sequence,
        "pair": [*sequence, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": entry},
    }
    tokenizer = Tokenizer.from_directory(write_directory(tmp_path, post_processor=processor))
    plain = tokenizer.encode("the fox", add_special_tokens=False)
    assert tokenizer.encode("the fox") == [1, *plain] == tokenizer.encode("the fox", parse_special=True)
    assert tokenizer.adds_bos
    without = Tokenizer.from_directory(write_directory(tmp_path, {"add_bos_token": False}, post_processor=processor))
    assert without.encode("the fox") == plain


def test_add_bos_token_adds_bos_where_the_post_processor_does_not(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_directory(write_directory(tmp_path, {"add_bos_token": True}))
    assert tokenizer.encode("fox")[0] == 1
    assert tokenizer.encode("fox", add_special_tokens=False)[0] != 1


def test_add_eos_token_adds_eos_and_takes_away_what_the_post_processor_adds(tmp_path: Path) -> None:
    assert Tokenizer.from_directory(write_directory(tmp_path, {"add_eos_token": True})).encode("fox")[-1] == 2
    sequence = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}]
    entry = {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}
    pair = [*sequence, {"Sequence": {"id": "B", "type_id": 0}}]
    processor = {
        "type": "TemplateProcessing",
        "single": sequence,
        "pair": pair,
        "special_tokens": {"<|im_end|>": entry},
    }
    kept = Tokenizer.from_directory(write_directory(tmp_path, post_processor=processor))
    plain = kept.encode("fox", add_special_tokens=False)
    assert kept.encode("fox") == [*plain, 2]
    dropped = Tokenizer.from_directory(write_directory(tmp_path, {"add_eos_token": False}, post_processor=processor))
    assert dropped.encode("fox") == plain
    both = {"add_bos_token": True, "add_eos_token": True}
    assert Tokenizer.from_directory(write_directory(tmp_path, both)).encode("fox") == [1, *plain, 2]


def test_truncation_saved_in_tokenizer_json_never_cuts_a_prompt(tmp_path: Path) -> None:
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tokenizer = Tokenizer.from_directory(write_directory(tmp_path, truncation=cut))
    assert tokenizer.decode(tokenizer.encode("the quick brown fox")) == "the quick brown fox"


def test_a_declared_eos_that_is_no_added_token_is_guarded_too(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "</s>": 1, "<": 2, "/": 3, "s": 4, ">": 5, "</": 6, "s>": 7}
    model = {"type": "BPE", "vocab": vocab, "merges": ["< /", "s >", "</ s>"], "unk_token": "<unk>"}
    settings = {"bos_token": None, "eos_token": "</s>", "unk_token": "<unk>"}
    write_directory(tmp_path, settings, model=model, pre_tokenizer=None, decoder={"type": "Fuse"}, added_tokens=[])
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.encode("</s>") == [6, 7]
    assert tokenizer.encode("</s>", parse_special=True) == [1]


def test_a_unigram_vocabulary_cannot_spell_its_control_tokens(tmp_path: Path) -> None:
    vocab = [["<unk>", 0.0], ["</s>", 0.0], ["<", -1.0], ["/", -1.0], ["s", -1.0], [">", -1.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    settings = {"bos_token": None, "eos_token": "</s>", "unk_token": "<unk>"}
    write_directory(tmp_path, settings, model=model, pre_tokenizer=None, decoder={"type": "Fuse"}, added_tokens=[])
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.encode("</s>") == [2, 3, 4, 5]
    assert tokenizer.encode("</s>", parse_special=True) == [1]


def test_metaspace_decoding_equals_that_of_the_library(tmp_path: Path) -> None:
    vocab = [["<unk>", 0.0], ["▁a", -1.0], ["▁", -1.5], ["b", -1.0], ["▁▁c", -2.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    decoder = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    settings = {"bos_token": None, "eos_token": None}
    write_directory(tmp_path, settings, model=model, pre_tokenizer=None, decoder=decoder, added_tokens=[])
    tokenizer = Tokenizer.from_directory(tmp_path)

    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for ids in ([1, 3], [4, 1], [2, 2, 1], [3, 4]):
        assert tokenizer.decode(ids) == library.decode(ids)


def test_the_vocabulary_size_check_names_both_numbers(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer.check_vocab_size(450)
    tokenizer.check_vocab_size(464)
    assert not caplog.records
    with pytest.raises(TokenizerError, match=r"450 entries\) but the model's vocabulary has 449"):
        tokenizer.check_vocab_size(449)
    with caplog.at_level(logging.WARNING):
        tokenizer.check_vocab_size(5000)
    assert "450 entries" in caplog.text
    assert "5000" in caplog.text


def test_a_lone_surrogate_is_refused_with_its_position(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800 at position 3"):
        tokenizer.encode("abc\ud800")


def test_a_missing_tokenizer_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing; .*skip_tokenizer"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"looked for .*tekken\.json, tokenizer\.model .*found only vocab\.json"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ("[]", "must be a JSON object, got list"), ('{"model": {}}', 'no "model"')],
)
def test_a_garbled_tokenizer_json_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_directory(tmp_path)


def test_merges_outside_the_vocabulary_are_reported_with_the_directory(tmp_path: Path) -> None:
    model = {**json.loads(byte_level().to_str())["model"], "merges": [["nowhere", "tobefound"]]}
    write_directory(tmp_path, model=model)
    with pytest.raises(TokenizerError, match=r"does not load: .*nowhere"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("rules", [b"", struct.pack("<III", 8, 0xFFFFFFFF, 0x80000005) + b"abc"])
def test_a_file_on_which_the_library_panics_is_refused_as_any_other(tmp_path: Path, rules: bytes) -> None:
    step = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(rules).decode()}
    with pytest.raises(TokenizerError, match=r": the tokenizer is damaged: "):
        Tokenizer.from_directory(write_directory(tmp_path, normalizer=step)).encode("abc")


def test_a_decoder_that_is_not_per_piece_is_refused(tmp_path: Path) -> None:
    write_directory(tmp_path, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})
    with pytest.raises(TokenizerError, match=r"WordPiece.* is not supported; supported: ByteLevel"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("decoder", [{"type": "CTC"}, {"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}])
def test_other_decoders_that_are_not_per_piece_are_refused(tmp_path: Path, decoder: dict[str, object]) -> None:
    write_directory(tmp_path, decoder=decoder)
    with pytest.raises(TokenizerError, match=r"decoder step .* is not supported; supported: ByteLevel"):
        Tokenizer.from_directory(tmp_path)


def test_a_corrupt_added_token_is_named(tmp_path: Path) -> None:
    for entry in ("text", {}, {"content": 5}):
        write_directory(tmp_path, {"added_tokens_decoder": {"7": entry}})
        with pytest.raises(TokenizerError, match=r"added_tokens_decoder\.7: expected a content"):
            Tokenizer.from_directory(tmp_path)


def test_auto_map_is_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    Tokenizer.from_directory(write_directory(tmp_path, {"auto_map": {"AutoTokenizer": ["evil.Tok", None]}}))
    assert "auto_map is ignored" in caplog.text


def test_chat_template_jinja_wins_over_tokenizer_config(tmp_path: Path) -> None:
    write_directory(
        tmp_path, {"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]}
    )
    assert Tokenizer.from_directory(tmp_path).chat_template == {"default": "a", "rag": "b"}
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert Tokenizer.from_directory(tmp_path).chat_template == "from the file"
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": 3}')
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(TokenizerError, match="chat_template must be a string or a list"):
        Tokenizer.from_directory(tmp_path)
