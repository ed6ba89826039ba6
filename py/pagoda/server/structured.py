"""Fields that ask for a form of the output: response_format, guided_json, guided_regex, guided_choice, guided_grammar.

Owns their checks and how a request's form is compiled off the event loop. Used by protocol.py, chat.py and
completions.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pagoda.config import InvalidArgument, SamplingParams
from pagoda.guided.grammar import ANY_OBJECT
from pagoda.server import field_kinds as kinds
from pagoda.server.errors import clean, invalid, show
from pagoda.server.field_kinds import Kind, Limits
from pagoda.server.state import ServerState

MAX_GRAMMAR_CHARS = 1 << 20
MAX_CHOICES = 4096
MAX_CHOICE_CHARS = 1 << 16
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def schema_text(name: str, value: Any, limits: Limits) -> str:
    """A JSON schema, as an object or as its text."""
    if isinstance(value, str):
        return str(kinds.string(MAX_GRAMMAR_CHARS, 1)(name, value, limits))
    text = json_text(name, kinds.any_object(name, value, limits))
    if len(text) > MAX_GRAMMAR_CHARS:
        complaint = f"{name} must be at most {MAX_GRAMMAR_CHARS} bytes of JSON, got {len(text)}"
        raise invalid(name, complaint, "invalid_value")
    return text


def json_text(name: str, value: Any) -> str:
    """JSON of a field's value. Raises 400 for one that nests too deeply to be written again."""
    try:
        return json.dumps(value)
    except RecursionError:
        raise invalid(name, f"{name} nests too deeply", "invalid_value") from None


def choices(name: str, value: Any, limits: Limits) -> list[str]:
    """A non-empty list of texts."""
    texts: list[str] = kinds.texts(MAX_CHOICES, MAX_CHOICE_CHARS)(name, value, limits)
    if not texts:
        raise invalid(name, f"{name} must not be empty", "invalid_value")
    return texts


def response_format(name: str, value: Any, limits: Limits) -> str | None:
    """The JSON schema that an OpenAI response_format asks for; None for plain text."""
    given = kinds.any_object(name, value, limits)
    kind = given.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    if kind != "json_schema":
        text = f"{name}.type must be text, json_object or json_schema, got {show(kind)}"
        raise invalid(f"{name}.type", text, "invalid_value")
    place = f"{name}.json_schema"
    described = kinds.any_object(place, given.get("json_schema"), limits)
    label = described.get("name", "schema")
    if not isinstance(label, str) or not _NAME.fullmatch(label):
        text = f"{place}.name must be 1 to 64 letters, digits, _ or -, got {show(label)}"
        raise invalid(f"{place}.name", text, "invalid_value")
    if described.get("strict") is not None:
        kinds.boolean(f"{place}.strict", described["strict"], limits)
    if not isinstance(described.get("schema"), dict):
        text = f"{place}.schema must be an object, got {show(described.get('schema'))}"
        raise invalid(f"{place}.schema", text, "invalid_type")
    return schema_text(f"{place}.schema", described["schema"], limits)


#: The fields that are sampling parameters of the same name.
GUIDED: dict[str, Kind] = {
    "guided_json": schema_text,
    "guided_regex": kinds.string(MAX_GRAMMAR_CHARS, 1),
    "guided_choice": choices,
    "guided_grammar": kinds.string(MAX_GRAMMAR_CHARS, 1),
}


def apply(values: Mapping[str, Any], sampling: dict[str, Any]) -> str | None:
    """Puts a response_format into `sampling`; returns the field that says the output's form. Raises 400 for two."""
    given = [name for name in (*GUIDED, "response_format") if values.get(name) is not None]
    if len(given) > 1:
        raise invalid(given[1], f"{given[1]} and {given[0]} exclude each other", "invalid_value")
    if given == ["response_format"]:
        sampling["guided_json"] = values["response_format"]
    return given[0] if given else None


async def compile_form(state: ServerState, params: SamplingParams, field: str | None) -> None:
    """Makes the request's grammar ready. Raises 400 that names `field` with the compiler's complaint."""
    if field is None:
        return
    try:
        await state.compile(params)
    except InvalidArgument as error:
        complaint = str(error).partition(" cannot be used: ")[2] or str(error)
        raise invalid(field, clean(f"{field} cannot be used: {complaint}"), "invalid_grammar") from None
