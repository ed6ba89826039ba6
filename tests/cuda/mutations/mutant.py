"""What a mistake is that run.py makes in the CUDA kernels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one file and the tests that must notice it."""

    name: str
    file: str
    """Below the repository, as `source`."""
    before: str
    """The exact text that is replaced, of one line if possible; it occurs `count` times."""
    after: str
    test: str
    """A source in tests/cuda, without its suffix."""
    tests: str
    """Which of its tests, as --gtest_filter takes them."""
    source: str = ""
    """What is compiled again, if `file` is a header."""
    count: int = 1
