"""Log probabilities as the two OpenAI endpoints write them.

Pure functions over the events' `{token id: Logprob}` dictionaries. An infinite or undefined value is written as
-9999.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pagoda.client import Logprob
    from pagoda.tokenizer import Tokenizer

#: JSON has no infinity; this stands for "impossible".
IMPOSSIBLE = -9999.0


def finite(value: float) -> float:
    """The log probability as a JSON number."""
    return max(value, IMPOSSIBLE) if math.isfinite(value) else IMPOSSIBLE


def token_name(token_id: int, entry: Logprob | None, tokenizer: Tokenizer | None) -> str:
    """The token's text; `token_id:N` when the model has no tokenizer."""
    if entry is not None and entry.decoded_token is not None:
        return entry.decoded_token
    return f"token_id:{token_id}" if tokenizer is None else tokenizer.token_text(token_id)


def best_first(entries: Mapping[int, Logprob]) -> list[tuple[int, Logprob]]:
    """The entries by falling log probability; equal ones by token id."""
    return sorted(entries.items(), key=lambda item: (-finite(item[1].logprob), item[0]))


def chat_content(
    token_ids: Sequence[int], logprobs: Sequence[Mapping[int, Logprob]], top: int, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """`choices[].logprobs` of a chat answer: for each token its bytes, its logprob and the `top` alternatives."""

    def describe(token_id: int, entry: Logprob) -> dict[str, Any]:
        text = token_name(token_id, entry, tokenizer)
        raw = text.encode() if tokenizer is None else tokenizer.token_bytes(token_id)
        return {"token": text, "logprob": finite(entry.logprob), "bytes": list(raw)}

    content = [
        describe(token, entries[token])
        | {"top_logprobs": [describe(other, entry) for other, entry in best_first(entries)[:top]]}
        for token, entries in zip(token_ids, logprobs, strict=True)
    ]
    return {"content": content, "refusal": None}


def completion_lists(
    token_ids: Sequence[int],
    logprobs: Sequence[Mapping[int, Logprob] | None],
    first_offset: int,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """`choices[].logprobs` of a completion: four parallel lists. The first token of a prompt has no logprob: null.

    `top_logprobs` holds the alternatives asked for and the chosen token. Offsets count characters of the token texts.
    """
    tokens: list[str] = []
    chosen: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    offset = first_offset
    for token, entries in zip(token_ids, logprobs, strict=True):
        entry = None if entries is None else entries[token]
        text = token_name(token, entry, tokenizer)
        tokens.append(text)
        chosen.append(None if entry is None else finite(entry.logprob))
        tops.append(None if entries is None else _top(entries, tokenizer))
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": chosen, "top_logprobs": tops, "text_offset": offsets}


def prompt_entries(
    logprobs: Sequence[Mapping[int, Logprob] | None], tokenizer: Tokenizer | None
) -> list[dict[str, Any] | None]:
    """The extension `prompt_logprobs`: for each prompt position null or {token id: {logprob, rank, decoded_token}}."""
    return [
        None
        if entries is None
        else {
            str(token): {
                "logprob": finite(entry.logprob),
                "rank": entry.rank,
                "decoded_token": token_name(token, entry, tokenizer),
            }
            for token, entry in best_first(entries)
        }
        for entries in logprobs
    ]


def _top(entries: Mapping[int, Logprob], tokenizer: Tokenizer | None) -> dict[str, float]:
    """Text to logprob; of tokens with the same text the most likely one stays."""
    result: dict[str, float] = {}
    for token, entry in best_first(entries):
        result.setdefault(token_name(token, entry, tokenizer), finite(entry.logprob))
    return result
