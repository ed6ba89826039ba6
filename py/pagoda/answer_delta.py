"""AnswerDelta: what a piece of generated text adds to an assistant's message.

Made by reasoning_parser.py and tool_parser.py, read by the server. All deltas of an answer joined are the message,
however the text was cut into pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class CallDelta:
    """A part of tool call `index`: its name, once, before anything of its arguments, which are JSON text."""

    index: int
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class AnswerDelta:
    """Parts of the reasoning, of the content and of at most one CallDelta for each call."""

    reasoning: str = ""
    content: str = ""
    calls: list[CallDelta] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.calls)

    @classmethod
    def join(cls, parts: list[AnswerDelta]) -> AnswerDelta:
        """All parts as one, in order."""
        calls: dict[int, tuple[str | None, list[str]]] = {}
        for part in parts:
            for call in part.calls:
                _, pieces = calls.setdefault(call.index, (call.name, []))
                pieces.append(call.arguments)
        return cls(
            "".join(part.reasoning for part in parts),
            "".join(part.content for part in parts),
            [CallDelta(index, name, "".join(pieces)) for index, (name, pieces) in calls.items()],
        )
