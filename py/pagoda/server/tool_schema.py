"""What can be seen to be wrong in the JSON schema of a tool's parameters, whoever reads it later. Used by tools.py."""

from __future__ import annotations

import re
from typing import Any

from pagoda.server.errors import invalid, show

TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
#: Complaints of Python's compiler about texts that are a regular expression in no language.
_HOPELESS = ("missing ), unterminated", "unbalanced parenthesis", "unterminated character set", "nothing to repeat")
#: Keywords whose values are schemas, lists of schemas, or schemas by name.
_ONE = ("items", "additionalProperties", "contains", "not", "propertyNames")
_LIST = ("anyOf", "allOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def check_schema(place: str, schema: dict[str, Any]) -> None:
    """Raises 400 naming the place of a `type` or `pattern` that is none, or of a subschema that is no schema."""
    found: list[tuple[str, Any]] = [(place, schema)]
    while found:
        place, value = found.pop()
        if isinstance(value, bool):
            continue
        if not isinstance(value, dict):
            raise invalid(place, f"{place} must be a JSON schema, got {show(value)}", "invalid_type")
        _check_type(f"{place}.type", value.get("type"))
        _check_pattern(f"{place}.pattern", value.get("pattern"))
        found += _subschemas(place, value)


def _check_type(place: str, value: Any) -> None:
    for name in value if isinstance(value, list) else [value]:
        if name is not None and name not in TYPES:
            raise invalid(place, f"{place} must be one of {', '.join(TYPES)}, got {show(name)}", "invalid_value")


def _check_pattern(place: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise invalid(place, f"{place} must be a regular expression, got {show(value)}", "invalid_type")
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        if str(error).startswith(_HOPELESS):
            raise invalid(place, f"{place} is not a regular expression: {error}", "invalid_value") from None


def _subschemas(place: str, schema: dict[str, Any]) -> list[tuple[str, Any]]:
    found = [(f"{place}.{key}", schema[key]) for key in _ONE if key in schema and not isinstance(schema[key], list)]
    for key in _LIST:
        for index, item in enumerate(_as(list, f"{place}.{key}", schema.get(key, []))):
            found.append((f"{place}.{key}[{index}]", item))
    for key in _NAMED:
        for name, item in _as(dict, f"{place}.{key}", schema.get(key, {})).items():
            found.append((f"{place}.{key}.{name[:64]}", item))
    return found


def _as(kind: type, place: str, value: Any) -> Any:
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a list"
        raise invalid(place, f"{place} must be {wanted}, got {show(value)}", "invalid_type")
    return value
