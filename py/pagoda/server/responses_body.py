"""Bodies of OpenAI's /v1/responses as chat bodies. Pure functions over JSON; used by responses.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pagoda.server.adapter import Translation, take_list, take_object, take_string, take_text, tool_call
from pagoda.server.errors import invalid, show

TRANSLATED = frozenset(
    {
        "input",
        "instructions",
        "max_output_tokens",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "include",
        "top_logprobs",
        "truncation",
        "background",
        "stream_options",
        "previous_response_id",
        "conversation",
        "prompt",
    }
)
#: What would need a memory of earlier answers.
_STATEFUL = ("previous_response_id", "conversation", "prompt")
_TEXT_PARTS = ("input_text", "output_text", "text")
_LOGPROBS = "message.output_text.logprobs"


def translate(body: Mapping[str, Any]) -> Translation:
    """The chat body that a responses body means. Raises ApiError 400."""
    made = Translation(names={"messages": "input"})
    made.pass_on(body, TRANSLATED)
    for name in _STATEFUL:
        if body.get(name) is not None:
            text = f"{name} is not supported: this server stores no responses; send the whole input"
            raise invalid(name, text, "unsupported_parameter")
    if body.get("background"):
        raise invalid("background", "background must be false", "unsupported_parameter")
    if body.get("instructions") is not None:
        made.add("instructions", {"role": "system", "content": take_string(body["instructions"], "instructions")})
    _add_input(made, body.get("input"))
    made.rename("max_output_tokens", "max_tokens", body.get("max_output_tokens"))
    _add_truncation(made, body.get("truncation"))
    _add_tools(made, body)
    _add_text(made, take_object(body.get("text"), "text", optional=True))
    included = body.get("include")
    if included is not None and _LOGPROBS in take_list(included, "include"):
        made.body["logprobs"] = True
        made.rename("top_logprobs", "top_logprobs", body.get("top_logprobs"))
    reasoning = take_object(body.get("reasoning"), "reasoning", optional=True)
    made.rename("reasoning.effort", "reasoning_effort", reasoning.get("effort"))
    made.leave("reasoning", reasoning, ("effort",))
    return made


def _add_input(made: Translation, given: Any) -> None:
    if given is None:
        raise invalid("input", "input is required", "missing_required_parameter")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    for index, value in enumerate(take_list(given, "input")):
        place = f"input[{index}]"
        item = take_object(value, place)
        kind = item.get("type", "message")
        if kind == "message":
            _add_message(made, item, place)
        elif kind == "function_call":
            arguments = take_string(item.get("arguments"), f"{place}.arguments")
            call = tool_call(item.get("call_id"), item.get("name"), arguments, place)
            _assistant(made, place).setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            call_id = take_string(item.get("call_id"), f"{place}.call_id")
            content = take_text(item.get("output"), f"{place}.output", _TEXT_PARTS)
            made.add(place, {"role": "tool", "tool_call_id": call_id, "content": content})
        elif kind == "reasoning":
            parts = item.get("content") or item.get("summary") or []
            text = _joined(take_text(parts, f"{place}.content", ("reasoning_text", "summary_text")))
            made.add(place, {"role": "assistant", "content": "", "reasoning_content": text})
        else:
            allowed = "message, function_call, function_call_output or reasoning"
            raise invalid(f"{place}.type", f"{place}.type must be {allowed}, got {show(kind)}", "invalid_value")


def _add_message(made: Translation, item: dict[str, Any], place: str) -> None:
    content = take_text(item.get("content"), f"{place}.content", _TEXT_PARTS)
    if item.get("role") == "assistant":
        _assistant(made, place, before_calls=True)["content"] = _joined(content)
    else:
        made.add(place, {"role": item.get("role"), "content": content})


def _assistant(made: Translation, place: str, before_calls: bool = False) -> dict[str, Any]:
    """The assistant's turn at the end: an answer's items (reasoning, text, calls) are one chat message."""
    last = made.messages[-1] if made.messages else None
    is_open = last is not None and last["role"] == "assistant"
    if last is None or not is_open or (before_calls and (last["content"] or "tool_calls" in last)):
        made.add(place, {"role": "assistant", "content": ""})
    return made.messages[-1]


def _joined(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _add_truncation(made: Translation, truncation: Any) -> None:
    if truncation == "auto":
        made.rename("truncation", "truncate_prompt_tokens", -1)
    elif truncation not in (None, "disabled"):
        raise invalid("truncation", f"truncation must be auto or disabled, got {show(truncation)}", "invalid_value")


def _add_tools(made: Translation, body: Mapping[str, Any]) -> None:
    if body.get("tools") is not None:
        tools = []
        for index, value in enumerate(take_list(body["tools"], "tools")):
            tool = take_object(value, f"tools[{index}]")
            if tool.get("type") != "function":
                text = f"tools[{index}].type must be function, got {show(tool.get('type'))}"
                raise invalid(f"tools[{index}].type", text, "invalid_value")
            function = {key: item for key, item in tool.items() if key != "type" and item is not None}
            tools.append({"type": "function", "function": function})
        made.body["tools"] = tools
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            text = f"tool_choice.type must be function, got {show(choice.get('type'))}"
            raise invalid("tool_choice", text, "invalid_value")
        made.leave("tool_choice", choice, ("type", "name"))
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    made.rename("tool_choice", "tool_choice", choice)


def _add_text(made: Translation, text: dict[str, Any]) -> None:
    """The form of the answer; `verbosity` is the chat's own field."""
    made.rename("text.verbosity", "verbosity", text.get("verbosity"))
    made.leave("text", text, ("verbosity", "format"))
    if text.get("format") is None:
        return
    wanted = take_object(text["format"], "text.format")
    if wanted.get("type") == "json_schema":
        schema = {key: value for key, value in wanted.items() if key != "type" and value is not None}
        wanted = {"type": "json_schema", "json_schema": schema}
    made.answer_schema("text.format", wanted)
