"""Marks, such as `<tool_call>`, at the end of a text that goes on. Pure functions; used by the parsers of calls."""

from __future__ import annotations


def may_become(text: str, begin: int, mark: str) -> bool:
    """Whether `text` ends in the middle of a `mark` that starts at `begin`."""
    return len(text) - begin < len(mark) and mark.startswith(text[begin:])


def overlap(text: str, begin: int, mark: str) -> int:
    """How many characters at the end of `text`, none before `begin`, may be the beginning of `mark`."""
    place = text.find(mark[0], max(begin, len(text) - len(mark) + 1))
    while place >= 0 and not mark.startswith(text[place:]):
        place = text.find(mark[0], place + 1)
    return len(text) - place if place >= 0 else 0
