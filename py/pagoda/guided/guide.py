"""Guide: keeps each guided sequence's matcher beside the engine, and answers the engine's questions for masks.

Owns the matchers of live sequences and the threads that take the engine's mask jobs. They wait and compute without the
GIL, while the engine computes the same step's forward. Owned by LoadedModel. The engine object is handed in; this
module knows its take_mask_jobs and info.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pagoda.guided.compiler import GrammarCompiler
from pagoda.guided.grammar import Grammar
from pagoda.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

logger = logging.getLogger(__name__)

_WAIT_MS = 200  # how soon a thread sees that it shall end
_LATE_MS = 50  # a mask that nobody has begun by then has its thread busy with a hard grammar
_NUM_SPARES = 2  # threads for late masks
_SLOW_S = 1.0  # a grammar with such a step is not taken again


@dataclass(slots=True)
class _Choice:
    """One sequence: where it is in its grammar."""

    grammar: Grammar
    matcher: LLMatcher


class Guide:
    """Thread-safe. Threads start at the first guided request."""

    def __init__(self, engine: Any, tokenizer: Tokenizer) -> None:
        info = engine.info
        self.compiler = GrammarCompiler(tokenizer, info["vocab_size"], info["eos_tokens"])
        self._engine = engine
        self._choices: dict[tuple[str, int], _Choice] = {}
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closing = False

    def open(self, request_id: str, grammar: Grammar, num_choices: int) -> None:
        """To be called before the request is submitted. Raises InvalidArgument for a grammar that cannot be used."""
        matchers = [self.compiler.matcher(grammar) for _ in range(num_choices)]
        with self._lock:
            for choice, matcher in enumerate(matchers):
                self._choices[request_id, choice] = _Choice(grammar, matcher)
            if not self._threads and not self._closing:
                self._start()

    def drop(self, request_id: str, num_choices: int) -> None:
        """For a request that was opened and not taken by the engine."""
        with self._lock:
            for choice in range(num_choices):
                self._choices.pop((request_id, choice), None)

    @property
    def num_choices(self) -> int:
        """Sequences that the engine has not closed yet."""
        return len(self._choices)

    def close(self) -> None:
        """Ends the threads; the engine should have stopped. Idempotent."""
        with self._lock:
            self._closing = True
        atexit.unregister(self.close)
        for thread in self._threads:
            thread.join()
        self.compiler.close()

    def _start(self) -> None:
        # More threads would take the forward's cores, and each other's GIL, for masks that are ready in time anyway.
        count = min(8, max(1, (os.cpu_count() or 2) // 4))
        self._threads = [
            threading.Thread(target=self._run, args=(age_ms,), name="pagoda-masks", daemon=True)
            for age_ms in [0] * count + [_LATE_MS] * _NUM_SPARES
        ]
        for thread in self._threads:
            thread.start()
        # A thread that comes back from the engine while the interpreter is torn down would bring the process down.
        atexit.register(self.close)

    def _run(self, min_age_ms: int) -> None:
        while not self._closing:
            jobs = self._engine.take_mask_jobs(1, _WAIT_MS, min_age_ms)
            if jobs is None:
                return
            for job in jobs:
                self._answer(job)

    def _answer(self, job: Any) -> None:
        key = (job.request_id, job.choice)
        if job.closed:
            with self._lock:
                self._choices.pop(key, None)
            return
        try:
            choice = self._choices.get(key)
            if choice is None:
                job.finish(error="nobody knows the grammar of this request")
            else:
                self._fill(job, choice)
        except Exception as error:  # one sequence's trouble must not end the thread for all
            logger.exception("a token mask failed")
            job.finish(error=f"the grammar failed: {error}")

    def _fill(self, job: Any, choice: _Choice) -> None:
        begin, matcher = time.monotonic(), choice.matcher
        if job.token is not None:
            matcher.consume_token(job.token)
        ended = matcher.is_stopped()
        if not ended:
            matcher.unsafe_compute_mask_ptr(job.address, job.size_bytes)
        if matcher.is_error():
            why = f"the grammar failed: {matcher.get_error()[:200]}"
            job.finish(error=why)
            self.compiler.refuse(choice.grammar, why)
        else:
            job.finish(ended=ended)
        if time.monotonic() - begin > _SLOW_S:
            self.compiler.refuse(choice.grammar, "its allowed tokens take too long to compute")
