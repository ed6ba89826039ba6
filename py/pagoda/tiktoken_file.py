"""tiktoken vocabularies: lines of a base64 token and its rank (`*.tiktoken`, Llama 3's `tokenizer.model`).

Owns the file format and what the format leaves out: the split pattern and the special tokens of the vocabularies that
Pagoda knows. Called by tokenizer_directory.py.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagoda.byte_level_bpe import byte_level_json, ranked_model, splits
from pagoda.pre_tokenizers import CL100K, LLAMA3, O200K
from pagoda.tokenizer_spec import TokenizerError, read_limited

_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?")
_LLAMA3_SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
]


@dataclass(frozen=True, slots=True)
class TiktokenKind:
    """What a rank file does not say. `specials`: content -> id, or contents that follow the last rank."""

    pattern: str
    specials: Mapping[str, int] | list[str] = field(default_factory=list)
    bos_token: str | None = None
    eos_token: str | None = None
    extra_eos_tokens: tuple[str, ...] = ()


LLAMA3_KIND = TiktokenKind(
    LLAMA3, _LLAMA3_SPECIALS, "<|begin_of_text|>", "<|end_of_text|>", ("<|eom_id|>", "<|eot_id|>")
)
KINDS: dict[str, TiktokenKind] = {  # by the name of the file
    "cl100k_base.tiktoken": TiktokenKind(
        CL100K,
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
        eos_token="<|endoftext|>",
    ),
    "o200k_base.tiktoken": TiktokenKind(
        O200K, {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}, eos_token="<|endoftext|>"
    ),
}


def looks_like_tiktoken(head: bytes) -> bool:
    """Whether a file that begins with `head` (a few hundred bytes) is a rank file."""
    line, newline, _rest = head.partition(b"\n")
    return bool(newline) and _LINE.fullmatch(line) is not None


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes -> rank. Raises TokenizerError naming the file and the line that does not fit."""
    ranks: dict[bytes, int] = {}
    seen: set[int] = set()
    for number, line in enumerate(read_limited(path).splitlines(), start=1):
        if not line.strip():
            continue
        token, _space, rank_text = line.partition(b" ")
        if _LINE.fullmatch(line) is None or len(rank_text) > 9:
            raise TokenizerError(f"{path}: line {number}: found {line[:80]!r}, expected a base64 token and its rank")
        try:
            content, rank = base64.b64decode(token, validate=True), int(rank_text)
        except binascii.Error as error:
            raise TokenizerError(f"{path}: line {number}: found {token[:80]!r}, not base64: {error}") from None
        if content in ranks or rank in seen:
            raise TokenizerError(f"{path}: line {number}: found token or rank {rank} twice")
        ranks[content] = rank
        seen.add(rank)
    return ranks


def tiktoken_json(
    ranks: Mapping[bytes, int], kind: TiktokenKind, declared: Mapping[str, int], source: str
) -> tuple[dict[str, Any], dict[str, int]]:
    """tokenizer.json content without added tokens, and the special tokens (content -> id).

    `declared`: special tokens that files beside this one name; when there are any, they replace those of `kind`.
    """
    specials = dict(declared)
    if not specials:
        first = max(ranks.values(), default=-1) + 1
        named = kind.specials
        specials = dict(named) if isinstance(named, Mapping) else {token: first + i for i, token in enumerate(named)}
    return byte_level_json(ranked_model(ranks, specials, source), splits(kind.pattern)), specials
