"""Checks chat messages and reduces them to what a chat template reads: a role, a text, perhaps a name.

Errors name the message by index (`messages[3].role`). Called by protocol.py and the /tokenize handler.
"""

from __future__ import annotations

from typing import Any

from pagoda.server.errors import ApiError, invalid, show
from pagoda.server.field_kinds import MAX_LABEL_CHARS, Limits

#: Roles a client may write, and the role a template sees.
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_UNSUPPORTED_ROLES = frozenset({"tool", "function"})
_UNSUPPORTED_KEYS = ("tool_calls", "function_call", "tool_call_id", "audio", "reasoning_content")


def parse_messages(value: Any, limits: Limits) -> list[dict[str, Any]]:
    """A non-empty list of messages with string contents. Raises ApiError 400."""
    if value is None:
        raise invalid("messages", "messages is required", "missing_required_parameter")
    if not isinstance(value, list):
        raise invalid("messages", f"messages must be a list, got {show(value)}", "invalid_type")
    if not value:
        raise invalid("messages", "messages must not be empty", "invalid_value")
    if len(value) > limits.max_messages:
        text = f"messages must have at most {limits.max_messages} entries, got {len(value)}"
        raise invalid("messages", text, "invalid_value")
    return [_message(f"messages[{index}]", item) for index, item in enumerate(value)]


def _message(where: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise invalid(where, f"{where} must be an object, got {show(item)}", "invalid_type")
    role = item.get("role")
    if isinstance(role, str) and role in _UNSUPPORTED_ROLES:
        raise _not_supported(f"{where}.role", f"the role {role!r}")
    if not isinstance(role, str) or role not in ROLES:
        text = f"{where}.role must be one of {', '.join(ROLES)}, got {show(role)}"
        raise invalid(f"{where}.role", text, "invalid_value")
    for key in _UNSUPPORTED_KEYS:
        if item.get(key):
            raise _not_supported(f"{where}.{key}", key)
    message = {"role": ROLES[role], "content": _content(f"{where}.content", item.get("content"))}
    name = item.get("name")
    if name is not None:
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_LABEL_CHARS:
            text = f"{where}.name must be a string of 1 to {MAX_LABEL_CHARS} characters, got {show(name)}"
            raise invalid(f"{where}.name", text, "invalid_value")
        message["name"] = name
    return message


def _content(where: str, value: Any) -> str:
    """A string, or a list of text parts joined without a separator."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise invalid(where, f"{where} must be a string or a list of text parts, got {show(value)}", "invalid_type")
    parts = []
    for index, part in enumerate(value):
        if not isinstance(part, dict):
            raise invalid(where, f"{where}[{index}] must be an object, got {show(part)}", "invalid_type")
        if part.get("type") != "text":
            raise _not_supported(f"{where}[{index}]", f"a content part of type {show(part.get('type'))}")
        text = part.get("text")
        if not isinstance(text, str):
            raise invalid(where, f"{where}[{index}].text must be a string, got {show(text)}", "invalid_type")
        parts.append(text)
    return "".join(parts)


def _not_supported(param: str, what: str) -> ApiError:
    return invalid(param, f"{param}: {what} is not supported by this server", "unsupported_parameter")
