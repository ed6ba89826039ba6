"""MarkerFinder: finds a fixed string in text that comes in pieces, and holds back only what may become part of it.

One for each search; used by tool_parser.py and reasoning_parser.py.
"""

from __future__ import annotations


class MarkerFinder:
    """Finds the first place of `marker`, a non-empty string."""

    def __init__(self, marker: str) -> None:
        self.found = False
        self._marker = marker
        self._begun = ""  # the end of the text so far, if the marker may go on from there

    def feed(self, text: str, start: int) -> tuple[str, int]:
        """The text before the marker, as far as it is certain, and the index in `text` up to which it was looked at.

        With `found` that is the index behind the marker; otherwise everything was looked at.
        """
        begun, size = self._begun, len(self._marker)
        if begun:
            joined = begun + text[start : start + size]
            at = joined.find(self._marker)
            if at >= 0:
                self.found = True
                return joined[:at], start + at + size - len(begun)
            if len(text) - start <= size:
                return self._hold(joined, 0), len(text)
        at = text.find(self._marker, start)
        if at >= 0:
            self.found = True
            return begun + text[start:at], at + size
        return begun + self._hold(text, start), len(text)

    def finish(self) -> str:
        """What is still held back, when the text has ended."""
        begun, self._begun = self._begun, ""
        return begun

    def _hold(self, text: str, start: int) -> str:
        """`text` from `start` without the longest end that begins the marker, which is kept."""
        for size in range(min(len(self._marker) - 1, len(text) - start), 0, -1):
            if text.endswith(self._marker[:size]):
                self._begun = text[len(text) - size :]
                return text[start : len(text) - size]
        self._begun = ""
        return text[start:]
