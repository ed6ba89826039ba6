"""EventStream: the merged token events of all prompts of one HTTP request.

Owns one pump task for each prompt; closing the stream leaves the engine's iterators and so aborts what still runs.
Also owns the request's deadline and its abort from outside. Made by generation.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pagoda.client import TokenEvent
from pagoda.config import SamplingParams
from pagoda.server.errors import ApiError, from_exception, internal_error
from pagoda.server.state import ServerState

logger = logging.getLogger(__name__)

_MAX_QUEUED_EVENTS = 256
#: In the engine's text when a request has ruled out every token.
_NO_TOKEN_LEFT = "restrictions leave no token"
_FINISHED = object()
_ABORTED = object()

#: (index of the prompt, event); None means that nothing came for the idle time.
Item = tuple[int, TokenEvent] | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose request it is and what it is called.

    `ids`: the names under which it can be aborted, that of its answer first. `caller`: who sent it, "" when callers are
    not told apart. `tenant`: on whose behalf it runs, for the scheduling policy "fair".
    """

    ids: tuple[str, ...]
    caller: str = ""
    tenant: str = ""


class EventStream:
    """Use as `async with`; iterate `events()` once.

    Raises ApiError from `events()`: the engine's refusal (400, 429, 503), 500 for an event that carries an error, 504
    at the deadline. After `abort()` each unfinished choice yields one last event with finish reason `abort`.
    """

    def __init__(
        self,
        state: ServerState,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        identity: Identity,
        timeout_s: float | None = None,
        pooling: str = "none",
    ) -> None:
        self.identity = identity
        self._state = state
        self._prompts = prompts
        self._params = params
        self._request_id = identity.ids[0]
        self._pooling = pooling
        self._timeout_s = state.settings.request_timeout_s if timeout_s is None else timeout_s
        self._queue: asyncio.Queue[Any] = asyncio.Queue(_MAX_QUEUED_EVENTS)
        self._tasks: list[asyncio.Task[None]] = []
        self._unfinished = {(prompt, choice) for prompt in range(len(prompts)) for choice in range(params.n)}
        self._num_sound = len(self._unfinished)  # choices that have not failed
        self._start = 0.0

    async def __aenter__(self) -> EventStream:
        self._start = time.monotonic()
        self._state.streams.add(self)
        for index, prompt in enumerate(self._prompts):
            self._tasks.append(asyncio.create_task(self._pump(index, prompt)))
        if self._state.aborting:
            self.abort()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state.streams.discard(self)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def abort(self) -> None:
        """Stops generating; what was not yet read may be dropped."""
        for task in self._tasks:
            task.cancel()
        while self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(_ABORTED)

    async def events(self, idle_s: float | None = None) -> AsyncIterator[Item]:
        """All events, in the engine's order for each choice; None whenever `idle_s` seconds passed without one."""
        deadline = self._start + self._timeout_s
        running = len(self._prompts)
        while running:
            item = await self._next(deadline, idle_s)
            if item is _FINISHED:
                running -= 1
            elif item is _ABORTED:
                for prompt, choice in sorted(self._unfinished):
                    yield prompt, abort_event(choice)
                return
            elif isinstance(item, BaseException):
                raise self._api_error(item)
            elif item is None:
                yield None
            else:
                self._observe(*item)
                yield item
        if self._unfinished:
            logger.error("request %s: the engine ended without finishing every choice", self._request_id)
            raise internal_error()

    async def _next(self, deadline: float, idle_s: float | None) -> Any:
        """The next queued item, or None after `idle_s`. Raises 504 at the deadline."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        left = deadline - time.monotonic()
        wait = left if idle_s is None else min(left, idle_s)
        try:
            async with asyncio.timeout(max(0.0, wait)):
                return await self._queue.get()
        except TimeoutError:
            if time.monotonic() < deadline:
                return None
            text = f"The request did not finish within {self._timeout_s:g} seconds."
            raise ApiError(504, text, code="timeout") from None

    async def _pump(self, index: int, prompt: list[int]) -> None:
        """Moves one prompt's events into the queue; whatever ends the task also leaves the engine's iterator."""
        outcome: Any = _FINISHED
        try:
            events = self._state.client.generate(
                prompt, self._params, f"{self._request_id}-{index}", self.identity.tenant, self._pooling
            )
            try:
                async for event in events:
                    await self._queue.put((index, event))
            finally:
                aclose = getattr(events, "aclose", None)
                if aclose is not None:
                    await aclose()
        except Exception as error:
            outcome = error
        await self._queue.put(outcome)

    def _observe(self, prompt: int, event: TokenEvent) -> None:
        """Keeps the set of unfinished choices. A failed one ends with `error`; raises when all have failed."""
        if event.finish_reason is not None:
            self._unfinished.discard((prompt, event.index))
        if event.finish_reason == "error":
            self._num_sound -= 1
            text = f"The engine ended this request: {event.error or 'unknown error'}"
            is_own_fault = _NO_TOKEN_LEFT in text
            log = logger.info if is_own_fault else logger.error
            log("request %s: choice %d of prompt %d failed: %s", self._request_id, event.index, prompt, ascii(text))
            if self._num_sound > 0 and self._pooling == "none":
                return
            if is_own_fault:
                raise ApiError(400, text, code="no_token_allowed")
            raise ApiError(500, text, code="generation_failed")

    def _api_error(self, error: BaseException) -> ApiError:
        known = from_exception(error)
        if known is None:
            logger.error("request %s failed", self._request_id, exc_info=error)
            return internal_error()
        if known.status >= 500:
            logger.error("request %s failed: %s", self._request_id, ascii(str(error)))
        return known


def abort_event(choice: int) -> TokenEvent:
    """The last event of a choice that the server itself ends; it knows nothing of what came before."""
    return TokenEvent(
        index=choice,
        text="",
        token_ids=[],
        logprobs=None,
        finish_reason="abort",
        stop_reason=None,
        seed=0,
        error=None,
        prompt_logprobs=None,
        num_cached_tokens=0,
    )
