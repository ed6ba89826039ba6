"""Checks a list of chat messages and brings it into the one shape that chat templates read.

Owns which roles, contents and tool calls are allowed; every error names the place (`messages[3].role`). Called by
chat_template.py, and by the server through it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")
#: Names under which a message's reasoning comes; templates read the first, those of gpt-oss the second.
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_PART_FIELDS = ("type", "text")


class TemplateError(ValueError):
    """A chat cannot be rendered: bad messages, or the template refused or failed. `param` names the field, if one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def validate_messages(messages: object) -> list[dict[str, Any]]:
    """Checked copies of `messages`, in the shape that templates read.

    Other fields that are null are left out, but an assistant's missing content becomes its refusal, or "": many
    templates add to it without asking. Text parts keep their type and text, and parts that are refusals become such.
    Arguments of a tool call that come as JSON text become the object. The rest stays as it is. Raises TemplateError
    naming the index and the field.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise TemplateError(f"messages must be a list, got {_kind(messages)}", "messages")
    if not messages:
        raise TemplateError("messages must hold at least one message, got []", "messages")
    return [_validate_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def join_text_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """For templates that know only string contents: the text parts of a list, joined by line breaks."""
    content = message["content"]
    return {**message, "content": "\n".join(part["text"] for part in content) if isinstance(content, list) else content}


def with_reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its reasoning, if any, under the two names that templates read."""
    reasoning = next((message[name] for name in REASONING_FIELDS if message.get(name) is not None), None)
    if reasoning is None:
        return dict(message)
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def validate_tools(tools: object) -> list[dict[str, Any]]:
    """Copies of the tools' JSON descriptions; [] for None. Raises TemplateError naming the index."""
    return _validate_objects(tools, "tools", "a JSON description of a function")


def validate_documents(documents: object) -> list[dict[str, Any]]:
    """Copies of the documents to answer from; [] for None. Raises TemplateError naming the index."""
    return _validate_objects(documents, "documents", "an object with title and text")


def _validate_objects(values: object, name: str, wanted: str) -> list[dict[str, Any]]:
    if values is None:
        return []
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise TemplateError(f"{name} must be a list, got {_kind(values)}", name)
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise TemplateError(f"{name}[{i}] must be {wanted}, got {_kind(value)}", f"{name}[{i}]")
    return [dict(value) for value in values]


def _validate_message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TemplateError(f"{where} must be an object with role and content, got {_kind(message)}", where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        shown = repr(role) if isinstance(role, str) else _kind(role)
        raise TemplateError(f"{where}.role must be one of {', '.join(ROLES)}, got {shown}", f"{where}.role")
    checked = {key: value for key, value in message.items() if value is not None}
    checked["content"] = _validate_content(message, role, where)
    for key in ("name", "tool_call_id"):
        if key in checked and not isinstance(checked[key], str):
            raise TemplateError(f"{where}.{key} must be a string, got {_kind(checked[key])}", f"{where}.{key}")
    if role == "tool" and "tool_call_id" not in checked:
        raise TemplateError(
            f"{where}.tool_call_id is missing: a tool message names the call it answers", f"{where}.tool_call_id"
        )
    if "tool_calls" in checked:
        checked["tool_calls"] = _validate_tool_calls(checked["tool_calls"], role, where)
    return checked


def _validate_content(message: Mapping[str, Any], role: str, where: str) -> str | list[dict[str, str]]:
    content = message.get("content")
    where += ".content"
    if content is None:
        if role == "assistant" and isinstance(message.get("refusal"), str):
            return str(message["refusal"])
        if role == "assistant" and any(message.get(name) for name in ("tool_calls", *REASONING_FIELDS)):
            return ""
        raise TemplateError(f"{where} must be a string or a list of text parts, got null", where)
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not content:
        shown = "[]" if isinstance(content, Sequence) else _kind(content)
        raise TemplateError(f"{where} must be a string or a non-empty list of text parts, got {shown}", where)
    return [_validate_part(part, role, f"{where}[{i}]") for i, part in enumerate(content)]


def _validate_part(part: object, role: str, where: str) -> dict[str, str]:
    if not isinstance(part, Mapping):
        raise TemplateError(f"{where} must be an object, got {_kind(part)}", where)
    kind = part.get("type")
    if kind == "refusal" and role == "assistant" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    if kind != "text":
        shown = repr(kind) if isinstance(kind, str) else _kind(kind)
        raise TemplateError(f'{where}.type must be "text" (this model reads text only), got {shown}', f"{where}.type")
    if not isinstance(part.get("text"), str):
        raise TemplateError(f"{where}.text must be a string, got {_kind(part.get('text'))}", f"{where}.text")
    return {name: value for name, value in part.items() if name in _PART_FIELDS}


def _validate_tool_calls(calls: object, role: str, where: str) -> list[dict[str, Any]]:
    where += ".tool_calls"
    if role != "assistant":
        raise TemplateError(f"{where} is allowed in assistant messages only, got role {role!r}", where)
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise TemplateError(f"{where} must be a list, got {_kind(calls)}", where)
    return [_validate_tool_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _validate_tool_call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise TemplateError(f"{where}.function must be an object with name and arguments", f"{where}.function")
    if not isinstance(function.get("name"), str):
        shown = _kind(function.get("name"))
        raise TemplateError(f"{where}.function.name must be a string, got {shown}", f"{where}.function.name")
    if "arguments" not in function:
        return dict(call)
    arguments = function["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        field = f"{where}.function.arguments"
        raise TemplateError(f"{field} must be a JSON object (or its text)", field)
    return {**call, "function": {**function, "arguments": dict(arguments)}}


def _kind(value: object) -> str:
    """The JSON name of a value's type, for error texts."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return "a string"
    return (
        "a list" if isinstance(value, Sequence) else "an object" if isinstance(value, Mapping) else type(value).__name__
    )
