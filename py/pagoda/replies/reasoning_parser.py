"""Splits a text into reasoning (`<think>...</think>`) and what follows it, while it is generated.

Owns what is held back because it may become a tag, or whitespace around one. One per choice; the result does not depend
on where the text is cut, nothing is raised, and the work is linear.
"""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class ReasoningParser:
    """`push` pieces of text, `finish` once. Reasoning stands at the beginning or nowhere."""

    def __init__(self, is_open: bool) -> None:
        """`is_open`: the prompt has already opened the reasoning."""
        self._inside = is_open
        self._over = False  # the rest is content
        self._trims = is_open  # whitespace that comes first is dropped
        self._held = ""  # the beginning of a tag
        self._blanks: list[str] = []  # whitespace that is dropped if nothing, or the end of the reasoning, follows

    def push(self, text: str) -> tuple[str, str]:
        """Takes in the next piece; returns the reasoning and the content that it makes certain."""
        text, self._held = self._held + text, ""
        reasoning = ""
        if not self._inside and not self._over:
            text = self._find_open(text)
        if self._inside:
            reasoning, text = self._read_inside(text)
        return reasoning, self._outside(text) if self._over else ""

    def finish(self) -> tuple[str, str]:
        """The text has ended: what was held back."""
        held, self._held = self._held, ""
        if self._inside:
            return self._solid(held), ""
        self._over = True
        return "", "".join(self._blanks) + held if not self._trims else held

    def _find_open(self, text: str) -> str:
        """Before any tag: the text behind the tag, or all of it if there is none."""
        solid = text.lstrip()
        if solid.startswith(OPEN):
            self._inside = self._trims = True
            self._blanks.clear()
            return solid[len(OPEN) :]
        self._blanks.append(text[: len(text) - len(solid)])
        if OPEN.startswith(solid):
            self._held = solid
            return ""
        self._over = True
        text = "".join(self._blanks) + solid
        self._blanks.clear()
        return text

    def _read_inside(self, text: str) -> tuple[str, str]:
        end = text.find(CLOSE)
        if end >= 0:
            reasoning = self._solid(text[:end])
            self._inside, self._over, self._trims = False, True, True
            self._blanks.clear()
            return reasoning, text[end + len(CLOSE) :]
        keep = next((size for size in range(len(CLOSE) - 1, 0, -1) if text.endswith(CLOSE[:size])), 0)
        end = len(text) - keep
        self._held = text[end:]
        return self._solid(text[:end]), ""

    def _solid(self, text: str) -> str:
        """The text without whitespace at its beginning, once, and with that at its end held back."""
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        solid = text.rstrip()
        before = "".join(self._blanks) if solid else ""
        if solid:
            self._blanks.clear()
        if len(solid) < len(text):
            self._blanks.append(text[len(solid) :])
        return before + solid

    def _outside(self, text: str) -> str:
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        return text


def uses_reasoning(template: str | None) -> bool:
    """Whether a chat template speaks of reasoning in these tags."""
    return template is not None and (OPEN in template or CLOSE in template)


def is_open(prompt_end: str) -> bool:
    """Whether a prompt ends inside a reasoning that the template has opened."""
    return prompt_end.rfind(OPEN) > prompt_end.rfind(CLOSE)
