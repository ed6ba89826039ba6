"""Bodies of Anthropic's /v1/messages as chat bodies. Pure functions over JSON; used by messages.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pagoda.server.adapter import Translation, take_list, take_object, take_string, take_text, tool_call
from pagoda.server.errors import invalid, show

TRANSLATED = frozenset(
    {
        "messages",
        "system",
        "stop_sequences",
        "metadata",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "output_format",
    }
)
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def translate(body: Mapping[str, Any], counting: bool = False) -> Translation:
    """The chat body that a messages body means; one that only counts tokens needs no max_tokens. Raises ApiError 400.

    Fields that Anthropic does not know are passed on, so that the server's own sampling fields work here too.
    """
    made = Translation()
    made.pass_on(body, TRANSLATED)
    if body.get("max_tokens") is None and not counting:
        raise invalid("max_tokens", "max_tokens is required", "missing_required_parameter")
    if body.get("system") is not None:
        made.add("system", {"role": "system", "content": take_text(body["system"], "system")})
    turns = take_list(body.get("messages"), "messages")
    for index, turn in enumerate(turns):
        _add_turn(made, take_object(turn, f"messages[{index}]"), f"messages[{index}]")
    if turns and turns[-1].get("role") == "assistant":
        made.body |= {"add_generation_prompt": False, "continue_final_message": True}
    made.rename("stop_sequences", "stop", body.get("stop_sequences"))
    metadata = take_object(body.get("metadata"), "metadata", optional=True)
    made.rename("metadata.user_id", "user", metadata.get("user_id"))
    made.leave("metadata", metadata, ("user_id",))
    _add_tools(made, body)
    _add_thinking(made, body.get("thinking"))
    _add_output(made, body)
    return made


def _add_turn(made: Translation, turn: dict[str, Any], place: str) -> None:
    role, content = turn.get("role"), turn.get("content")
    if role not in ("user", "assistant"):
        raise invalid(f"{place}.role", f"{place}.role must be user or assistant, got {show(role)}", "invalid_value")
    if isinstance(content, str):
        return made.add(place, {"role": role, "content": content})
    blocks = [
        (f"{place}.content[{index}]", take_object(block, f"{place}.content[{index}]"))
        for index, block in enumerate(take_list(content, f"{place}.content"))
    ]
    if not blocks:
        raise invalid(f"{place}.content", f"{place}.content must not be empty", "invalid_value")
    return _add_assistant(made, blocks, place) if role == "assistant" else _add_user(made, blocks, place)


def _add_user(made: Translation, blocks: list[tuple[str, dict[str, Any]]], place: str) -> None:
    """Text parts are one message; each tool result is a message of its own, in its place."""
    parts: list[dict[str, str]] = []
    for where, block in blocks:
        if block.get("type") == "text":
            parts.append({"type": "text", "text": take_string(block.get("text"), f"{where}.text")})
        elif block.get("type") == "tool_result":
            if parts:
                made.add(place, {"role": "user", "content": parts})
                parts = []
            call_id = take_string(block.get("tool_use_id"), f"{where}.tool_use_id")
            given = block.get("content")
            content = "" if given is None else take_text(given, f"{where}.content") or ""
            made.add(place, {"role": "tool", "tool_call_id": call_id, "content": content})
        else:
            raise _wrong_type(where, block, "text or tool_result (this model reads text only)")
    if parts:
        made.add(place, {"role": "user", "content": parts})


def _add_assistant(made: Translation, blocks: list[tuple[str, dict[str, Any]]], place: str) -> None:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for where, block in blocks:
        kind = block.get("type")
        if kind == "text":
            texts.append(take_string(block.get("text"), f"{where}.text"))
        elif kind == "thinking":
            thoughts.append(take_string(block.get("thinking"), f"{where}.thinking"))
        elif kind == "tool_use":
            arguments = json.dumps(take_object(block.get("input"), f"{where}.input"), ensure_ascii=False)
            calls.append(tool_call(block.get("id"), block.get("name"), arguments, where))
        elif kind != "redacted_thinking":
            raise _wrong_type(where, block, "text, thinking or tool_use")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    made.add(place, message)


def _wrong_type(where: str, block: Mapping[str, Any], allowed: str) -> Exception:
    text = f"{where}.type must be {allowed}, got {show(block.get('type'))}"
    return invalid(f"{where}.type", text, "invalid_value")


def _add_tools(made: Translation, body: Mapping[str, Any]) -> None:
    if body.get("tools") is not None:
        tools = []
        for index, item in enumerate(take_list(body["tools"], "tools")):
            tool = take_object(item, f"tools[{index}]")
            if tool.get("type", "custom") != "custom":
                text = f"tools[{index}].type must be custom, got {show(tool['type'])}"
                raise invalid(f"tools[{index}].type", text, "invalid_value")
            function = {"name": tool.get("name"), "description": tool.get("description")}
            function["parameters"] = tool.get("input_schema")
            given = {key: value for key, value in function.items() if value is not None}
            tools.append({"type": "function", "function": given})
        made.body["tools"] = tools
    if body.get("tool_choice") is None:
        return
    choice = take_object(body["tool_choice"], "tool_choice")
    kind = choice.get("type")
    if kind == "tool":
        made.body["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif isinstance(kind, str) and kind in _CHOICES:
        made.body["tool_choice"] = _CHOICES[kind]
    else:
        text = f"tool_choice.type must be auto, any, tool or none, got {show(kind)}"
        raise invalid("tool_choice", text, "invalid_value")
    made.leave("tool_choice", choice, ("type", "name", "disable_parallel_tool_use"))
    if choice.get("disable_parallel_tool_use"):
        made.body["parallel_tool_calls"] = False


def _add_thinking(made: Translation, thinking: Any) -> None:
    """Templates of models that think know the variable `enable_thinking`; others do not read it."""
    if thinking is None:
        return
    made.leave("thinking", take_object(thinking, "thinking"), ("type",))
    kind = thinking.get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise invalid(
            "thinking", f"thinking.type must be enabled, disabled or adaptive, got {show(kind)}", "invalid_value"
        )
    if kind != "adaptive":
        given = take_object(made.body.get("chat_template_kwargs"), "chat_template_kwargs", optional=True)
        made.body["chat_template_kwargs"] = {"enable_thinking": kind == "enabled"} | given


def _add_output(made: Translation, body: Mapping[str, Any]) -> None:
    """The schema of the answer, in its two spellings."""
    place, wanted = "output_format", body.get("output_format")
    config = take_object(body.get("output_config"), "output_config", optional=True)
    made.leave("output_config", config, ("format",))
    if wanted is None:
        place, wanted = "output_config.format", config.get("format")
    if wanted is None:
        return
    made.leave(place, take_object(wanted, place), ("type", "schema"))
    kind = wanted.get("type")
    if kind != "json_schema":
        raise invalid(place, f"{place}.type must be json_schema, got {show(kind)}", "invalid_value")
    schema = {"name": "answer", "schema": wanted.get("schema"), "strict": True}
    made.answer_schema(place, {"type": "json_schema", "json_schema": schema})
