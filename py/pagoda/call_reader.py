"""CallReader: reads one tool call, a JSON object, from text that comes in pieces.

Owns the fields that a call may have. Knows nothing of what stands around the object; used by tool_parser.py. Time is
linear in the text, and nothing depends on where the pieces end.
"""

from __future__ import annotations

import json
import re
from enum import Enum, auto

_SPACE = " \t\r\n"
_OPENING, _CLOSING = "{[", "}]"
_IN_STRING = re.compile(r'["\\]')
_IN_NESTED = re.compile(r'["{}\[\]]')
_SCALAR = re.compile(r"[-+.\w]*")
_NAME, _ARGUMENTS, _LABELS = "name", ("arguments", "parameters"), ("id", "type")
MAX_NAME_CHARS = 256  # as it is written; a longer key or name is no call


class ValueScanner:
    """Finds the end of one JSON value: brackets are counted and strings skipped, nothing more is checked."""

    def __init__(self, first: str) -> None:
        """`first` is the value's first character, which is fed as well."""
        self.done = False
        self.is_nested = first in _OPENING
        self.is_string = first == '"'
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str, start: int, stop: int) -> int:
        """How far the value reaches in `text[start:stop]`: the index behind its end, or `stop` when it goes on."""
        if not (self.is_nested or self.is_string):
            found = _SCALAR.match(text, start, stop)
            start = found.end() if found is not None else start
            self.done = start < stop
            return start
        while start < stop and not self.done:
            if self._escaped:
                self._escaped = False
                start += 1
                continue
            found = (_IN_STRING if self._in_string else _IN_NESTED).search(text, start, stop)
            if found is None:
                return stop
            start = found.end()
            self._take(found[0])
        return start

    def _take(self, char: str) -> None:
        if char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = not self._in_string
            self.done = not self._in_string and self._depth == 0
        else:
            self._depth += 1 if char in _OPENING else -1
            self.done = self._depth == 0


class _Expect(Enum):
    """What comes next, white space aside."""

    OBJECT = auto()
    KEY_OR_END = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    REST = auto()  # of the key or value that `_scanner` reads
    COMMA_OR_END = auto()


class CallReader:
    """Reads `{"name": "f", "arguments": {...}}`, with its fields in any order and `parameters` for `arguments`.

    `name` is known as soon as it is clear that this is a call: it has a name, and its arguments have begun or the
    object has ended. `failed` says that the text does not go on as a call; with a `name` it is one all the same.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.done = False
        self.failed = False
        self._expect = _Expect.OBJECT
        self._scanner = ValueScanner("{")
        self._key: str | None = None
        self._value: list[str] = []
        self._size = 0
        self._read_name: str | None = None
        self._out: list[str] = []
        self._seen: set[str] = set()

    def feed(self, text: str, start: int) -> int:
        """Reads on, to the end of `text` or until `done`, `failed` or a new `name`; returns the index behind it."""
        named = self.name
        while start < len(text) and not self.done and not self.failed and self.name is named:
            if self._expect is _Expect.REST:
                start = self._rest(text, start)
            elif text[start] in _SPACE:
                start += 1
            elif self._expect in (_Expect.KEY, _Expect.KEY_OR_END, _Expect.VALUE) and self._begin(text[start]):
                continue
            else:
                self._punctuation(text[start])
                start += not self.failed
        return start

    def take_arguments(self) -> str:
        """The arguments' JSON text that came since the last call; empty while `name` is None."""
        if self.name is None:
            return ""
        out, self._out = "".join(self._out), []
        return out

    def _punctuation(self, char: str) -> None:
        if self._expect is _Expect.OBJECT and char == "{":
            self._expect = _Expect.KEY_OR_END
        elif self._expect is _Expect.COLON and char == ":":
            self._expect = _Expect.VALUE
        elif self._expect is _Expect.COMMA_OR_END and char == ",":
            self._expect = _Expect.KEY
        elif self._expect in (_Expect.COMMA_OR_END, _Expect.KEY_OR_END) and char == "}" and self._read_name:
            self._announce()
            if not self._seen.intersection(_ARGUMENTS):
                self._out.append("{}")
            self.done = True
        else:
            self.failed = True

    def _begin(self, char: str) -> bool:
        """Begins the key or value whose first character this is, if one can begin with it."""
        if self._expect is not _Expect.VALUE:
            if char != '"':
                return False
            self._key = None
        elif not self._may_begin_value(char):
            return False
        self._scanner = ValueScanner(char)
        self._value, self._size = [], 0
        self._expect = _Expect.REST
        if self._streams and self._read_name:
            self._announce()
        return True

    def _may_begin_value(self, char: str) -> bool:
        if char == "[":
            return self._key not in _ARGUMENTS
        return char in '{"' or _SCALAR.fullmatch(char) is not None

    @property
    def _streams(self) -> bool:
        """The value that is being read is an object of arguments."""
        return self._key in _ARGUMENTS and self._scanner.is_nested

    def _rest(self, text: str, start: int) -> int:
        scanner = self._scanner
        is_long = self._key in _ARGUMENTS
        stop = len(text) if is_long else min(len(text), start + MAX_NAME_CHARS + 3 - self._size)
        end = scanner.feed(text, start, stop)
        self._size += end - start
        (self._out if self._streams else self._value).append(text[start:end])
        if scanner.done:
            value = "".join(self._value)
            self.failed = not (self._end_key(value) if self._key is None else self._end_value(value))
        else:
            self.failed = not is_long and self._size > MAX_NAME_CHARS + 2
        return end

    def _end_key(self, value: str) -> bool:
        key = _string(value)
        if key not in (_NAME, *_ARGUMENTS, *_LABELS) or key in self._seen:
            return False
        if key in _ARGUMENTS and self._seen.intersection(_ARGUMENTS):
            return False
        self._key = key
        self._seen.add(key)
        self._expect = _Expect.COLON
        return True

    def _end_value(self, value: str) -> bool:
        """Takes a complete value; False when the call must not have it."""
        self._expect = _Expect.COMMA_OR_END
        if self._key == _NAME:
            self._read_name = _string(value) if self._scanner.is_string else None
            if not self._read_name:
                return False
            if self._seen.intersection(_ARGUMENTS):
                self._announce()
        elif self._key in _ARGUMENTS and not self._scanner.is_nested:
            # Some models write the arguments' JSON text as a string.
            arguments = _string(value) if self._scanner.is_string else "{}" if value == "null" else None
            if arguments is None:
                return False
            self._out.append(arguments or "{}")
            if self._read_name:
                self._announce()
        return self._key not in _LABELS or not self._scanner.is_nested

    def _announce(self) -> None:
        self.name = self._read_name


def _string(value: str) -> str | None:
    """The text of a JSON string; None when it is none or cannot be written as UTF-8."""
    try:
        text = json.loads(value, strict=False)
        text.encode()
    except (ValueError, AttributeError):
        return None
    return text if isinstance(text, str) else None
