"""Tokenizers of directories as GGUF metadata: the same ids for nasty texts, or a refusal that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from nasty_texts import NASTY, differing, mixed_texts, train_sentencepiece, write_files
from text_tokenizers import CONTROLS, byte_level, write_directory
from tokenizers import normalizers, pre_tokenizers, processors

from pagoda.conversion_tokenizer import gguf_tokenizer_entries
from pagoda.gguf_tokenizer import read_gguf_metadata
from pagoda.pre_tokenizers import PRE_TOKENIZERS
from pagoda.tokenizer import Tokenizer, TokenizerError

TEXTS = [*NASTY, *mixed_texts(150)]
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_KEEP_SPACES = {"remove_extra_whitespaces": False}


def converted(path: Path, vocab_size: int = 0) -> tuple[dict[str, Any], list[str]]:
    """The metadata and the notes, after a look at the ids of TEXTS and at the bytes of every token."""
    entries, notes = gguf_tokenizer_entries(path, vocab_size)
    metadata = {key: value for key, _type, value in entries}
    before, after = Tokenizer.from_directory(path), Tokenizer(read_gguf_metadata(metadata))
    assert differing(after, lambda text: before.encode(text, add_special_tokens=False), TEXTS) == []
    assert after.encode("x") == before.encode("x")
    for i in range(before.vocab_size):
        assert (after.token_bytes(i), after.is_special(i)) == (before.token_bytes(i), before.is_special(i))
    assert (after.bos_token_id, after.eos_token_id) == (before.bos_token_id, before.eos_token_id)
    return metadata, notes


def test_a_byte_level_vocabulary_keeps_its_ids_types_and_templates(tmp_path: Path) -> None:
    entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{**entry, "id": i, "content": token, "special": True} for i, token in enumerate(CONTROLS)]
    added.append({**entry, "id": 450, "content": "<tool>", "special": False})
    config = {"add_bos_token": True, "pad_token": "<|endoftext|>"}
    metadata, notes = converted(write_directory(tmp_path, config, added_tokens=added), vocab_size=460)
    assert notes == []
    assert (metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert len(metadata["tokenizer.ggml.tokens"]) == 460
    assert metadata["tokenizer.ggml.tokens"][455] == "[PAD455]"
    types = metadata["tokenizer.ggml.token_type"]
    assert (types[0], types[3], types[450], types[455]) == (3, 1, 4, 5)
    assert metadata["tokenizer.ggml.padding_token_id"] == 0
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert "<|im_start|>" in metadata["tokenizer.chat_template"]


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe", "smollm", "tekken", "gpt-4o", "deepseek-v3", "olmo"])
def test_every_way_to_split_words_is_found_by_its_steps(name: str, tmp_path: Path) -> None:
    row = PRE_TOKENIZERS[name]
    steps = [{**step, "trim_offsets": False} if step["type"] == "ByteLevel" else step for step in row.steps]
    model = {**json.loads(byte_level().to_str())["model"], "ignore_merges": row.ignore_merges}
    normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}]} if row.nfc else None
    pre = {"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": steps[:1]}, *steps[1:]]}
    metadata, _ = converted(write_directory(tmp_path, model=model, normalizer=normalizer, pre_tokenizer=pre))
    found = PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]]
    assert (found.steps, found.nfc, found.ignore_merges) == (row.steps, row.nfc, row.ignore_merges)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize(
    ("rule", "options", "key"),
    [
        ("identity", {}, None),
        ("nmt_nfkc_cf", {"add_dummy_prefix": False, **_KEEP_SPACES}, None),
        ("identity", {"user_defined_symbols": ("<tool>", "foo_"), **_KEEP_SPACES}, "tokenizer.pagoda.user_tokens"),
    ],
)
def test_a_sentencepiece_model_keeps_its_ids(
    kind: str, byte_fallback: bool, rule: str, options: dict[str, Any], key: str | None, tmp_path: Path
) -> None:
    model = train_sentencepiece(model_type=kind, byte_fallback=byte_fallback, normalization_rule_name=rule, **options)
    write_files(tmp_path, {"tokenizer.model": model, "tokenizer_config.json": LLAMA})
    metadata, notes = converted(tmp_path)
    assert metadata["tokenizer.ggml.model"] == {"bpe": "llama", "unigram": "t5"}[kind]
    own = [name for name in metadata if name.startswith("tokenizer.pagoda.")]
    assert own == ([key] if key else [])
    assert notes == ([f"a rule about spaces is in {key}, which only Pagoda reads"] if key else [])


@pytest.mark.parametrize("legacy", [True, False])
def test_the_tokenizer_json_of_a_llama_keeps_its_ids(legacy: bool, tmp_path: Path) -> None:
    model = train_sentencepiece(
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", **_KEEP_SPACES
    )
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    files = {"tokenizer.model": model, "tokenizer_config.json": {**LLAMA, "legacy": legacy, "add_bos_token": True}}
    write_files(source, files | {"config.json": {"model_type": "llama"}})
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(target)
    assert (target / "tokenizer.json").is_file()
    metadata, _ = converted(target)
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert metadata["tokenizer.pagoda.space_prefix"] == ("always" if legacy else "first")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"pre_tokenizer": json.loads(pre_tokenizers.ByteLevel(add_prefix_space=True).__getstate__())},
            "the way in which it splits text into words has no name in GGUF",
        ),
        (
            {"normalizer": json.loads(normalizers.Lowercase().__getstate__())},
            "its normalizer Lowercase is not among those that GGUF knows",
        ),
        (
            {"pre_tokenizer": json.loads(pre_tokenizers.Whitespace().__getstate__())},
            "its merges are not those of a SentencePiece vocabulary",
        ),
        (
            {
                "model": {"type": "WordPiece", "unk_token": "a", "max_input_chars_per_word": 9, "vocab": {"a": 0}}
                | {"continuing_subword_prefix": "##"},
                "decoder": None,
                "added_tokens": [],
            },
            "GGUF has no vocabulary for models of type WordPiece",
        ),
        (
            {
                "post_processor": json.loads(
                    processors.TemplateProcessing(
                        single="<|im_start|> <|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
                    ).__getstate__()
                )
            },
            r"it puts the tokens \[1, 1\] around a text, and GGUF knows only bos and eos",
        ),
    ],
)
def test_what_gguf_cannot_express_is_refused(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    config = {"eos_token": None, "bos_token": None} if "model" in change else {}
    write_directory(tmp_path, config, **change)
    with pytest.raises(TokenizerError, match=rf"cannot be written into a GGUF file: {complaint}.*--no-tokenizer"):
        gguf_tokenizer_entries(tmp_path, 0)


def test_an_unknown_way_to_encode_words_is_refused_by_the_first_text_that_differs(tmp_path: Path) -> None:
    model = {**json.loads(byte_level().to_str())["model"], "ignore_merges": True}
    model["vocab"] = {**model["vocab"], "Hello": 450}  # whole words only, which the rows for this split do not know
    write_directory(tmp_path, model=model)
    with pytest.raises(TokenizerError, match=r"would encode the text .Hello, world!.* to other tokens"):
        gguf_tokenizer_entries(tmp_path, 0)


def test_spaces_that_an_added_token_swallows_are_noted(tmp_path: Path) -> None:
    added = [
        {"id": 2, "content": CONTROLS[2], "single_word": False, "lstrip": False, "rstrip": True, "normalized": False}
        | {"special": True}
    ]
    write_directory(tmp_path, added_tokens=added)
    _, notes = gguf_tokenizer_entries(tmp_path, 0)
    assert len(notes) == 1
    assert notes[0].startswith("GGUF cannot say how spaces beside added tokens are treated: 'a <|im_end|> b'")


def test_named_chat_templates_keep_their_names(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    metadata, _ = converted(write_directory(tmp_path, {"chat_template": templates}))
    assert read_gguf_metadata(metadata).chat_template == {"default": "a", "tool_use": "b"}
    assert metadata["tokenizer.chat_templates"] == ["tool_use"]


def test_a_tokenizer_that_is_larger_than_the_models_vocabulary_is_refused(tmp_path: Path) -> None:
    model = json.loads(byte_level().to_str())["model"]
    model["vocab"] = {**model["vocab"], "far": (1 << 31) - 1}
    write_directory(tmp_path, model=model)
    with pytest.raises(
        TokenizerError, match=r"2147483648 entries\) but the model's vocabulary has 450.*--no-tokenizer"
    ):
        gguf_tokenizer_entries(tmp_path, 450)
