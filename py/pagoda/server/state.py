"""ServerState: what the handlers of one application share, and how it is told to drain or to abort.

Owned by the application (key STATE), made by app.build_app. Used on the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from aiohttp import web

from pagoda.server.errors import ApiError
from pagoda.server.field_kinds import Limits
from pagoda.server.metrics import Metrics
from pagoda.server.settings import ServerSettings
from pagoda.server.spans import Spans, otlp_exporter

if TYPE_CHECKING:
    from pagoda.client import EngineClient
    from pagoda.config import SamplingParams
    from pagoda.server.events import EventStream

P = ParamSpec("P")
T = TypeVar("T")


def package_version() -> str:
    """The version of the installed distribution; "unknown" when run from a source tree."""
    try:
        return metadata.version("pagoda-engine")
    except metadata.PackageNotFoundError:
        return "unknown"


class ServerState:
    """Invariants: `in_flight` counts inference requests from their first byte to their last; `idle` is set exactly
    when it is 0; `streams` holds every EventStream that is open; `draining` and `aborting` never go back to False.
    """

    def __init__(
        self, client: EngineClient, settings: ServerSettings, sampling: Mapping[str, Any] | None = None
    ) -> None:
        """`sampling`: the operator's defaults, which stand above the model's own (`client.default_params`)."""
        self.client = client
        self.settings = settings
        self.metrics = Metrics(client, settings.metrics_prefix)
        self.defaults: dict[str, Any] = {**client.default_params, **(sampling or {})}
        self.model_names = tuple(dict.fromkeys([client.model_name, *settings.served_model_names]))
        self.version = package_version()
        self.created = self.now()
        identity = f"{self.version}/{client.model_name}/{client.max_model_len}/{client.vocab_size}"
        self.fingerprint = "fp_" + hashlib.sha256(identity.encode()).hexdigest()[:12]
        self.limits = Limits(
            vocab_size=client.vocab_size,
            max_choices=settings.max_choices,
            max_logprobs=settings.max_logprobs,
            max_messages=settings.max_messages,
            max_timeout_s=settings.request_timeout_s,
        )
        self.spans: Spans | None = None
        if settings.otlp_endpoint is not None:
            self.spans = Spans(client, self.version, otlp_exporter(settings.otlp_endpoint))
        self.streams: set[EventStream] = set()
        self.draining = False
        self.aborting = False
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._longest_token = 0
        self._workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pagoda-text")
        self._compilers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="pagoda-grammar")

    def enter(self) -> None:
        """One more inference request."""
        self.in_flight += 1
        self.idle.clear()

    def leave(self) -> None:
        """One inference request less."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self.idle.set()

    def now(self) -> int:
        """Seconds since 1970, for `created`."""
        return int(time.time())

    def unavailable(self) -> ApiError | None:
        """Why no token can be made right now, or None."""
        if self.draining:
            return ApiError(
                503, "The server is shutting down.", code="shutting_down", headers={"Retry-After": "5"}, close=True
            )
        if not self.client.is_healthy():
            return ApiError(503, "The engine is not running.", code="engine_unavailable", headers={"Retry-After": "5"})
        stalled_s = self.client.stalled_seconds()
        if stalled_s > self.settings.stall_timeout_s:
            text = f"The engine has not got on for {stalled_s:.0f} seconds."
            return ApiError(503, text, code="engine_stalled", headers={"Retry-After": "5"})
        return None

    def abort_request(self, request_id: str, caller: str | None) -> int:
        """Ends that caller's requests of this id (None: anybody's) with finish reason `abort`; how many there were."""
        mine = [stream for stream in self.streams if caller in (None, stream.identity.caller)]
        found = [stream for stream in mine if request_id in stream.identity.ids]
        for stream in found:
            stream.abort()
        return len(found)

    def abort_streams(self) -> None:
        """Ends every request that runs, or starts from now on, with finish reason `abort`."""
        self.aborting = True
        for stream in list(self.streams):
            stream.abort()

    async def run_in_worker(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs blocking text work (tokenising, templates) off the event loop."""
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._workers, call)

    async def compile(self, params: SamplingParams) -> None:
        """Makes a guided request's grammar ready, beside the text work. Raises what `EngineClient.compile` raises."""
        await asyncio.get_running_loop().run_in_executor(self._compilers, self.client.compile, params)

    async def longest_token_bytes(self) -> int:
        """Bytes of the vocabulary's longest token, found out on first use."""
        if self._longest_token == 0:
            self._longest_token = await self.run_in_worker(_longest_token_bytes, self.client)
        return self._longest_token

    def close(self) -> None:
        """Stops the text workers and sends the last spans."""
        if self.spans is not None:
            self.spans.close()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._compilers.shutdown(wait=False, cancel_futures=True)


def _longest_token_bytes(client: EngineClient) -> int:
    tokenizer = client.tokenizer
    if tokenizer is None:
        return 1
    return max(1, max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)))


STATE = web.AppKey("state", ServerState)
