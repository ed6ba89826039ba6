"""Fifty JSON schemas whose every text is finite: types, enumerations, formats, nesting, references, combinations."""

from __future__ import annotations

from typing import Any

_WORD = {"type": "string", "minLength": 1, "maxLength": 6}
_DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
_FLAG = {"type": "boolean"}


def _closed(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    """An object with these properties and no others; all required unless said otherwise."""
    needed = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def _list(items: Any, least: int = 0, most: int = 3) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _pattern(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


_SCALARS: list[dict[str, Any]] = [
    _FLAG,
    {"type": "null"},
    _DIGIT,
    _WORD,
    {"type": "integer", "minimum": -20, "maximum": 120},
    {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 7},
    {"enum": ["red", "green", "blue"]},
    {"enum": [1, "one", None, True, [1, 2], {"a": 1}]},
    {"const": "always"},
    {"const": {"deep": [1, {"b": None}]}},
    {"type": ["integer", "null"], "minimum": 1, "maximum": 3},
    {"type": "string", "enum": ["ä", "日本", "👍", 'q"uote', "back\\slash", "line\nbreak"]},
    _pattern("^[A-Z]{2}-[0-9]{3}$"),
    _pattern("^(yes|no|maybe)$"),
    _pattern(r"^\d{3}-\d{4}$"),
    _pattern("^[^aeiou]{1,4}$"),
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "maxLength": 0},
    {"type": "string", "minLength": 5, "maxLength": 5},
]
_OBJECTS: list[dict[str, Any]] = [
    _closed(),
    _closed(name=_WORD),
    _closed(name=_WORD, age={"type": "integer", "minimum": 0, "maximum": 150}),
    _closed(["a"], a=_DIGIT, b=_FLAG, c=_WORD),
    _closed([], a=_DIGIT, b=_FLAG),
    _closed(point=_closed(x=_DIGIT, y=_DIGIT), label=_WORD),
    _closed(a=_closed(b=_closed(c=_closed(d=_closed(e=_FLAG))))),
    _closed(**{"key with spaces": _FLAG, "ключ": _DIGIT, 'quo"te': {"type": "null"}}),
    _closed(**{f"field_{i}": _FLAG for i in range(12)}),
    {"type": "object", "additionalProperties": False},
    _closed(kind={"const": "circle"}, radius=_DIGIT),
    _closed(status={"enum": ["open", "closed"]}, tags=_list({"enum": ["a", "b", "c"]}, 1, 4)),
]
_ARRAYS: list[dict[str, Any]] = [
    _list(_DIGIT),
    _list(_FLAG, 2, 2),
    _list(_list(_DIGIT, 1, 2), 1, 2),
    _list(_closed(id=_DIGIT, ok=_FLAG), 1, 3),
    _list({"enum": ["x", "y"]}, 0, 5),
    {"type": "array", "prefixItems": [_DIGIT, _FLAG], "items": False, "minItems": 2},
    _list(_WORD, 0, 0),
]
_NODE = _closed(value=_DIGIT, children=_list({"$ref": "#/$defs/leaf"}, 0, 2))
_COMBINED: list[dict[str, Any]] = [
    {"anyOf": [_DIGIT, _FLAG]},
    {"anyOf": [_closed(a=_DIGIT), _closed(b=_FLAG)]},
    {"oneOf": [_closed(kind={"const": "cat"}, lives=_DIGIT), _closed(kind={"const": "dog"}, good=_FLAG)]},
    {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 8}]},
    {"allOf": [_closed(a=_DIGIT)]},
    {"$ref": "#/$defs/leaf", "$defs": {"leaf": _closed(v=_FLAG)}},
    {**_NODE, "$defs": {"leaf": _closed(v=_DIGIT)}},
    _closed(a={"anyOf": [{"type": "null"}, _WORD]}, b={"anyOf": [_list(_DIGIT, 0, 2), _FLAG]}),
    {"$defs": {"c": {"enum": ["r", "g"]}}, **_closed(first={"$ref": "#/$defs/c"}, second={"$ref": "#/$defs/c"})},
    {"definitions": {"n": _DIGIT}, **_closed(n={"$ref": "#/definitions/n"})},
    {"title": "Described", "description": "with words that mean nothing", "default": {}, **_closed(a=_FLAG)},
]

SCHEMAS = [*_SCALARS, *_OBJECTS, *_ARRAYS, *_COMBINED]
