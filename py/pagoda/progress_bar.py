"""`ProgressBar`: how far a long step is, on a terminal.

Used by client.py, models.py and the commands. Imports tqdm for a bar that is shown only, 30 ms of a start.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class ProgressBar:
    """Draws on stderr if that is a terminal and `shown`, and only after `delay` seconds; else every call does nothing.

    Use as a context manager, in one thread. `unit` "B" counts bytes and is scaled (kB, MB).
    """

    def __init__(self, what: str, unit: str = "B", total: int = 0, *, shown: bool = True, delay: float = 0.0) -> None:
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B", delay=delay, leave=False)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int) -> None:
        """`done` of `total` are done."""
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def add(self, count: int) -> None:
        """`count` more are done."""
        if self._bar is not None:
            self._bar.update(count)
