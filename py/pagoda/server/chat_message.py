"""OpenAI's JSON of a parsed message, whole and as stream deltas. Pure functions; used by chat.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pagoda.replies.message_parser import Piece


def delta_of(piece: Piece) -> dict[str, Any]:
    """The `delta` of a stream chunk. A call's first delta has its id and name."""
    delta = piece.delta
    if delta is None:
        return {"reasoning_content": piece.reasoning}
    if delta.index is None:
        return {"content": delta.content}
    function: dict[str, Any] = {"arguments": delta.arguments}
    if delta.id is None:
        return {"tool_calls": [{"index": delta.index, "function": function}]}
    call = {"index": delta.index, "id": delta.id, "type": "function", "function": {"name": delta.name} | function}
    return {"tool_calls": [call]}


def whole_message(pieces: Sequence[Piece]) -> dict[str, Any]:
    """The `message` that all pieces make. Content is null beside calls when there is none."""
    reasoning = "".join(piece.reasoning for piece in pieces)
    content = "".join(piece.delta.content for piece in pieces if piece.delta is not None)
    calls: list[dict[str, Any]] = []
    arguments: list[list[str]] = []
    for piece in pieces:
        delta = piece.delta
        if delta is None or delta.index is None:
            continue
        if delta.id is not None:
            calls.append({"id": delta.id, "type": "function", "function": {"name": delta.name}})
            arguments.append([])
        arguments[delta.index].append(delta.arguments)
    for call, parts in zip(calls, arguments, strict=True):
        call["function"]["arguments"] = "".join(parts)
    message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
    message["refusal"] = None
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message
