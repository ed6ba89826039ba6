"""Anthropic's POST /v1/messages and /v1/messages/count_tokens, as an adapter around the chat endpoint.

Called by the router. A body becomes a chat body (messages_body.py), the chat's answer and its chunks become a message
and its events.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from aiohttp import web

from pagoda.server import prompts as texts
from pagoda.server.adapter import read_arguments
from pagoda.server.anthropic_error import anthropic_body
from pagoda.server.chat import ChatFormat, run_chat
from pagoda.server.edge import read_json
from pagoda.server.generation import Format
from pagoda.server.messages_body import translate
from pagoda.server.protocol import parse_chat
from pagoda.server.state import STATE

if TYPE_CHECKING:
    from pagoda.client import TokenEvent
    from pagoda.server.errors import ApiError

#: A request that the server ended can be sent again with what it made, to go on from there.
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "abort": "pause_turn"}


async def create_message(request: web.Request) -> web.StreamResponse:
    """Handles POST /v1/messages."""
    made = translate(await read_json(request))
    answer_id = f"msg_{uuid.uuid4().hex}"
    with made.own_names():
        return await run_chat(request, made.chat(), answer_id, lambda chat: MessageFormat(chat, answer_id))


async def count_tokens(request: web.Request) -> web.Response:
    """Handles POST /v1/messages/count_tokens: how many tokens the prompt of such a message has."""
    state = request.app[STATE]
    made = translate(await read_json(request), counting=True)
    with made.own_names():
        parsed = parse_chat(made.chat(), state.limits, state.settings.strict)
        texts.check_model(state, parsed.options.model)
        ids = await texts.encode_messages(state, parsed)
    return web.json_response({"input_tokens": len(ids)}, headers=parsed.options.ignored.headers())


class MessageFormat(Format):
    """JSON of messages, made of a chat's JSON. A stream is a sequence of content blocks, one open at a time."""

    named_events = True
    ping: ClassVar = {"type": "ping"}

    def __init__(self, chat: ChatFormat, answer_id: str) -> None:
        self.answer = chat.answer
        self._chat = chat
        self._id = answer_id
        self._num_blocks = 0
        self._open: tuple[str, int] | None = None  # type of the open block and, of a tool call, its index
        self._ending: dict[str, Any] = _ending({"finish_reason": None})

    def whole(self) -> dict[str, Any]:
        """The complete answer."""
        choice = self._chat.whole()["choices"][0]
        message, content = choice["message"], []
        if message.get("reasoning_content"):
            content.append({"type": "thinking", "thinking": message["reasoning_content"], "signature": ""})
        if message.get("content"):
            content.append({"type": "text", "text": message["content"], "citations": None})
        for call in message.get("tool_calls") or []:
            arguments = read_arguments(call["function"]["arguments"])
            content.append({"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": arguments})
        return self._message(content) | _ending(choice)

    def opening(self) -> list[dict[str, Any]]:
        """The message without its content."""
        return [{"type": "message_start", "message": self._message([]) | self._ending}]

    def chunks(self, prompt: int, event: TokenEvent) -> list[dict[str, Any]]:
        """Deltas, with the starts and ends of the blocks they belong to."""
        events = []
        for chunk in self._chat.chunks(prompt, event):
            choice = chunk["choices"][0]
            delta = choice["delta"]
            if delta.get("reasoning_content"):
                events += self._block("thinking", {"thinking": "", "signature": ""})
                events.append(self._delta("thinking_delta", "thinking", delta["reasoning_content"]))
            if delta.get("content"):
                events += self._block("text", {"text": "", "citations": None})
                events.append(self._delta("text_delta", "text", delta["content"]))
            for call in delta.get("tool_calls") or []:
                events += self._call(call)
            if choice["finish_reason"] is not None:
                self._ending = _ending(choice)
        return events

    def closing(self) -> list[dict[str, Any]]:
        """The reason for the end and the usage."""
        return [
            *self._close(),
            {"type": "message_delta", "delta": self._ending, "usage": self._usage()},
            {"type": "message_stop"},
        ]

    def failure(self, error: ApiError) -> list[dict[str, Any]]:
        """Anthropic's error event."""
        return [anthropic_body(error)]

    def _call(self, call: dict[str, Any]) -> list[dict[str, Any]]:
        function = call.get("function", {})
        start = {"id": call.get("id"), "name": function.get("name"), "input": {}}
        events = self._block("tool_use", start, call["index"])
        if function.get("arguments"):
            events.append(self._delta("input_json_delta", "partial_json", function["arguments"]))
        return events

    def _block(self, kind: str, start: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
        """Opens a block of this kind unless it is open."""
        if self._open == (kind, index):
            return []
        events = self._close()
        self._open = (kind, index)
        block = {"type": kind} | start
        return [*events, {"type": "content_block_start", "index": self._num_blocks, "content_block": block}]

    def _close(self) -> list[dict[str, Any]]:
        if self._open is None:
            return []
        self._open = None
        self._num_blocks += 1
        return [{"type": "content_block_stop", "index": self._num_blocks - 1}]

    def _delta(self, kind: str, name: str, text: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._num_blocks, "delta": {"type": kind, name: text}}

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._chat.model,
            "content": content,
            "usage": self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        """Tokens from the prefix cache are counted apart from the input."""
        usage = self.answer.usage()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {
            "input_tokens": usage["prompt_tokens"] - cached,
            "output_tokens": usage["completion_tokens"],
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
        }


def _ending(choice: dict[str, Any]) -> dict[str, Any]:
    reason, stopped_by = choice["finish_reason"], choice.get("stop_reason")
    if reason is None:
        return {"stop_reason": None, "stop_sequence": None}
    if reason == "stop" and isinstance(stopped_by, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
    return {"stop_reason": _STOP_REASONS.get(reason, "end_turn"), "stop_sequence": None}
