"""The output items of one response: built from deltas, told as events. Used by responses.py, streamed or not."""

from __future__ import annotations

from typing import Any

Events = list[dict[str, Any]]


class ItemWriter:
    """Items are reasoning, a message, and function calls; one is open at a time. `items` holds all of them.

    Every method returns the events that tell of its change, without their sequence numbers.
    """

    def __init__(self, suffix: str) -> None:
        """`suffix` makes the ids of the items unique among responses."""
        self.items: list[dict[str, Any]] = []
        self._suffix = suffix
        self._open: tuple[str, int] | None = None

    @property
    def is_text(self) -> bool:
        """Whether a message is open."""
        return self._open == ("message", 0)

    def reasoning(self, delta: str) -> Events:
        """More of what the model thinks before it answers."""
        part = {"type": "reasoning_text", "text": ""}
        events = self._start("reasoning", "rs", {"summary": [], "content": [part]})
        part = self.items[-1]["content"][0]
        part["text"] += delta
        return [*events, self._event("response.reasoning_text.delta", content_index=0, delta=delta)]

    def text(self, delta: str, logprobs: list[dict[str, Any]]) -> Events:
        """More of the answer's text."""
        is_new = not self.is_text
        events = self._start("message", "msg", {"role": "assistant", "content": []})
        content = self.items[-1]["content"]
        if is_new:
            content.append({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
            part = content[0] | {"logprobs": []}
            events.append(self._event("response.content_part.added", content_index=0, part=part))
        content[0]["text"] += delta
        content[0]["logprobs"] += logprobs
        return [
            *events,
            self._event("response.output_text.delta", content_index=0, delta=delta, logprobs=logprobs),
        ]

    def call(self, call: dict[str, Any]) -> Events:
        """A tool call as chat deltas have it: its first piece carries id and name."""
        function = call.get("function", {})
        fields = {"call_id": call.get("id"), "name": function.get("name"), "arguments": ""}
        events = self._start("function_call", "fc", fields, call.get("index", 0))
        arguments = function.get("arguments") or ""
        if arguments:
            self.items[-1]["arguments"] += arguments
            events.append(self._event("response.function_call_arguments.delta", delta=arguments))
        return events

    def close(self, status: str = "completed") -> Events:
        """Ends the open item, if there is one."""
        if self._open is None:
            return []
        kind, item = self._open[0], self.items[-1]
        self._open = None
        item["status"] = status
        if kind == "reasoning":
            text = item["content"][0]["text"]
            events = [self._event("response.reasoning_text.done", content_index=0, text=text)]
        elif kind == "message":
            part = item["content"][0]
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            events = [
                self._event("response.output_text.done", content_index=0, **done),
                self._event("response.content_part.done", content_index=0, part=dict(part)),
            ]
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            events = [self._event("response.function_call_arguments.done", **done)]
        return [*events, self._item_event("response.output_item.done")]

    def _start(self, kind: str, prefix: str, fields: dict[str, Any], index: int = 0) -> Events:
        if self._open == (kind, index):
            return []
        events = self.close()
        self._open = (kind, index)
        item_id = f"{prefix}_{self._suffix}_{len(self.items)}"
        self.items.append({"id": item_id, "type": kind, "status": "in_progress"} | fields)
        return [*events, self._item_event("response.output_item.added")]

    def _item_event(self, kind: str) -> dict[str, Any]:
        item = self.items[-1]
        copied = {"content": [dict(part) for part in item["content"]]} if "content" in item else {}
        return {"type": kind, "output_index": len(self.items) - 1, "item": item | copied}

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "item_id": self.items[-1]["id"], "output_index": len(self.items) - 1} | fields
