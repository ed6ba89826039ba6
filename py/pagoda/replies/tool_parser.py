"""Finds tool calls in a text while it is generated.

Owns what is held back because it may become a call. One per choice; whatever the text is and wherever it is cut into
pieces, the contents and calls that come out are the same, nothing is raised, and the work is linear.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.replies.function_call import FunctionCall
from pagoda.replies.json_value import CallObject, ValueEnd, skip_whitespace
from pagoda.replies.marks import may_become, overlap
from pagoda.replies.tool_format import ToolFormat

_NAME = re.compile(r"[\w.-]{1,128}")
_ID = re.compile(r"\w{0,64}")
_CALL_ID, _ARGS = "[CALL_ID]", "[ARGS]"


@dataclass(slots=True)
class Delta:
    """A piece of a message: content, or a part of call `index`. `id` and `name` come with a call's first piece."""

    content: str = ""
    index: int | None = None
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class _Place:
    """Where a parser is; plain numbers, because a step may be as short as a character."""

    START = 0  # only whitespace so far, and a call may begin without a marker
    CONTENT = 1
    OPENED = 2  # behind a marker
    NAMED = 3  # in a name that stands between marker and arguments
    NAMED_ARGUMENTS = 4
    CALL = 5
    BETWEEN = 6  # behind a call
    CLOSING = 7  # behind a list of calls, before its closer


class ToolParser:
    """`push` pieces of text, `finish` once."""

    def __init__(
        self,
        form: ToolFormat,
        names: Collection[str],
        demanded: bool = False,
        schemas: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """`names`: the tools of the request. `demanded`: the text is held to the grammar, so it begins with a call.

        `schemas`: the JSON schemas of the tools' parameters, by name; only calls that are not JSON need them.
        """
        self._form = form
        self._names = frozenset(names)
        self._schemas = schemas or {}
        self.num_calls = 0
        self._place = _Place.START if demanded or not form.markers else _Place.CONTENT
        self._held = ""  # the beginning of a marker, or of a name and its mark
        self._blanks: list[str] = []  # whitespace that goes if a call follows
        self._said = False  # some content was not whitespace
        self._prefix: list[str] = []  # what a call that turns out to be none gives back before its own text
        self._call: CallObject | FunctionCall = CallObject()
        self._told = False  # the current call's name has gone out
        self._arguments = ValueEnd()
        self._deltas: list[Delta] = []
        self._steps = (  # in the order of _Place
            self._start,
            self._content,
            self._opened,
            self._named,
            self._named_arguments,
            self._in_call,
            self._between,
            self._closing,
        )

    def push(self, text: str) -> list[Delta]:
        """Takes in the next piece; returns what it makes certain."""
        text, self._held = self._held + text, ""
        place = 0
        while place < len(text):
            place = self._steps[self._place](text, place)
        return self._take()

    def finish(self) -> list[Delta]:
        """The text has ended: what was held back, as far as it is content."""
        if self._place == _Place.CALL:
            self._call.finish()
            if self._call.failed:
                self._give_back(self._call.raw + self._held)
            else:
                self._tell_call()
        elif self._place in (_Place.OPENED, _Place.NAMED):
            self._give_back(self._held)
        elif self._place not in (_Place.BETWEEN, _Place.CLOSING):
            self._say(self._held)
        self._held = ""
        if not self.num_calls:
            self._release_blanks()
        return self._take()

    def _take(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def _start(self, text: str, place: int) -> int:
        end = skip_whitespace(text, place)
        if end > place:
            self._blanks.append(text[place:end])
        if end == len(text):
            return end
        for leader in (*self._form.leaders, *self._form.markers):
            if text.startswith(leader, end):
                self._open(leader)
                return end + len(leader)
            if may_become(text, end, leader):
                return self._hold(text, end)
        if text[end] == "{" or (text[end] == "[" and self._form.is_list):
            self._open("")
            return end
        self._place = _Place.CONTENT
        return end

    def _content(self, text: str, place: int) -> int:
        places = ((text.find(mark, place), mark) for mark in self._form.markers)
        found = min((hit for hit in places if hit[0] >= 0), default=None)
        if found is not None:
            self._say(text[place : found[0]])
            self._open(found[1])
            return found[0] + len(found[1])
        end = len(text) - max((overlap(text, place, mark) for mark in self._form.markers), default=0)
        self._say(text[place:end])
        return self._hold(text, end)

    def _open(self, marker: str) -> None:
        self._place, self._prefix = _Place.OPENED, [marker]

    def _opened(self, text: str, place: int) -> int:
        end = skip_whitespace(text, place)
        self._prefix.append(text[place:end])
        if end == len(text):
            return end
        if text[end] == self._form.first_char:
            self._begin_call()
        elif text[end] == "[" and self._form.is_list:
            self._prefix.append("[")
            end += 1
        elif self._form.has_special_markers and _NAME.match(text, end):
            self._place = _Place.NAMED
        else:
            self._give_back("")
        return end

    def _named(self, text: str, place: int) -> int:
        """Mistral's other way: [TOOL_CALLS]name[CALL_ID]id[ARGS]{...}, by some without id or marks. The id goes."""
        found = _NAME.match(text, place)
        end = behind = found.end() if found else place
        for mark in (_CALL_ID, _ARGS):
            if may_become(text, behind, mark):
                return self._hold(text, place)
            if text.startswith(mark, behind):
                behind += len(mark)
                known = _ID.match(text, behind) if mark == _CALL_ID else None
                behind = known.end() if known else behind
        if behind == len(text):
            return self._hold(text, place)
        if text[behind] != "{":
            self._give_back("")
            return place
        self._begin_told(text[place:end])
        self._place, self._arguments = _Place.NAMED_ARGUMENTS, ValueEnd()
        return behind

    def _named_arguments(self, text: str, place: int) -> int:
        end = self._arguments.feed(text, place)
        self._deltas.append(Delta(index=self.num_calls - 1, arguments=text[place:end]))
        if end is None:
            return len(text)
        self._place = _Place.BETWEEN
        return end

    def _begin_call(self) -> None:
        if self._form.is_json:
            # A call without a marker is one only if it names a tool of the request.
            self._call = CallObject(None if self._form.markers else self._names)
        else:
            self._call = FunctionCall(self._schemas)
        self._place, self._told = _Place.CALL, False

    def _in_call(self, text: str, place: int) -> int:
        end = self._call.feed(text, place)
        self._tell_call()
        if self._call.failed:
            self._give_back(self._call.raw)
        elif self._call.done:
            self._place, self._prefix = _Place.BETWEEN, []
        elif end < len(text):
            return self._hold(text, end)
        return end

    def _tell_call(self) -> None:
        if not self._call.certain:
            return
        if not self._told:
            self._told = True
            self._begin_told(self._call.name or "")
        arguments = self._call.take_arguments()
        if arguments:
            self._deltas.append(Delta(index=self.num_calls - 1, arguments=arguments))

    def _begin_told(self, name: str) -> None:
        self._blanks.clear()
        self._deltas.append(Delta(index=self.num_calls, id=self._form.make_id(), name=name))
        self.num_calls += 1

    def _between(self, text: str, place: int) -> int:
        end = skip_whitespace(text, place)
        if end == len(text):
            return end
        if text[end] == "{" and self._form.is_json:
            self._begin_call()
            return end
        if text[end] in ",;":
            return end + 1
        if text[end] == "]" and self._form.is_list:
            if self._form.markers:
                self._place = _Place.CLOSING if self._form.closer else _Place.CONTENT
            return end + 1
        for mark in (self._form.closer, *self._form.leaders, *self._form.markers):
            if mark and text.startswith(mark, end):
                if mark == self._form.closer:
                    self._place = _Place.CONTENT
                else:
                    self._open(mark)
                return end + len(mark)
            if mark and may_become(text, end, mark):
                return self._hold(text, end)
        self._place = _Place.CONTENT
        return end

    def _closing(self, text: str, place: int) -> int:
        end = skip_whitespace(text, place)
        if end == len(text):
            return end
        if may_become(text, end, self._form.closer):
            return self._hold(text, end)
        self._place = _Place.CONTENT
        return end + len(self._form.closer) if text.startswith(self._form.closer, end) else end

    def _hold(self, text: str, begin: int) -> int:
        """Keeps the rest until more of it has come."""
        self._held = text[begin:]
        return len(text)

    def _give_back(self, text: str) -> None:
        """What looked like a call is content."""
        self._say("".join(self._prefix) + text)
        self._place, self._prefix = _Place.CONTENT, []

    def _say(self, text: str) -> None:
        """Content, but for whitespace at its end, which is dropped if a call follows."""
        solid = text.rstrip()
        if solid:
            if self.num_calls and not self._said:
                self._blanks.clear()
                solid = solid.lstrip()
            self._said = True
            self._release_blanks()
            self._deltas.append(Delta(content=solid))
        if blanks := text[len(text.rstrip()) :]:
            self._blanks.append(blanks)

    def _release_blanks(self) -> None:
        if self._blanks:
            self._deltas.append(Delta(content="".join(self._blanks)))
            self._blanks.clear()
