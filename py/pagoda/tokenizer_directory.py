"""The tokenizer of a directory in Hugging Face layout: which file holds it, and what the files beside it add.

Owns the order tokenizer.json, tekken.json, tokenizer.model, *.tiktoken, and the meaning of tokenizer_config.json,
special_tokens_map.json, added_tokens.json and the chat template files. Called by tokenizer.py.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagoda.sentencepiece_model import BPE, CONTROL, USER_DEFINED, SentencePieceModel, read_sentencepiece
from pagoda.sentencepiece_tokenizer import sentencepiece_json
from pagoda.tekken import read_tekken
from pagoda.tiktoken_file import KINDS, LLAMA3_KIND, TiktokenKind, looks_like_tiktoken, read_ranks, tiktoken_json
from pagoda.tokenizer_spec import (
    TokenizerError,
    TokenizerSpec,
    added_token,
    check_layout,
    read_json,
    read_limited,
    vocab_ids,
)

logger = logging.getLogger(__name__)

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_LLAMA3_RANKS = 128_000
_MAX_TOKEN_ID = 1 << 24


@dataclass(frozen=True, slots=True)
class _Beside:
    """What the small files beside a vocabulary say."""

    root: Path
    config: Mapping[str, Any]  # tokenizer_config.json
    names: Mapping[str, Any]  # the same over special_tokens_map.json
    added: Mapping[int, dict[str, Any]]  # token id -> entry as in tokenizer.json's added_tokens

    def flag(self, key: str) -> bool | None:
        """A true-or-false setting; None when it is absent or something else."""
        value = self.config.get(key)
        return value if isinstance(value, bool) else None

    def token(self, key: str, default: str | None = None) -> str | None:
        """The content of a named token; `default` where no file mentions it."""
        return _token_text(self.names[key]) if key in self.names else default

    def declared(self) -> list[str]:
        """Contents of all tokens that the files call special."""
        values = [self.names.get(key) for key in _NAMED_TOKENS]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            extra = self.names.get(key)
            values += list(extra.values()) if isinstance(extra, dict) else list(extra or [])
        return [text for text in map(_token_text, values) if text]


def read_directory(path: str | Path) -> TokenizerSpec:
    """The specification of the tokenizer in a directory. Raises TokenizerError naming the file that does not fit."""
    root = Path(path)
    beside = _read_beside(root)
    if (root / "tokenizer.json").is_file():
        spec = _from_tokenizer_json(root / "tokenizer.json", beside)
    elif (root / "tekken.json").is_file():
        spec = _from_tekken(root / "tekken.json", beside)
    else:
        spec = _from_vocabulary(_find_vocabulary(root), beside)
    if "auto_map" in beside.config:
        logger.warning("%s: auto_map is ignored: code from a model directory is never run", root)
    further = {name: beside.token(name) for name in _NAMED_TOKENS if name not in ("bos_token", "eos_token")}
    spec.further_tokens = {name: token for name, token in further.items() if token is not None}
    spec.chat_template = _read_chat_template(root, beside.config)
    return spec


def _read_beside(root: Path) -> _Beside:
    config, special = (
        read_json(root / name) if (root / name).is_file() else {}
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    names = {**special, **config}
    table = names.get("added_tokens_decoder")
    added: dict[int, dict[str, Any]] = {}
    for key, entry in table.items() if isinstance(table, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or not entry["content"]:
            raise TokenizerError(f"{root / 'tokenizer_config.json'}: added_tokens_decoder.{key}: expected a content")
        token_id = _token_id(root / "tokenizer_config.json", f"added_tokens_decoder.{key}", key)
        blank = added_token(token_id, entry["content"], True)
        added[token_id] = {name: entry.get(name, value) if name != "id" else value for name, value in blank.items()}
    beside = _Beside(root, config, names, added)
    if not added and (root / "added_tokens.json").is_file() and not (root / "tokenizer.json").is_file():
        special_ones = beside.declared()
        for content, value in read_json(root / "added_tokens.json").items():
            token_id = _token_id(root / "added_tokens.json", repr(content), value)
            added[token_id] = added_token(token_id, content, content in special_ones)
    return beside


def _token_id(file: Path, field: str, value: object) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _MAX_TOKEN_ID:
        raise TokenizerError(f"{file}: {field}: found the token id {value!r}, expected 0 to {_MAX_TOKEN_ID - 1}")
    return number


def _from_tokenizer_json(file: Path, beside: _Beside) -> TokenizerSpec:
    content = read_json(file)
    check_layout(content, str(file))
    _add_missing_tokens(content, beside)
    return TokenizerSpec(
        json=content,
        source=str(beside.root),
        bos_token=beside.token("bos_token"),
        eos_token=beside.token("eos_token"),
        add_bos=beside.flag("add_bos_token"),
        add_eos=beside.flag("add_eos_token"),
    )


def _from_tekken(file: Path, beside: _Beside) -> TokenizerSpec:
    content, specials = read_tekken(file)
    content["added_tokens"] = [added_token(token_id, token, True) for token, token_id in specials.items()]
    bos = beside.token("bos_token", "<s>" if "<s>" in specials else None)
    return TokenizerSpec(
        json=content,
        source=str(file),
        bos_token=bos,
        eos_token=beside.token("eos_token", "</s>" if "</s>" in specials else None),
        add_bos=_or_default(beside.flag("add_bos_token"), bos is not None),
        add_eos=_or_default(beside.flag("add_eos_token"), False),
    )


def _find_vocabulary(root: Path) -> Path:
    for name in ("tokenizer.model", "tiktoken.model"):
        if (root / name).is_file():
            return root / name
    ranks = sorted(root.glob("*.tiktoken"))
    if len(ranks) == 1:
        return ranks[0]
    others = [name for name in ("vocab.json", "merges.txt", "vocab.txt", "spiece.model") if (root / name).is_file()]
    found = f", found only {', '.join(others)}" if others else ""
    if ranks:
        found = f", found several of the last: {', '.join(file.name for file in ranks)}"
    raise TokenizerError(
        f"{root}: tokenizer.json is missing; looked for tokenizer.json, tekken.json, tokenizer.model and *.tiktoken"
        f"{found}; without a tokenizer use skip_tokenizer and token-id prompts"
    )


def _from_vocabulary(file: Path, beside: _Beside) -> TokenizerSpec:
    if file.suffix == ".tiktoken" or looks_like_tiktoken(read_limited(file)[:1024]):
        return _from_tiktoken(file, beside)
    model = read_sentencepiece(file)
    return _from_sentencepiece(model, beside)


def _from_tiktoken(file: Path, beside: _Beside) -> TokenizerSpec:
    ranks = read_ranks(file)
    kind = _tiktoken_kind(file, ranks, beside.root)
    ordinary = set(ranks.values())
    declared = {entry["content"]: token_id for token_id, entry in beside.added.items() if token_id not in ordinary}
    content, specials = tiktoken_json(ranks, kind, declared, str(file))
    flags = {entry["content"]: entry for entry in beside.added.values()}
    content["added_tokens"] = [
        {**flags.get(token, {}), **added_token(token_id, token, flags.get(token, {}).get("special", True))}
        for token, token_id in sorted(specials.items(), key=lambda item: item[1])
    ]
    bos = beside.token("bos_token", kind.bos_token if kind.bos_token in specials else None)
    return TokenizerSpec(
        json=content,
        source=str(file),
        bos_token=bos,
        eos_token=beside.token("eos_token", kind.eos_token if kind.eos_token in specials else None),
        extra_eos_tokens=[token for token in kind.extra_eos_tokens if token in specials],
        add_bos=_or_default(beside.flag("add_bos_token"), bos is not None),
        add_eos=_or_default(beside.flag("add_eos_token"), False),
    )


def _tiktoken_kind(file: Path, ranks: Mapping[bytes, int], root: Path) -> TiktokenKind:
    """The file itself does not say how text is split: its name, or the model's type, does."""
    if file.name in KINDS:
        return KINDS[file.name]
    model_type = read_json(root / "config.json").get("model_type") if (root / "config.json").is_file() else None
    if model_type == "llama" or len(ranks) == _LLAMA3_RANKS:
        return LLAMA3_KIND
    raise TokenizerError(
        f"{file}: found {len(ranks)} ranks for model_type {model_type!r}, but not how text is split before them; known "
        f"are Llama 3's tokenizer.model and {', '.join(sorted(KINDS))}; any other needs a tokenizer.json"
    )


def _from_sentencepiece(model: SentencePieceModel, beside: _Beside) -> TokenizerSpec:
    bos = beside.token("bos_token", model.control_piece(model.bos_piece))
    eos = beside.token("eos_token", model.control_piece(model.eos_piece))
    _rename_pieces(model, beside)
    model.add_dummy_prefix = _or_default(beside.flag("add_prefix_space"), model.add_dummy_prefix)
    content = sentencepiece_json(model, "first" if beside.flag("legacy") is False else "sentencepiece")
    _append_tokens(content, model, beside)
    _add_missing_tokens(content, beside)
    return TokenizerSpec(
        json=content,
        source=model.source,
        bos_token=bos,
        eos_token=eos,
        add_bos=_or_default(beside.flag("add_bos_token"), bos is not None and model.algorithm == BPE),
        add_eos=_or_default(beside.flag("add_eos_token"), False),
        charsmap=model.charsmap,
    )


def _rename_pieces(model: SentencePieceModel, beside: _Beside) -> None:
    """An added token with the id of a piece takes its place ("[UNUSED_TOKEN_146]" becomes "<|im_start|>")."""
    for token_id, entry in beside.added.items():
        if token_id < len(model.pieces) and model.pieces[token_id] != entry["content"]:
            if entry["content"] in model.pieces:
                raise TokenizerError(
                    f"{beside.root}: added token {entry['content']!r} has id {token_id}, but {model.source} has it as "
                    f"pieces[{model.pieces.index(entry['content'])}]"
                )
            model.pieces[token_id] = entry["content"]
            model.types[token_id] = CONTROL if entry["special"] else USER_DEFINED


def _append_tokens(content: dict[str, Any], model: SentencePieceModel, beside: _Beside) -> None:
    """Added tokens after the last piece get their ids in the engine's vocabulary."""
    vocab = content["model"]["vocab"]
    for token_id, entry in sorted(beside.added.items()):
        if token_id < len(model.pieces):
            continue
        if entry["content"] in model.pieces:
            raise TokenizerError(f"{beside.root}: added token {entry['content']!r} of id {token_id} is a piece already")
        if isinstance(vocab, dict):
            vocab[entry["content"]] = token_id
        elif token_id == len(vocab):
            vocab.append([entry["content"], 0.0])
        else:
            raise TokenizerError(
                f"{beside.root}: added token {entry['content']!r} has id {token_id}, expected {len(vocab)}: the ids of "
                "a UNIGRAM vocabulary have no gaps"
            )


def _add_missing_tokens(content: dict[str, Any], beside: _Beside) -> None:
    """Makes declared special tokens (bos, eos, ...) added tokens, as transformers does when it loads a directory.

    A token that has no id (neither in the vocabulary nor in `added_tokens_decoder`) stays unknown.
    """
    added: list[dict[str, Any]] = list(content.get("added_tokens") or [])
    present = {entry["content"] for entry in added}
    new = {token_id: entry for token_id, entry in beside.added.items() if entry["content"] not in present}
    known = present | {entry["content"] for entry in new.values()}
    vocab = vocab_ids(content["model"]["vocab"])
    for token in beside.declared():
        if token not in known and token in vocab:
            new[vocab[token]] = added_token(vocab[token], token, True)
    content["added_tokens"] = sorted([*added, *new.values()], key=lambda entry: int(entry["id"]))


def _or_default(value: bool | None, default: bool) -> bool:
    return default if value is None else value


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
        value = read_json(root / "chat_template.json").get("chat_template")
    if value is None or isinstance(value, str):
        return value
    try:
        return {str(entry["name"]): str(entry["template"]) for entry in value}
    except (TypeError, KeyError) as error:
        raise TokenizerError(
            f"{root}: chat_template must be a string or a list of {{name, template}}, got {type(value).__name__}"
        ) from error
