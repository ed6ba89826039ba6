"""One message as it is generated: reasoning, then content and tool calls. Made by a Reading for each choice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pagoda.replies.reasoning_parser import ReasoningParser
from pagoda.replies.tool_format import ToolFormat
from pagoda.replies.tool_parser import Delta, ToolParser


@dataclass(frozen=True, slots=True)
class Reading:
    """How the messages of one request are read. Without a format and reasoning the text is the content.

    `schemas`: of the tools' parameters, by the tools' names. `demanded`: the text is held to the format's grammar.
    `parallel`: a message may have several calls, else those after the first are dropped. `reasoning_open`: the prompt
    has opened the reasoning.
    """

    tool_format: ToolFormat | None = None
    tool_names: Collection[str] = ()
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    demanded: bool = False
    parallel: bool = True
    reasoning: bool = False
    reasoning_open: bool = False

    def parser(self) -> MessageParser:
        """For one choice."""
        tools = None
        if self.tool_format:
            tools = ToolParser(self.tool_format, self.tool_names, self.demanded, self.schemas)
        reasoning = ReasoningParser(self.reasoning_open) if self.reasoning else None
        return MessageParser(reasoning, tools, self.parallel)


@dataclass(slots=True)
class Piece:
    """A part of a message that one step made certain: one kind of the three."""

    reasoning: str = ""
    delta: Delta | None = None


class MessageParser:
    """`push` pieces of text, `finish` once. Nothing is raised; the work is linear."""

    def __init__(self, reasoning: ReasoningParser | None, tools: ToolParser | None, parallel: bool = True) -> None:
        self._reasoning = reasoning
        self._tools = tools
        self._parallel = parallel

    @property
    def num_calls(self) -> int:
        """Tool calls that have begun."""
        return self._tools.num_calls if self._tools else 0

    def push(self, text: str) -> list[Piece]:
        """Takes in the next piece of the text."""
        if self._reasoning is None:
            return self._pieces("", text)
        return self._pieces(*self._reasoning.push(text))

    def finish(self) -> list[Piece]:
        """What was held back."""
        pieces = self._pieces(*self._reasoning.finish()) if self._reasoning else []
        return pieces + self._kept(self._tools.finish() if self._tools else [])

    def _pieces(self, reasoning: str, content: str) -> list[Piece]:
        pieces = [Piece(reasoning=reasoning)] if reasoning else []
        if content:
            deltas = self._tools.push(content) if self._tools else [Delta(content=content)]
            pieces += self._kept(deltas)
        return pieces

    def _kept(self, deltas: list[Delta]) -> list[Piece]:
        return [Piece(delta=delta) for delta in _joined(deltas) if self._parallel or not delta.index]


def _joined(deltas: list[Delta]) -> list[Delta]:
    """Neighbours of the same kind as one."""
    groups: list[list[Delta]] = []
    for delta in deltas:
        if groups and groups[-1][0].index == delta.index and delta.id is None:
            groups[-1].append(delta)
        else:
            groups.append([delta])
    for first, *others in groups:
        first.content += "".join(delta.content for delta in others)
        first.arguments += "".join(delta.arguments for delta in others)
    return [group[0] for group in groups]
