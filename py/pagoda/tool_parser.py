"""ToolParser: takes tool calls out of generated text as it comes.

Owns what is content and what is part of a call. One for each answer; used by the server. Never raises, takes time
linear in the text, and gives the same message however the text was cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from pagoda.answer_delta import AnswerDelta, CallDelta
from pagoda.call_reader import MAX_NAME_CHARS, CallReader, ValueScanner
from pagoda.marker_finder import MarkerFinder
from pagoda.tool_format import ToolFormat

_PLAIN_NAME = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\][\w-]*)?(?:\[ARGS\])?\s*")
_BETWEEN_CALLS = " \t\r\n,;"


class ToolParser:
    """What is no call is content, word for word, except white space beside calls and an unfinished closing marker.

    A call is given out when its name is known and its arguments begin; from there on it is a call, whatever becomes of
    it. Text that only looks like one until then is content.
    """

    def __init__(self, form: ToolFormat, names: Collection[str] = (), forced: bool = False) -> None:
        """`names`: functions that a call without a marker may name. `forced`: the text is nothing but calls."""
        self.num_calls = 0
        self._form = form
        self._names = names
        self._forced = forced
        self._bare = form.bare or forced  # an area begins here without a marker, or has
        self._finder = MarkerFinder(form.opens)
        self._state: Callable[[ToolParser, str, int], int] = ToolParser._start
        self._reader = CallReader()
        self._scanner = ValueScanner("{")
        self._area_calls = 0
        self._in_list = False
        self._num_closed = 0  # characters of the closing marker that came
        self._name = ""  # the plain name that is being read
        self._held: list[str] = []  # white space, what stands between calls, or what is not known to be a call
        self._content: list[str] = []
        self._names_out: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}

    def push(self, text: str) -> AnswerDelta:
        """What `text` adds."""
        start = 0
        while start < len(text):
            start = self._state(self, text, start)
        return self._take()

    def finish(self) -> AnswerDelta:
        """What the end of the text adds."""
        if self._state in (ToolParser._text, ToolParser._start):
            self._held.append(self._finder.finish())
            if self.num_calls:
                self._drop_space()
        elif self._area_calls and self._state is not ToolParser._call:
            self._held = []
        self._content += self._held
        self._held = []
        return self._take()

    def _take(self) -> AnswerDelta:
        content, arguments, names = "".join(self._content), self._arguments, self._names_out
        self._content, self._arguments, self._names_out = [], {}, {}
        indices = sorted(names.keys() | arguments.keys())
        calls = [CallDelta(index, names.get(index), "".join(arguments.get(index, []))) for index in indices]
        return AnswerDelta("", content, calls)

    def _start(self, text: str, start: int) -> int:
        """White space at the beginning, behind which a call without a marker may come."""
        end = start
        while self._bare and end < len(text) and text[end].isspace():
            end += 1
        self._held.append(text[start:end])
        if end < len(text):
            self._bare = self._bare and (text[end] == "{" or (self._forced and text[end] == "["))
            self._state = ToolParser._area if self._bare else ToolParser._text
        return end

    def _text(self, text: str, start: int) -> int:
        """Content up to the next opening marker. White space is held back: a marker may follow."""
        self._bare = False
        plain, end = self._finder.feed(text, start)
        if stripped := plain.rstrip():
            self._content += [*self._held, stripped]
            self._held = []
        self._held.append(plain[len(stripped) :])
        if self._finder.found:
            self._finder = MarkerFinder(self._form.opens)
            self._held.append(self._form.opens)
            self._area_calls, self._in_list, self._num_closed = 0, False, 0
            self._state = ToolParser._area
        return end

    def _area(self, text: str, start: int) -> int:
        """Between calls, behind an opening marker."""
        char, closes = text[start], self._form.closes
        if self._num_closed or (self._area_calls and closes.startswith(char)):
            return self._closing(char, start)
        if char == "{":
            self._reader, self._state = CallReader(), ToolParser._call
            return start
        if char == "[" and not self._in_list and not self._area_calls:
            self._in_list = True
        elif char == "]" and self._in_list and self._area_calls:
            self._in_list = False
        elif char not in _BETWEEN_CALLS:
            if not self._form.plain_names or self._area_calls or self._in_list:
                return self._leave(start)
            self._name, self._state = "", ToolParser._plain_name
            return start
        self._held.append(char)
        return start + 1

    def _closing(self, char: str, start: int) -> int:
        """The closing marker, character by character."""
        closes = self._form.closes
        if closes[self._num_closed] == char:
            self._num_closed += 1
            if self._num_closed == len(closes):
                self._held = []
                self._state = ToolParser._text
            return start + 1
        # What looked like its beginning may be the beginning of the opening marker.
        begun, self._num_closed = closes[: self._num_closed], 0
        self._leave(start)
        self._text(begun, 0)
        return start

    def _leave(self, start: int) -> int:
        """The text goes on as content from `start`, and with it what was held, unless that is space behind a call."""
        if not self._area_calls or "".join(self._held).strip():
            self._content += self._held
            self._held = []
        self._state = ToolParser._text
        return start

    def _call(self, text: str, start: int) -> int:
        """A JSON object that should be a call."""
        reader = self._reader
        had_name = reader.name is not None
        end = reader.feed(text, start)
        if reader.name is None or not had_name:
            self._held.append(text[start:end])
        if reader.name is not None and not had_name:
            if self._bare and not self._forced and reader.name not in self._names:
                return self._leave(end)
            self._announce(reader.name)
        if arguments := reader.take_arguments():
            self._arguments.setdefault(self.num_calls - 1, []).append(arguments)
        if reader.failed:
            return self._leave(end)
        if reader.done:
            self._state = ToolParser._area
        return end

    def _plain_name(self, text: str, start: int) -> int:
        """A name, with its arguments right behind it."""
        stop = min(len(text), start + MAX_NAME_CHARS - len(self._name))
        end = text.find("{", start, stop)
        piece = text[start : stop if end < 0 else end]
        self._name += piece
        self._held.append(piece)
        if end < 0:
            return self._leave(stop) if len(self._name) == MAX_NAME_CHARS else stop
        found = _PLAIN_NAME.fullmatch(self._name)
        if found is None:
            return self._leave(end)
        self._announce(found[1])
        self._scanner, self._state = ValueScanner("{"), ToolParser._plain_arguments
        return end

    def _plain_arguments(self, text: str, start: int) -> int:
        end = self._scanner.feed(text, start, len(text))
        self._arguments.setdefault(self.num_calls - 1, []).append(text[start:end])
        if self._scanner.done:
            self._state = ToolParser._text
        return end

    def _announce(self, name: str) -> None:
        """From here on it is a call."""
        self._names_out[self.num_calls] = name
        self.num_calls += 1
        self._area_calls += 1
        self._held = []

    def _drop_space(self) -> None:
        if not "".join(self._held).strip():
            self._held = []
