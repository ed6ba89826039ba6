"""How the answers to one chat are made and read: the form that holds them, and the parsers of calls and reasoning.

Owns the decision where a reasoning may come before the form. Used by chat.py once the prompt is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.guided.behind_reasoning import behind_reasoning
from pagoda.replies.message_parser import Reading
from pagoda.replies.reasoning_parser import CLOSE, is_open, uses_reasoning
from pagoda.server.protocol import ChatRequest
from pagoda.server.state import ServerState
from pagoda.server.structured import GUIDED
from pagoda.server.tools import ToolUse, format_for, tool_sampling

_TAIL_TOKENS = 64  # of a prompt, in which an open or closed reasoning would stand


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """`sampling` with what tools and reasoning add; `form` names the field to blame for a form that cannot be used."""

    sampling: dict[str, Any]
    form: str | None
    reading: Reading


def plan_answer(state: ServerState, request: ChatRequest, prompt: list[int], sampling: Mapping[str, Any]) -> AnswerPlan:
    """Raises 400 for tools that this model cannot be given."""
    use = request.tools
    tool_format = None if use is None else format_for(state, use)
    demanded = use is not None and use.demanded
    is_guided = demanded or not GUIDED.keys().isdisjoint(sampling)
    reasons, tail = _reasons(state, use), _tail(state, prompt)
    opened = reasons and is_open(tail)
    made = dict(sampling) | tool_sampling(use, tool_format, "start")
    if is_guided and reasons and not tail.rstrip().endswith(CLOSE):
        behind = None
        if "guided_grammar" not in sampling:  # whose rules could have any name
            behind = behind_reasoning(dict(sampling) | tool_sampling(use, tool_format, "form"), opened)
        made = behind or made
        reasons = behind is not None  # else the form is the whole answer
    reading = Reading(
        tool_format=tool_format,
        tool_names=use.names if use is not None else (),
        schemas=use.schemas if use is not None else {},
        demanded=demanded,
        parallel=use is None or use.parallel,
        reasoning=reasons,
        reasoning_open=opened,
    )
    return AnswerPlan(made, "tools" if demanded else request.form, reading)


def _reasons(state: ServerState, use: ToolUse | None) -> bool:
    setting, template = state.settings.reasoning_parser, state.client.chat_template
    if setting != "auto" or template is None:
        return setting == "think"
    return uses_reasoning(template.source_for(use.tools if use else None))


def _tail(state: ServerState, prompt: list[int]) -> str:
    tokenizer = state.client.tokenizer
    return "" if tokenizer is None else tokenizer.decode(prompt[-_TAIL_TOKENS:], skip_special_tokens=False)
