"""OpenAI's POST /v1/responses, stateless, as an adapter around the chat endpoint.

Called by the router. A body becomes a chat body (responses_body.py), the chat's answer and its chunks become output
items (response_items.py).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pagoda.server.chat import ChatFormat, run_chat
from pagoda.server.edge import read_json
from pagoda.server.generation import Format
from pagoda.server.response_items import Events, ItemWriter
from pagoda.server.responses_body import translate

if TYPE_CHECKING:
    from pagoda.client import TokenEvent
    from pagoda.server.errors import ApiError


async def create_response(request: web.Request) -> web.StreamResponse:
    """Handles POST /v1/responses."""
    body = await read_json(request)
    made = translate(body)
    suffix = uuid.uuid4().hex
    with made.own_names():
        return await run_chat(request, made.chat(), f"resp_{suffix}", lambda chat: ResponseFormat(chat, body, suffix))


class ResponseFormat(Format):
    """JSON of responses, made of a chat's JSON. The events of a stream are numbered."""

    named_events = True

    def __init__(self, chat: ChatFormat, body: Mapping[str, Any], suffix: str) -> None:
        self.answer = chat.answer
        self._chat = chat
        self._body = body
        self._id = f"resp_{suffix}"
        self._items = ItemWriter(suffix)
        self._finish: str | None = None
        self._logprobs: Events = []  # of text that is held back
        self._num_events = 0

    def whole(self) -> dict[str, Any]:
        """The complete answer."""
        chat = self._chat.whole()
        choice = chat["choices"][0]
        self._take(choice["message"], choice)
        self._items.close(self._item_status())
        return self._response(*self._status())

    def opening(self) -> Events:
        """The response without its output."""
        return self._numbered(
            [
                {"type": "response.created", "response": self._response("in_progress")},
                {"type": "response.in_progress", "response": self._response("in_progress")},
            ]
        )

    def chunks(self, prompt: int, event: TokenEvent) -> Events:
        """Deltas, with the starts and ends of the items they belong to."""
        events: Events = []
        for chunk in self._chat.chunks(prompt, event):
            choice = chunk["choices"][0]
            events += self._take(choice["delta"], choice)
        return self._numbered(events)

    def closing(self) -> Events:
        """The end of the last item and the whole response."""
        status, details = self._status()
        kind = "response.completed" if status == "completed" else "response.incomplete"
        events = self._items.text("", self._logprobs) if self._logprobs and self._items.is_text else []
        events += self._items.close(self._item_status())
        return self._numbered([*events, {"type": kind, "response": self._response(status, details)}])

    def failure(self, error: ApiError) -> Events:
        """The response with its error."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        response = self._response("failed") | {"error": {"code": code, "message": error.body()["error"]["message"]}}
        return self._numbered([{"type": "response.failed", "response": response}])

    def _take(self, delta: Mapping[str, Any], choice: Mapping[str, Any]) -> Events:
        """A chat's delta, or its whole message, as one."""
        events: Events = []
        if delta.get("reasoning_content"):
            events += self._items.reasoning(delta["reasoning_content"])
        self._logprobs += (choice.get("logprobs") or {}).get("content") or []
        if delta.get("content"):
            events += self._items.text(delta["content"], self._logprobs)
            self._logprobs = []
        for index, call in enumerate(delta.get("tool_calls") or []):
            events += self._items.call({"index": index} | call)
        if choice["finish_reason"] is not None:
            self._finish = choice["finish_reason"]
        return events

    def _numbered(self, events: Events) -> Events:
        for event in events:
            event["sequence_number"] = self._num_events
            self._num_events += 1
        return events

    def _item_status(self) -> str:
        return "incomplete" if self._finish in ("length", "abort") else "completed"

    def _status(self) -> tuple[str, dict[str, Any] | None]:
        """Status and incomplete_details; what the server aborted is cancelled."""
        if self._finish == "length":
            return "incomplete", {"reason": "max_output_tokens"}
        return ("cancelled" if self._finish == "abort" else "completed"), None

    def _response(self, status: str, incomplete_details: dict[str, Any] | None = None) -> dict[str, Any]:
        params, body = self._chat.params, self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._chat.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": incomplete_details,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata") or {},
            "model": self._chat.model,
            "output": list(self._items.items) if status != "in_progress" else [],
            "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": {"effort": (body.get("reasoning") or {}).get("effort"), "summary": None},
            "store": False,
            "temperature": params.temperature,
            "text": {"format": (body.get("text") or {}).get("format") or {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": [{"strict": True, "parameters": None} | tool for tool in body.get("tools") or []],
            "top_logprobs": body.get("top_logprobs"),
            "top_p": params.top_p,
            "truncation": body.get("truncation") or "disabled",
            "usage": None if status == "in_progress" else self._usage(),
            "user": body.get("user"),
        }

    def _usage(self) -> dict[str, Any]:
        usage = self.answer.usage()
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"] | {"cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage.get("completion_tokens_details") or {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
