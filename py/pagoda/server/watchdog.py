"""Watchdog: a thread that notices when the engine or the event loop hangs, and says in the log what each was doing.

Made by runner.Server. It changes nothing: that a stalled engine is not ready is decided by ServerState, on the spot.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pagoda.client import EngineClient

logger = logging.getLogger(__name__)

_MAX_UNFINISHED = 20  # requests that a dump names


class Watchdog:
    """Looks several times within `timeout_s`; writes one dump for each stall, not more."""

    def __init__(self, client: EngineClient, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._client = client
        self._loop = loop
        self._timeout_s = timeout_s
        self._beat = time.monotonic()
        self._told: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pagoda-watchdog", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        period = min(1.0, self._timeout_s / 4)
        while not self._stop.wait(period):
            try:
                self._loop.call_soon_threadsafe(self._mark)
            except RuntimeError:  # the loop was closed
                return
            self._check("the engine", self._client.stalled_seconds())
            self._check("the event loop", time.monotonic() - self._beat - period)

    def _mark(self) -> None:
        self._beat = time.monotonic()

    def _check(self, what: str, seconds: float) -> None:
        if seconds <= self._timeout_s:
            if what in self._told:
                self._told.discard(what)
                logger.warning("%s goes on", what)
            return
        if what not in self._told:
            self._told.add(what)
            logger.error("%s has not got on for %.1f seconds\n%s\n%s", what, seconds, self._state(), stacks())

    def _state(self) -> str:
        """The engine's numbers and its unfinished requests. They are as of the last step that ended."""
        numbers = ", ".join(f"{name}={value:g}" for name, value in self._client.stats().items())
        unfinished = [entry for entry in self._client.timelines() if entry["events"][-1]["event"] != "finished"]
        lines = [f"engine: {numbers}", f"unfinished: {len(unfinished)}"]
        lines += [f"  {_summary(entry)}" for entry in unfinished[:_MAX_UNFINISHED]]
        return "\n".join(lines)


def stacks() -> str:
    """The Python stacks of all threads; of any that hang in C, where they entered it."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        return file.read()


def _summary(entry: dict[str, Any]) -> str:
    """`cmpl-1-0#3[0]: admitted, chunk 0-512`."""
    event = entry["events"][-1]
    tokens = f" {event['begin']}-{event['end']}" if event["event"] == "chunk" else ""
    return f"{entry['request_id']}[{entry['choice']}]: {event['event']}{tokens}"
