"""StatsLine: one line in the log every few seconds while the engine works.

Made by runner.Server; runs as a task on its event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagoda.client import EngineClient

logger = logging.getLogger(__name__)

Numbers = Mapping[str, int | float]


class StatsLine:
    """Remembers the counters of the line before."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._last: Numbers = client.stats()
        self._last_time = time.monotonic()

    async def run(self, interval_s: float) -> None:
        """Logs a line after each interval in which there was work, and one after the last."""
        was_busy = False
        while True:
            await asyncio.sleep(interval_s)
            now, before = self._client.stats(), self._last
            seconds, self._last, self._last_time = time.monotonic() - self._last_time, now, time.monotonic()
            busy = is_busy(before, now)
            if busy or was_busy:
                logger.info("%s", stats_text(before, now, seconds))
            was_busy = busy


def is_busy(before: Numbers, now: Numbers) -> bool:
    """Whether something runs or waits, or tokens were made between the two readings."""
    moved = any(_grown(before, now, name) for name in ("num_prompt_tokens", "num_generation_tokens"))
    return moved or now.get("num_running", 0) > 0 or now.get("num_waiting", 0) > 0


def stats_text(before: Numbers, now: Numbers, seconds: float) -> str:
    """The line. Throughput and rates are those of the interval, preemptions those since the start."""
    queries = _grown(before, now, "prefix_cache_queries")
    hits = _grown(before, now, "prefix_cache_hits")
    drafted = _grown(before, now, "spec_decode_num_draft_tokens")
    accepted = _grown(before, now, "spec_decode_num_accepted_tokens")
    return ", ".join(
        [
            f"Avg prompt throughput: {_grown(before, now, 'num_prompt_tokens') / seconds:.1f} tokens/s",
            f"Avg generation throughput: {_grown(before, now, 'num_generation_tokens') / seconds:.1f} tokens/s",
            f"Running: {now.get('num_running', 0)} reqs",
            f"Waiting: {now.get('num_waiting', 0)} reqs",
            f"Preemptions: {now.get('num_preemptions', 0)}",
            f"KV cache usage: {100 * now.get('kv_cache_usage', 0):.1f}%",
            f"Prefix cache hit rate: {100 * hits / queries if queries else 0:.1f}%",
            *([f"Draft acceptance rate: {100 * accepted / drafted:.1f}%"] if drafted else []),
        ]
    )


def _grown(before: Numbers, now: Numbers, name: str) -> float:
    return now.get(name, 0) - before.get(name, 0)
