"""Tells work in proportion to its input from work that grows faster, on a machine that is busy with other things."""

from __future__ import annotations

import time
from collections.abc import Callable

_ROUNDS = 5
_LIMIT = 9.0  # for four times the input: in proportion 4, quadratic 16
_FLOOR_S = 0.0005  # shorter times say nothing


def thread_seconds(work: Callable[[str], object], text: str) -> float:
    """This thread's processor time."""
    begin = time.thread_time()
    work(text)
    return time.thread_time() - begin


def check_proportion(work: Callable[[str], object], head: str, unit: str, count: int) -> None:
    """Fails when `work` on `head` and 4 * `count` units takes, in every round, far more than four times as long as on
    `count` units. `count` should be such that linear work takes some milliseconds."""
    seen = []
    for _ in range(_ROUNDS):
        small = thread_seconds(work, head + unit * count)
        large = thread_seconds(work, head + unit * (4 * count))
        if large <= _LIMIT * max(small, _FLOOR_S):
            return
        seen.append((small, large))
    raise AssertionError(f"four times the input takes more than {_LIMIT} times as long, seconds: {seen}")
