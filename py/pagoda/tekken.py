"""Mistral's `tekken.json`: a byte-level BPE given by ranks, its split pattern and its special tokens, which come first.

Called by tokenizer_directory.py.
"""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any

from pagoda.byte_level_bpe import byte_level_json, ranked_model, splits
from pagoda.tokenizer_spec import TokenizerError, read_json

# Files without `special_tokens` mean these.
_FIRST_SPECIALS = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
]
_MAX_TOKENS = 1 << 22
# Oniguruma reads `{1,3}+` as a repeated repetition and `$` as the end of a line; tiktoken does not.
_READ_DIFFERENTLY = re.compile(r"\{\d+(,\d*)?\}\+|(?<!\\)\$")


def read_tekken(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """tokenizer.json content without added tokens, and the special tokens (content -> id).

    Raises TokenizerError naming the file, the field, what was found and what is expected.
    """
    content = read_json(path)
    config = content.get("config")
    if not isinstance(config, dict):
        raise TokenizerError(f"{path}: config: found {type(config).__name__}, expected an object")
    pattern = config.get("pattern")
    if not isinstance(pattern, str) or _READ_DIFFERENTLY.search(pattern):
        raise TokenizerError(
            f"{path}: config.pattern: found {pattern!r}, expected a regular expression without `$` and without "
            "possessive counts such as `{1,3}+`"
        )
    named = _special_tokens(path, content.get("special_tokens"))
    count = _count(path, config, "default_num_special_tokens", len(named))
    if count < len(named):
        raise TokenizerError(
            f"{path}: config.default_num_special_tokens: found {count}, but special_tokens has {len(named)} entries"
        )
    specials = {token: i for i, token in enumerate([*named, *(f"<SPECIAL_{i}>" for i in range(len(named), count))])}
    vocab = content.get("vocab")
    if not isinstance(vocab, list):
        raise TokenizerError(f"{path}: vocab: found {type(vocab).__name__}, expected a list")
    size = _count(path, config, "default_vocab_size", len(vocab) + count) - count
    if not 0 < size <= len(vocab):
        raise TokenizerError(
            f"{path}: config.default_vocab_size: found {size + count}, expected {count + 1} to {count + len(vocab)}"
        )
    tokens = {token: count + rank for token, rank in _ranks(path, vocab[:size]).items()}
    return byte_level_json(ranked_model(tokens, specials, str(path)), splits(pattern)), specials


def _special_tokens(path: Path, entries: object) -> list[str]:
    if entries is None:
        return _FIRST_SPECIALS
    if not isinstance(entries, list):
        raise TokenizerError(f"{path}: special_tokens: found {type(entries).__name__}, expected a list")
    by_rank: dict[int, str] = {}
    for i, entry in enumerate(entries):
        rank, token = (entry.get("rank"), entry.get("token_str")) if isinstance(entry, dict) else (None, None)
        if not isinstance(rank, int) or not isinstance(token, str) or not token:
            raise TokenizerError(f"{path}: special_tokens[{i}]: found {entry!r}, expected a rank and a token_str")
        by_rank[rank] = token
    if sorted(by_rank) != list(range(len(entries))) or len(set(by_rank.values())) != len(entries):
        raise TokenizerError(
            f"{path}: special_tokens: found ranks or tokens twice or with gaps, expected ranks 0 to {len(entries) - 1}"
        )
    return [by_rank[rank] for rank in range(len(entries))]


def _count(path: Path, config: dict[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_TOKENS:
        raise TokenizerError(f"{path}: config.{key}: found {value!r}, expected 0 to {_MAX_TOKENS}")
    return value


def _ranks(path: Path, vocab: list[Any]) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for i, entry in enumerate(vocab):
        if not isinstance(entry, dict) or entry.get("rank") != i or not isinstance(entry.get("token_bytes"), str):
            raise TokenizerError(f"{path}: vocab[{i}]: found {entry!r:.100}, expected rank {i} and token_bytes")
        try:
            token = base64.b64decode(entry["token_bytes"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise TokenizerError(f"{path}: vocab[{i}].token_bytes: not base64: {error}") from None
        if not token or ranks.setdefault(token, i) != i:
            raise TokenizerError(f"{path}: vocab[{i}].token_bytes: found an empty token or one that is there already")
    return ranks
