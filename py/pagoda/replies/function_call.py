"""Reads one call in Qwen3-Coder's form while it comes in, and writes its arguments as JSON.

    <function=name>
    <parameter=key>
    value
    </parameter>
    </function>

Nothing here raises, whatever the text is, and the work is linear. Used by tool_parser.py in place of a CallObject.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pagoda.replies.json_value import skip_whitespace
from pagoda.replies.marks import may_become, overlap

_OPENER = "<function="
_HEAD = re.compile(r"<function=([\w.-]{1,128})>")
_HEAD_SO_FAR = re.compile(r"<function=[\w.-]{0,128}")
_PARAMETER = "<parameter="
_KEY = re.compile(r"<parameter=([^<>\n]{1,128})>")
_KEY_SO_FAR = re.compile(r"<parameter=[^<>\n]{0,128}")
_VALUE_END = "</parameter>"
_END = "</function>"
_PYTHONS = {"True": "true", "False": "false", "None": "null"}  # models write them, too


class FunctionCall:
    """It is a call for certain once its name is known. What does not belong to it ends it.

    A value is the text of a string, or JSON where the tool's schema says that it is none; what is no JSON is a string.
    Strings come out as they come in, other values at their end.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        """`schemas`: the JSON schemas of the tools' parameters, by the tools' names."""
        self._schemas = schemas
        self.name: str | None = None
        self.done = False
        self.failed = False  # this is no call; not after `certain`
        self.raw = ""  # nothing is taken in before it is certain
        self._types: set[str] = set()  # of the value being read
        self._in_value = False
        self._at_line = False  # a line break here is not part of the value
        self._parts: list[str] = []  # of a value that is told at its end
        self._arguments: list[str] = []  # known and not yet taken
        self._between = "{"  # what stands before the next key

    @property
    def certain(self) -> bool:
        """Whether this is a call."""
        return self.name is not None

    def take_arguments(self) -> str:
        """The arguments' text since the last call."""
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    def feed(self, text: str, begin: int) -> int:
        """Reads on; returns where it stopped. If it is neither done nor failed, the rest must come again with more."""
        place, last = begin, -1
        while last != place < len(text) and not self.done and not self.failed:
            last = place
            if self.name is None:
                place = self._read_head(text, place)
            elif self._in_value:
                place = self._read_value(text, place)
            else:
                place = self._read_key(text, skip_whitespace(text, place))
        return place

    def finish(self) -> None:
        """No more text comes."""
        self.failed = not self.certain

    def _read_head(self, text: str, place: int) -> int:
        found = _HEAD.match(text, place)
        if found:
            self.name = found[1]
            return found.end()
        self.failed = not (may_become(text, place, _OPENER) or _HEAD_SO_FAR.fullmatch(text, place))
        return place

    def _read_key(self, text: str, place: int) -> int:
        found = _KEY.match(text, place)
        if found:
            self._types = self._types_of(found[1])
            self._in_value = self._at_line = True
            quote = '"' if self._types == {"string"} else ""
            self._arguments.append(f"{self._between}{json.dumps(found[1], ensure_ascii=False)}: {quote}")
            self._between = ", "
            return found.end()
        if may_become(text, place, _PARAMETER) or may_become(text, place, _END) or _KEY_SO_FAR.fullmatch(text, place):
            return place
        self.done = True
        self._arguments.append("{}" if self._between == "{" else "}")
        return place + len(_END) if text.startswith(_END, place) else place

    def _types_of(self, key: str) -> set[str]:
        """What the schema says that a value may be; nothing where it says it in another way than by `type`."""
        properties = self._schemas.get(self.name or "", {}).get("properties")
        schema = properties.get(key) if isinstance(properties, dict) else None
        if not isinstance(schema, dict):
            return {"string"}
        named = schema.get("type")
        names = named if isinstance(named, list) else [named]
        return {name for name in names if isinstance(name, str)}

    def _read_value(self, text: str, place: int) -> int:
        if self._at_line:
            self._at_line = False
            place += text[place] == "\n"
        end = text.find(_VALUE_END, place)
        if end < 0:
            stop = len(text) - max(overlap(text, place, _VALUE_END), overlap(text, place, "\n" + _VALUE_END))
            self._take(text[place:stop])
            return stop
        self._take(text[place:end].removesuffix("\n"))
        self._end_value()
        return end + len(_VALUE_END)

    def _take(self, piece: str) -> None:
        if self._types == {"string"}:
            self._arguments.append(json.dumps(piece, ensure_ascii=False)[1:-1])
        else:
            self._parts.append(piece)

    def _end_value(self) -> None:
        self._in_value = False
        if self._types == {"string"}:
            self._arguments.append('"')
            return
        self._arguments.append(_as_json("".join(self._parts), self._types))
        self._parts.clear()


def _as_json(text: str, types: set[str]) -> str:
    """The JSON that a value's text is, or a JSON string of it."""
    solid = text.strip()
    solid = _PYTHONS.get(solid, solid)
    is_json = (solid == "null" and "null" in types) if "string" in types else _is_json(solid)
    return solid if is_json else json.dumps(text, ensure_ascii=False)


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
