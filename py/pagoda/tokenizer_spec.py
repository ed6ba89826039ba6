"""What a tokenizer is made of, as plain data: tokenizer.json's content plus the facts kept in files beside it.

Owns the "guarded" copy of a specification in which no text can spell a control token, and the reading of files.
tokenizer_directory.py and gguf_tokenizer.py make specifications; tokenizer.py builds the working object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAX_FILE_BYTES = 1 << 28
_CONTROL_LOOK = re.compile(r"<\|.*\|>|<\uff5c.*\uff5c>|<(?:start|end)_of_turn>", re.DOTALL)


class TokenizerError(ValueError):
    """A tokenizer cannot be built or used as asked. The text says what was found and what is allowed."""


@dataclass(slots=True)
class TokenizerSpec:
    """Everything `Tokenizer` needs. `json` has the layout of tokenizer.json."""

    json: dict[str, Any]
    source: str  # for error texts: a directory, or "GGUF metadata"
    bos_token: str | None = None
    eos_token: str | None = None
    further_tokens: dict[str, str] = field(default_factory=dict)  # by the name that templates use: "pad_token", ...
    extra_eos_tokens: list[str] = field(default_factory=list)  # end-of-turn tokens that also end a generation
    add_bos: bool | None = None  # None: whatever the post-processor does
    add_eos: bool | None = None  # likewise
    charsmap: bytes = b""  # SentencePiece's compiled normalisation rules, applied before `json`'s own normalizer
    chat_template: str | dict[str, str] | None = None  # dict: template name -> source


def read_limited(path: Path) -> bytes:
    """The content of a vocabulary file. Raises TokenizerError for one that is unreadable, empty, huge or a pointer."""
    try:
        size = path.stat().st_size
        if size > _MAX_FILE_BYTES:
            raise TokenizerError(f"{path}: found {size} bytes, expected a vocabulary of at most {_MAX_FILE_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from None
    if not content:
        raise TokenizerError(f"{path}: the file is empty")
    if content.startswith(b"version https://git-lfs"):
        raise TokenizerError(f"{path}: this is a Git LFS pointer, not the file itself; run `git lfs pull`")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises TokenizerError naming the file."""
    try:
        value = json.loads(read_limited(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: must be a JSON object, got {type(value).__name__}")
    return value


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


def check_layout(content: Mapping[str, Any], source: str) -> None:
    """Checks those parts of a tokenizer.json that Pagoda reads itself; the library checks the others when it loads.

    Raises TokenizerError naming `source`, the field, what was found and what is expected.
    """
    model = content.get("model")
    if not isinstance(model, dict) or "vocab" not in model:
        raise TokenizerError(
            f'{source}: no "model" with a "vocab": this is not a tokenizer.json of the tokenizers library'
        )
    for i, entry in enumerate(_list_at(content, "added_tokens", source)):
        fields = (("id", int), ("content", str), ("special", bool))
        if not isinstance(entry, dict) or not all(type(entry.get(name)) is kind for name, kind in fields):
            raise _misfit(source, f"added_tokens[{i}]", entry, "an object with id, content and special")
        if not 0 <= entry["id"] < 1 << 31:
            raise _misfit(source, f"added_tokens[{i}].id", entry["id"], "a number from 0 to 2^31 - 1")
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        bad = next((key for key, value in vocab.items() if type(value) is not int or not 0 <= value < 1 << 31), None)
        if bad is not None:
            raise _misfit(source, f"model.vocab.{bad}", vocab[bad], "a token id from 0 to 2^31 - 1")
    else:
        for i, row in enumerate(_list_at(model, "vocab", source)):
            if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], str):
                raise _misfit(source, f"model.vocab[{i}]", row, "[piece, score]")
    for i, merge in enumerate(_list_at(model, "merges", source)):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(piece, str) for piece in pair):
            raise _misfit(source, f"model.merges[{i}]", merge, "two pieces")
    _check_added_ids(content.get("added_tokens") or [], vocab_ids(vocab), source)


def _check_added_ids(added: list[dict[str, Any]], vocab: Mapping[str, int], source: str) -> None:
    """The library gives a token whose id is taken another one: the model would read a wrong row of its embedding."""
    ids, tokens = dict(vocab), {token_id: piece for piece, token_id in vocab.items()}
    for i, entry in enumerate(added):
        token_id, token = entry["id"], entry["content"]
        if (held := ids.setdefault(token, token_id)) != token_id:
            raise _misfit(source, f"added_tokens[{i}].id", token_id, f"{held}, the id that {token[:50]!r} has already")
        if (holder := tokens.setdefault(token_id, token)) != token:
            wanted = f"an id of its own for {token[:50]!r}: {holder[:50]!r} has it"
            raise _misfit(source, f"added_tokens[{i}].id", token_id, wanted)


def _list_at(values: Mapping[str, Any], name: str, source: str) -> list[Any]:
    value = values.get(name)
    if value is not None and not isinstance(value, list):
        raise _misfit(source, name, value, "a list")
    return value or []


def _misfit(source: str, field: str, found: object, wanted: str) -> TokenizerError:
    shown = repr(found)
    return TokenizerError(f"{source}: {field[:100]}: found {shown[:100]}, expected {wanted}")


def vocab_ids(vocab: object) -> dict[str, int]:
    """Piece -> id, for both layouts: {piece: id} (BPE, WordPiece, WordLevel) and [[piece, score]] (Unigram)."""
    if isinstance(vocab, dict):
        return vocab
    if isinstance(vocab, list):
        return {piece: i for i, (piece, _score) in enumerate(vocab)}
    raise TokenizerError(f"tokenizer.json: vocab must be an object or a list, got {type(vocab).__name__}")


def is_control_spelling(content: str) -> bool:
    """Whether a token is spelled as only control tokens are (<|...|>, <start_of_turn>), whatever its file calls it."""
    return _CONTROL_LOOK.fullmatch(content) is not None


def control_tokens(spec: Mapping[str, Any], named: tuple[str | None, ...]) -> list[str]:
    """Contents of the added tokens that text must not be able to spell: special, `named`, or looking so."""
    return [
        entry["content"]
        for entry in spec.get("added_tokens") or []
        if entry["special"] or entry["content"] in named or is_control_spelling(entry["content"])
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
        model["vocab"] = dict(vocab)
        for piece in renamed.keys() & vocab.keys():
            model["vocab"][renamed[piece]] = model["vocab"].pop(piece)
    else:
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocab]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    if isinstance(model.get("merges"), list):
        model["merges"] = _untouched(model["merges"], renamed)
    added = [{**entry, "content": renamed.get(entry["content"], entry["content"])} for entry in spec["added_tokens"]]
    return {**spec, "model": model, "added_tokens": added}


def _untouched(merges: list[str | list[str]], renamed: Mapping[str, str]) -> list[str | list[str]]:
    """The merges that neither take nor make a piece of `renamed`."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges)
    return [
        merge
        for merge, (left, right) in zip(merges, pairs, strict=True)
        if left not in renamed and right not in renamed and left + right not in renamed
    ]
