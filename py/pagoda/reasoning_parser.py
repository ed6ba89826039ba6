"""ReasoningParser: separates what a model thinks, between <think> and </think>, from what it answers.

Owns the two tags and where they count: thoughts come first. One for each answer; used by answer_parser.py. Never
raises, takes linear time, and gives the same result however the text was cut into pieces.
"""

from __future__ import annotations

from collections.abc import Callable

from pagoda.marker_finder import MarkerFinder

OPENS, CLOSES = "<think>", "</think>"


def uses_thoughts(template: str) -> bool:
    """Whether a chat template's text knows thoughts between our tags."""
    return CLOSES in template


def leaves_open(text: str) -> bool:
    """Whether `text`, which the answer continues, has begun thoughts and not ended them."""
    return text.rfind(OPENS) > text.rfind(CLOSES)


class ReasoningParser:
    """White space around the thoughts, and before the answer behind them, belongs to neither."""

    def __init__(self, opened: bool = False) -> None:
        """`opened`: the prompt has begun the thoughts already."""
        self._finder = MarkerFinder(CLOSES)
        self._num_opened = 0  # characters of the opening tag that came
        self._held: list[str] = []
        start = ReasoningParser._inside if opened else ReasoningParser._start
        self._state: Callable[[ReasoningParser, str, int], int] = start
        self._began = False
        self._reasoning: list[str] = []
        self._content: list[str] = []

    def push(self, text: str) -> tuple[str, str]:
        """What `text` adds to the thoughts and to the answer."""
        start = 0
        while start < len(text):
            start = self._state(self, text, start)
        return self._take()

    def finish(self) -> tuple[str, str]:
        """What the end of the text adds."""
        if self._state is ReasoningParser._start:
            self._give_up()
        elif self._state is ReasoningParser._inside:
            self._think(self._finder.finish())
        return self._take()

    def _take(self) -> tuple[str, str]:
        taken = "".join(self._reasoning), "".join(self._content)
        self._reasoning, self._content = [], []
        return taken

    def _start(self, text: str, start: int) -> int:
        """The opening tag, if the answer begins with it."""
        char = text[start]
        if char == OPENS[self._num_opened]:
            self._num_opened += 1
            if self._num_opened == len(OPENS):
                self._held = []
                self._state = ReasoningParser._inside
        elif self._num_opened == 0 and char.isspace():
            self._held.append(char)
        else:
            self._give_up()
            return start
        return start + 1

    def _give_up(self) -> None:
        self._content += [*self._held, OPENS[: self._num_opened]]
        self._state = ReasoningParser._answer

    def _inside(self, text: str, start: int) -> int:
        plain, end = self._finder.feed(text, start)
        self._think(plain)
        if self._finder.found:
            self._state = ReasoningParser._gap
        return end

    def _think(self, text: str) -> None:
        """Adds to the thoughts; white space waits for what follows."""
        if not self._began:
            text = text.lstrip()
        if stripped := text.rstrip():
            self._reasoning += [*self._held, stripped]
            self._held = []
            self._began = True
        self._held.append(text[len(stripped) :])

    def _gap(self, text: str, start: int) -> int:
        while start < len(text) and text[start].isspace():
            start += 1
        if start < len(text):
            self._state = ReasoningParser._answer
        return start

    def _answer(self, text: str, start: int) -> int:
        self._content.append(text[start:])
        return len(text)
