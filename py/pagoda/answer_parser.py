"""AnswerParser: from the text that a model generates to the parts of an assistant's message.

Puts reasoning_parser.py before tool_parser.py: calls in thoughts are thoughts. One for each choice; used by the server.
"""

from __future__ import annotations

from pagoda.answer_delta import AnswerDelta
from pagoda.reasoning_parser import ReasoningParser
from pagoda.tool_parser import ToolParser


class AnswerParser:
    """Either part may be absent. `max_calls`: further calls are left out; None for any number."""

    def __init__(
        self, reasoning: ReasoningParser | None, tools: ToolParser | None, max_calls: int | None = None
    ) -> None:
        self.num_calls = 0
        self._reasoning = reasoning
        self._tools = tools
        self._max_calls = max_calls

    def push(self, text: str) -> AnswerDelta:
        """What `text` adds to the message."""
        thoughts, content = ("", text) if self._reasoning is None else self._reasoning.push(text)
        return self._delta(thoughts, content, is_last=False)

    def finish(self) -> AnswerDelta:
        """What the end of the text adds."""
        thoughts, content = ("", "") if self._reasoning is None else self._reasoning.finish()
        return self._delta(thoughts, content, is_last=True)

    def _delta(self, thoughts: str, content: str, is_last: bool) -> AnswerDelta:
        if self._tools is None:
            return AnswerDelta(thoughts, content)
        parts = [AnswerDelta(thoughts), self._tools.push(content)]
        if is_last:
            parts.append(self._tools.finish())
        delta = AnswerDelta.join(parts)
        if self._max_calls is not None:
            delta.calls = [call for call in delta.calls if call.index < self._max_calls]
        self.num_calls += sum(call.name is not None for call in delta.calls)
        return delta
