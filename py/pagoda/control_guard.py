"""Keeps the strings of a chat request from spelling control tokens in the prompt that a template makes of them.

Owns the rule where a string is marked before it goes into the template. One guard serves one tokenizer and one
template. Used by chat_template.py; Tokenizer.encode_protected takes the marks out again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from pagoda.literals import LiteralSet


class ControlGuard:
    """Immutable. For text that went through `protect`, and templates that do not rewrite characters:

    1. No control token of the rendered prompt holds a character of that text, unless it holds a mark too.
    2. That stays true when the template cuts pieces out of the text or puts its own text before or behind it.
    3. The text is as before once the marks are removed.
    """

    def __init__(self, controls: Iterable[str], template_strings: Iterable[str]) -> None:
        """`controls`: the tokenizer's control tokens; `template_strings`: all text that the template can write.

        Control tokens of one character have no inside to be marked; encode_protected never writes them.
        """
        tokens = frozenset(token for token in controls if len(token) > 1)
        texts = frozenset(template_strings)
        self._controls = LiteralSet(tokens)
        # Characters that open a control token and no word: a template may join one to a later piece of the text.
        self._opening = frozenset(token[0] for token in tokens if not token[0].isalnum() and not token[0].isspace())
        self._opener = re.compile("[" + re.escape("".join(sorted(self._opening))) + "]") if self._opening else None
        begun = {token[:cut] for token in tokens for cut in range(1, len(token))}
        # What the template looks for in a text ("</think>") stays readable, unless a control token could grow from it.
        looked_for = (text for text in texts if len(text) > 1 and text[0] in self._opening and text not in begun)
        self._readable = LiteralSet(looked_for)
        ends = {text[start:] for text in texts for start in self._controls.open_ends(text)}
        self._rests = frozenset(token[len(end) :] for token in tokens for end in ends if token.startswith(end))
        self._rest_sizes = sorted({len(rest) for rest in self._rests})
        self._rest_beginnings = frozenset(rest[:cut] for rest in self._rests for cut in range(1, len(rest) + 1))

    def protect(self, text: str, mark: str) -> str:
        """`text` with `mark`, a character that occurs neither in it nor in the template, where a token could arise.

        A mark stands behind the first character of each control token, also of one that only begins in `text`, and
        before a text that would complete what the template has begun.
        """
        begins = (*self._controls.starts(text), *self._controls.open_ends(text))
        cuts = {start + 1 for start in begins} | self._lone_openings(text)
        if self._completes(text):
            cuts.add(0)
        if not cuts:
            return text
        edges = [0, *sorted(cuts), len(text)]
        return mark.join(text[begin:end] for begin, end in pairwise(edges))

    def _lone_openings(self, text: str) -> set[int]:
        if self._opener is None:
            return set()
        readable = set(self._readable.starts(text))
        return {found.end() for found in self._opener.finditer(text) if found.start() not in readable}

    def _completes(self, text: str) -> bool:
        return text in self._rest_beginnings or any(text[:size] in self._rests for size in self._rest_sizes)
