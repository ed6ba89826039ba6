"""What a tokenizer is made of, as plain data: tokenizer.json's content plus the facts kept in files beside it.

Owns reading a Hugging Face directory and the "guarded" copy of a specification in which no text can spell a control
token. gguf_tokenizer.py makes the same data from GGUF metadata; tokenizer.py builds the working object.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_CONTROL_LOOK = re.compile(r"<\|.*\|>|<\uff5c.*\uff5c>", re.DOTALL)


class TokenizerError(ValueError):
    """A tokenizer cannot be built or used as asked. The text says what was found and what is allowed."""


@dataclass(slots=True)
class TokenizerSpec:
    """Everything `Tokenizer` needs. `json` has the layout of tokenizer.json."""

    json: dict[str, Any]
    source: str  # for error texts: a directory, or "GGUF metadata"
    bos_token: str | None = None
    eos_token: str | None = None
    extra_eos_tokens: list[str] = field(default_factory=list)  # end-of-turn tokens that also end a generation
    add_bos: bool | None = None  # None: whatever the post-processor does
    chat_template: str | dict[str, str] | None = None  # dict: template name -> source


def read_directory(path: str | Path) -> TokenizerSpec:
    """Reads tokenizer.json and its neighbours from a directory in Hugging Face layout.

    Raises TokenizerError when tokenizer.json is missing or is not a JSON object of the expected layout.
    """
    root = Path(path)
    file = root / "tokenizer.json"
    if not file.is_file():
        hint = ""
        if (root / "tokenizer.model").is_file():
            hint = (
                " (found only tokenizer.model; convert it with transformers: "
                "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))"
            )
        raise TokenizerError(
            f"{root}: tokenizer.json is missing{hint}; without a tokenizer use skip_tokenizer and token-id prompts"
        )
    spec = _read_json(file)
    if not isinstance(spec.get("model"), dict) or "vocab" not in spec["model"]:
        raise TokenizerError(
            f'{file}: no "model" with a "vocab": this is not a tokenizer.json of the tokenizers library'
        )
    config = _read_json(root / "tokenizer_config.json") if (root / "tokenizer_config.json").is_file() else {}
    special_map = _read_json(root / "special_tokens_map.json") if (root / "special_tokens_map.json").is_file() else {}
    if "auto_map" in config:
        logger.warning("%s: auto_map is ignored: code from a model directory is never run", root)
    names = {**special_map, **config}
    add_missing_added_tokens(spec, _declared_tokens(names), names.get("added_tokens_decoder"))
    add_bos = config.get("add_bos_token")
    return TokenizerSpec(
        json=spec,
        source=str(root),
        bos_token=_token_text(names.get("bos_token")),
        eos_token=_token_text(names.get("eos_token")),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=_read_chat_template(root, config),
    )


def added_token(token_id: int, content: str, special: bool) -> dict[str, Any]:
    """One entry of tokenizer.json's `added_tokens`, matched literally wherever it occurs."""
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def add_missing_added_tokens(spec: dict[str, Any], declared: list[str], decoder_table: object) -> None:
    """Makes declared special tokens (bos, eos, ...) added tokens, as transformers does when it loads a directory.

    A token that has no id (neither in the vocabulary nor in `added_tokens_decoder`) stays unknown.
    """
    added: list[dict[str, Any]] = list(spec.get("added_tokens") or [])
    present = {entry["content"] for entry in added}
    vocab = vocab_ids(spec["model"]["vocab"])
    new: dict[int, dict[str, Any]] = {}
    if isinstance(decoder_table, dict):
        for key, entry in decoder_table.items():
            if isinstance(entry, dict) and entry.get("content") not in present and str(key).isdigit():
                new[int(key)] = {**added_token(int(key), entry["content"], True), **entry, "id": int(key)}
    known = present | {entry["content"] for entry in new.values()}
    for content in declared:
        if content not in known and content in vocab:
            new[vocab[content]] = added_token(vocab[content], content, True)
    keys = tuple(added_token(0, "", True))
    cleaned = [{key: entry[key] for key in keys} for entry in new.values()]
    spec["added_tokens"] = sorted(added + cleaned, key=lambda entry: int(entry["id"]))


def vocab_ids(vocab: object) -> dict[str, int]:
    """Piece -> id, for both layouts: {piece: id} (BPE, WordPiece, WordLevel) and [[piece, score]] (Unigram)."""
    if isinstance(vocab, dict):
        return vocab
    if isinstance(vocab, list):
        return {piece: i for i, (piece, _score) in enumerate(vocab)}
    raise TokenizerError(f"tokenizer.json: vocab must be an object or a list, got {type(vocab).__name__}")


def control_tokens(spec: Mapping[str, Any], named: tuple[str | None, ...]) -> list[str]:
    """Contents of the added tokens that text must not be able to spell: special ones, `named`, and any <|...|>."""
    return [
        entry["content"]
        for entry in spec.get("added_tokens") or []
        if entry["special"] or entry["content"] in named or _CONTROL_LOOK.fullmatch(entry["content"])
    ]


def guarded(spec: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """The same tokenizer with control tokens renamed (old content -> unguessable content), ids unchanged.

    Text that spells a control token then has no way to its id: not as an added token, not as a vocabulary entry
    (ignore_merges, Unigram), not through a merge. The renamed content itself still encodes to the id, with the token's
    own lstrip/rstrip/normalized flags, which is how template-written control tokens are encoded.
    """
    model = dict(spec["model"])
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {renamed.get(piece, piece): i for piece, i in vocab.items()}
    else:
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocab]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    if isinstance(model.get("merges"), list):
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, renamed)]
    added = [{**entry, "content": renamed.get(entry["content"], entry["content"])} for entry in spec["added_tokens"]]
    return {**spec, "model": model, "added_tokens": added}


def _touches(merge: str | list[str], renamed: Mapping[str, str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in renamed or right in renamed or left + right in renamed


def _declared_tokens(names: Mapping[str, Any]) -> list[str]:
    values = [names.get(key) for key in _NAMED_TOKENS]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        extra = names.get(key)
        values += list(extra.values()) if isinstance(extra, dict) else list(extra or [])
    return [text for text in map(_token_text, values) if text]


def _token_text(value: object) -> str | None:
    """A token is written as a string or as an object with "content"."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_chat_template(root: Path, config: Mapping[str, Any]) -> str | dict[str, str] | None:
    """chat_template.jinja (with additional_chat_templates/*.jinja) wins over tokenizer_config.json."""
    file = root / "chat_template.jinja"
    extra = sorted((root / "additional_chat_templates").glob("*.jinja"))
    if file.is_file():
        source = file.read_text(encoding="utf-8")
        return {"default": source, **{e.stem: e.read_text(encoding="utf-8") for e in extra}} if extra else source
    value = config.get("chat_template")
    if value is None and (root / "chat_template.json").is_file():
        value = _read_json(root / "chat_template.json").get("chat_template")
    if value is None or isinstance(value, str):
        return value
    try:
        return {str(entry["name"]): str(entry["template"]) for entry in value}
    except (TypeError, KeyError) as error:
        raise TokenizerError(
            f"{root}: chat_template must be a string or a list of {{name, template}}, got {type(value).__name__}"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{file}: must be a JSON object, got {type(value).__name__}")
    return value
