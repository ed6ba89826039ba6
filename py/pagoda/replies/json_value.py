"""Reads JSON that comes in pieces: where a value ends, and the fields of one tool call.

Nothing here raises or looks twice at a character, whatever the text is. Used by tool_parser.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

_STRING_STOP = re.compile(r'["\\]')
_STRUCTURE = re.compile(r'["{}\[\]]')
_SCALAR_END = re.compile(r"[\s,}\]]")
_WHITESPACE = re.compile(r"\s*")


def skip_whitespace(text: str, begin: int) -> int:
    """The first position from `begin` on that holds no whitespace."""
    found = _WHITESPACE.match(text, begin)
    return found.end() if found else begin


class ValueEnd:
    """Finds the end of one JSON value. Brackets are counted, not matched: what is between them is not checked."""

    def __init__(self) -> None:
        self._started = False
        self._scalar = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str, begin: int) -> int | None:
        """One past the value's last character; None when it goes on behind `text`. `begin` < len(text)."""
        if not self._started:
            self._started = True
            self._scalar = text[begin] not in '"{['
        if self._scalar:
            found = _SCALAR_END.search(text, begin)
            return found.start() if found else None
        place = begin
        while place < len(text):
            place = self._in(text, place) if self._in_string else self._between(text, place)
            if place <= len(text) and self._depth == 0 and not self._in_string:
                return place
        return None

    def _in(self, text: str, place: int) -> int:
        if self._escaped:
            self._escaped = False
            return place + 1
        found = _STRING_STOP.search(text, place)
        if found is None:
            return len(text) + 1
        self._escaped = found.group() == "\\"
        self._in_string = self._escaped
        return found.end()

    def _between(self, text: str, place: int) -> int:
        found = _STRUCTURE.search(text, place)
        if found is None:
            return len(text) + 1
        mark = found.group()
        if mark == '"':
            self._in_string = True
        else:
            self._depth += 1 if mark in "{[" else -1
        return found.end()


class _Place:
    """Where a CallObject is."""

    OPEN = 0  # before the brace
    KEY = 1  # before a key or the closing brace
    IN_KEY = 2
    COLON = 3
    VALUE = 4  # before a value
    IN_VALUE = 5
    COMMA = 6  # behind a value


_FOLLOWING = {(_Place.OPEN, "{"): _Place.KEY, (_Place.COLON, ":"): _Place.VALUE, (_Place.COMMA, ","): _Place.KEY}


class CallObject:
    """One `{"name": ..., "arguments": {...}}`, whose arguments come out as their own text while they come in.

    It is a call for certain once its name and the beginning of its arguments are known, or its end without any. What
    turns out to be none is given back as it was written, in `raw`. "parameters" is another name for arguments.
    Arguments are an object. A JSON string is taken for the text in it, null for no arguments; any other value makes it
    no call.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        """With `names` only an object with one of them is a call."""
        self._names = names
        self.name: str | None = None
        self.certain = False
        self.done = False  # the closing brace was read
        self.failed = False  # this is no call; not after `certain`
        self._place = _Place.OPEN
        self._raw: list[str] = []
        self._key = ""
        self._parts: list[str] = []  # of the key or value being read
        self._value = ValueEnd()
        self._arguments: list[str] = []  # known and not yet taken
        self._has_arguments = False
        self._reads_arguments = False  # as they come; else at their end
        self._quoted = False

    @property
    def raw(self) -> str:
        """All that was read, as long as it is not certain to be a call."""
        return "".join(self._raw)

    def take_arguments(self) -> str:
        """The arguments' text since the last call."""
        text = "".join(self._arguments)
        self._arguments.clear()
        return text

    def feed(self, text: str, begin: int) -> int:
        """Reads on; returns where it stopped: behind the object, at what does not belong to it, or the text's end."""
        place = begin
        while place < len(text) and not self.done and not self.failed:
            place = self._step(text, place)
        if not self.certain:
            self._raw.append(text[begin:place])
        return place

    def finish(self) -> None:
        """No more text comes: what is not certain by now is no call."""
        self.failed = not self.certain

    def _step(self, text: str, place: int) -> int:
        if self._place == _Place.IN_KEY:
            return self._read_key(text, place)
        if self._place == _Place.IN_VALUE:
            return self._read_value(text, place)
        place = skip_whitespace(text, place)
        if place == len(text):
            return place
        char = text[place]
        if self._place == _Place.VALUE:
            self._begin_value(char)
            return place
        if self._place == _Place.KEY and char == '"':
            self._place, self._value = _Place.IN_KEY, ValueEnd()
            return place
        following = _FOLLOWING.get((self._place, char))
        if following is not None:
            self._place = following
        elif char == "}" and self._place in (_Place.KEY, _Place.COMMA):
            self._end()
        else:
            self._break()
            return place
        return place + 1

    def _read_key(self, text: str, place: int) -> int:
        end = self._value.feed(text, place)
        self._parts.append(text[place:end])
        if end is None:
            return len(text)
        self._key, self._place = _decoded("".join(self._parts)) or "", _Place.COLON
        self._parts.clear()
        return end

    def _begin_value(self, char: str) -> None:
        self._place, self._value = _Place.IN_VALUE, ValueEnd()
        self._quoted = char == '"'
        if self._wants_arguments():
            self._reads_arguments = self._has_arguments = char == "{"
            self.failed = char not in '{"n'
        self._settle()

    def _wants_arguments(self) -> bool:
        return self._key in ("arguments", "parameters") and not self._has_arguments

    def _read_value(self, text: str, place: int) -> int:
        end = self._value.feed(text, place)
        piece = text[place:end]
        if self._reads_arguments:
            self._arguments.append(piece)
        elif self._wants_arguments() or self._key == "name":
            self._parts.append(piece)
        if end is None:
            return len(text)
        whole = "".join(self._parts)
        value = _decoded(whole) if self._quoted else whole
        if self._wants_arguments():
            self._take_whole(value or "")
        elif self._key == "name" and self.name is None and self._quoted:
            self.name = value or None
        self._parts.clear()
        self._place, self._reads_arguments = _Place.COMMA, False
        self._settle()
        return end

    def _take_whole(self, value: str) -> None:
        """Arguments that are not an object itself: the text of one, or null."""
        value = value.strip()
        self._has_arguments = value == "null" or value.startswith("{")
        self.failed = not self._has_arguments
        self._arguments.append("{}" if value == "null" else value)

    def _settle(self) -> None:
        if self.failed or self.name is None or not self._has_arguments:
            return
        self.certain = self._names is None or self.name in self._names
        self.failed = not self.certain
        if self.certain:
            self._raw.clear()

    def _end(self) -> None:
        self.done = True
        if self.name is not None and not self._has_arguments:
            self._has_arguments = True
            self._arguments.append("{}")
        self._settle()
        self.failed = not self.certain

    def _break(self) -> None:
        """The text is not JSON: a call that is certain ends here."""
        self.done = self.certain
        self.failed = not self.certain


def _decoded(text: str) -> str | None:
    """The string that a JSON string stands for; None for what is none."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        return None
    # A lone surrogate cannot be sent.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
