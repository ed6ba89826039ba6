"""What the adapters of other APIs share: a body translated into a chat body, and errors that name the caller's fields.

Pure functions over JSON. Used by messages_body.py and responses_body.py.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pagoda.server.errors import ApiError, invalid, show

#: Chat fields that have no place in the bodies and answers of other APIs.
CHAT_ONLY = frozenset(
    {
        "n",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "stream_options",
        "return_token_ids",
        "max_completion_tokens",
        "messages",
        "response_format",
    }
)
_PLACE = re.compile(r"messages\[(\d+)\]")
_TOOL = re.compile(r"(tools\[\d+\])\.function\b")  # other APIs describe a tool without this layer


@dataclass(slots=True)
class Translation:
    """A chat body in the making. `places[i]` names where `messages[i]` came from in the caller's body."""

    body: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def add(self, place: str, message: dict[str, Any]) -> None:
        """Appends a message."""
        self.messages.append(message)
        self.places.append(place)

    def pass_on(self, body: Mapping[str, Any], translated: frozenset[str]) -> None:
        """Hands fields that are not `translated` to the chat as they are: it checks them, and its own ones work."""
        for name, value in body.items():
            if name in translated or value is None:
                continue
            if name in CHAT_ONLY:
                raise invalid(name, f"{name} is not a field of this endpoint", "unsupported_parameter")
            self.body[name] = value

    def leave(self, place: str, given: Mapping[str, Any], known: Collection[str]) -> None:
        """Hands what the object at `place` holds besides the `known` fields to the chat, which names it as ignored."""
        self.body |= {f"{place}.{name}": value for name, value in given.items() if name not in known}

    def answer_schema(self, name: str, response_format: dict[str, Any]) -> None:
        """Sets the form of the answer; `name` is the caller's field, which holds schema and type side by side."""
        self.body["response_format"] = response_format
        self.names |= {"response_format.json_schema": name, "response_format": name}

    def rename(self, name: str, chat_name: str, value: Any) -> None:
        """Sets a chat field; errors about it will name the caller's field. Null is not given."""
        if value is not None:
            self.body[chat_name] = value
            self.names[chat_name] = name

    def chat(self) -> dict[str, Any]:
        """The chat body."""
        return {**self.body, "messages": self.messages}

    @contextlib.contextmanager
    def own_names(self) -> Iterator[None]:
        """Turns the chat's errors into errors about the caller's fields."""
        try:
            yield
        except ApiError as error:
            message, param = self._own(error.message), error.param and self._own(error.param)
            raise ApiError(
                error.status, message, param=param, code=error.code, headers=error.headers, close=error.close
            ) from None

    def _own(self, text: str) -> str:
        def place(match: re.Match[str]) -> str:
            index = int(match[1])
            return self.places[index] if index < len(self.places) else match[0]

        text = _TOOL.sub(r"\1", _PLACE.sub(place, text))
        for chat_name, name in self.names.items():
            text = re.sub(rf"^{re.escape(chat_name)}\b", name, text)
        return text


def take_object(value: Any, place: str, optional: bool = False) -> dict[str, Any]:
    """`value` if it is an object; an optional one that is null is empty. Raises 400 naming the place."""
    if optional and value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(place, f"{place} must be an object, got {show(value)}", "invalid_type")
    return value


def take_list(value: Any, place: str) -> list[Any]:
    """`value` if it is a list. Raises 400 naming the place."""
    if not isinstance(value, list):
        raise invalid(place, f"{place} must be a list, got {show(value)}", "invalid_type")
    return value


def take_string(value: Any, place: str) -> str:
    """`value` if it is a string. Raises 400 naming the place."""
    if not isinstance(value, str):
        raise invalid(place, f"{place} must be a string, got {show(value)}", "invalid_type")
    return value


def take_text(value: Any, place: str, types: tuple[str, ...] = ("text",)) -> str | list[dict[str, str]]:
    """A text or a list of text parts, as chat messages have them. Raises 400 for any other kind of part."""
    if isinstance(value, str):
        return value
    parts = []
    for index, item in enumerate(take_list(value, place)):
        part = take_object(item, f"{place}[{index}]")
        if part.get("type") not in types:
            text = f"{place}[{index}].type must be one of {', '.join(types)}, got {show(part.get('type'))}"
            raise invalid(f"{place}[{index}].type", text, "invalid_value")
        parts.append({"type": "text", "text": take_string(part.get("text"), f"{place}[{index}].text")})
    return parts


def tool_call(call_id: Any, name: Any, arguments: Any, place: str) -> dict[str, Any]:
    """A tool call as chat messages have it. `arguments`: JSON text."""
    function = {"name": take_string(name, f"{place}.name"), "arguments": arguments}
    return {"id": take_string(call_id, f"{place}.id"), "type": "function", "function": function}


def read_arguments(text: str) -> dict[str, Any]:
    """The object in a model's tool call; one that is no object is kept under `arguments`."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {"arguments": value}
