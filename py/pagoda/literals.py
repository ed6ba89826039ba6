"""A set of literal strings looked for in text: where control tokens occur in it.

Linear in the text for thousands of literals (some vocabularies reserve 6,000 control tokens). Used by tokenizer.py and
chat_template.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable


class LiteralSet:
    """Immutable set of non-empty literals."""

    def __init__(self, literals: Iterable[str]) -> None:
        self._literals = frozenset(literals)
        lengths: dict[str, set[int]] = {}
        for literal in self._literals:
            lengths.setdefault(literal[:2], set()).add(len(literal))
        # All lengths of the literals that share their first two characters, the longest first.
        self._lengths = {head: sorted(values, reverse=True) for head, values in lengths.items()}
        heads = "|".join(map(re.escape, sorted(self._lengths, key=len, reverse=True)))
        self._head = re.compile(f"(?=({heads}))") if heads else None
        self._prefixes = frozenset(text[:cut] for text in self._literals for cut in range(1, len(text)))
        self._longest = max(map(len, self._literals), default=0)

    def _match_at(self, text: str, start: int, head: str) -> str | None:
        """The longest literal at `start`."""
        for candidate in dict.fromkeys((head, head[:1])):
            for length in self._lengths.get(candidate, ()):
                if text[start : start + length] in self._literals:
                    return text[start : start + length]
        return None

    def starts(self, text: str) -> list[int]:
        """Every position where a literal begins, overlapping ones included."""
        if self._head is None:
            return []
        return [m.start() for m in self._head.finditer(text) if self._match_at(text, m.start(), m[1]) is not None]

    def open_ends(self, text: str) -> list[int]:
        """Every position from which the rest of `text` is the beginning, but not the whole, of a literal."""
        longest = min(self._longest - 1, len(text))
        return [len(text) - k for k in range(longest, 0, -1) if text[-k:] in self._prefixes]

    def replace(self, text: str, change: Callable[[str], str]) -> str:
        """Replaces each leftmost-longest occurrence by `change(occurrence)`."""
        return self.rewrite(text, inside=change, outside=lambda between: between)

    def rewrite(self, text: str, inside: Callable[[str], str], outside: Callable[[str], str]) -> str:
        """Replaces each leftmost-longest occurrence by `inside(occurrence)` and text between by `outside(text)`."""
        parts, done = [], 0
        for match in self._head.finditer(text) if self._head is not None else ():
            start = match.start()
            if start < done or (found := self._match_at(text, start, match[1])) is None:
                continue
            parts += [outside(text[done:start]), inside(found)]
            done = start + len(found)
        return "".join([*parts, outside(text[done:])])
