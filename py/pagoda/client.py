"""The engine as asyncio code sees it: one `EngineClient` per process, requests as asynchronous iterators of events.

Owns the loaded model and a pump thread that waits for the engine's outputs (without the GIL) and hands them to the
event loops of their requests.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import re
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pagoda import _core
from pagoda.chat_template import ChatTemplate
from pagoda.config import Config, DeviceError, SamplingParams
from pagoda.cuda_libraries import cuda_library_folders
from pagoda.generation import Logprob, RequestState, TokenEvent
from pagoda.loaded_model import LoadedModel
from pagoda.model_text import ModelText, load_model_text
from pagoda.models import ModelFiles, cache_root, resolve
from pagoda.preemption_log import PreemptionLog
from pagoda.progress_bar import ProgressBar
from pagoda.tokenizer import Tokenizer

__all__ = ["EngineClient", "Logprob", "TokenEvent", "load_model"]

_WAIT_MS = 200  # how soon the pump sees that it shall end
_SLOW_LOAD_S = 1.0  # a bar is shown only for loads that take longer


def load_model(config: Config) -> LoadedModel:
    """Finds, loads and starts the model of a configuration, with a progress bar on a terminal.

    Raises InvalidArgument, ValueError or OSError for a model or option that cannot be used, DeviceError when the device
    fails.
    """
    files = resolve(config.model.name)
    metadata = _core.gguf_metadata(str(files.path)) if files.kind == "gguf" else None
    with ThreadPoolExecutor(1, "pagoda-text") as helper:
        model = config.model
        text_later = helper.submit(load_model_text, files, metadata, model.skip_tokenizer, model.chat_template)
        engine = _start_engine(config, files, text_later)
        text = text_later.result()
    try:
        if text.tokenizer is not None:
            text.tokenizer.check_vocab_size(engine.info["vocab_size"])
        defaults = {**text.default_params, **config.sampling}
        SamplingParams(**defaults)
    except ValueError:
        engine.stop()
        raise
    log = PreemptionLog(engine.plan, config.engine.to_dict())
    return LoadedModel(config.model.served_name or files.name, engine, text, defaults, log)


def _start_engine(config: Config, files: ModelFiles, text: Future[ModelText]) -> _core.Engine:
    """Loads the weights while `text` is read in another thread. Raises its error as soon as it has one."""

    def eos_tokens() -> list[int]:
        tokenizer = text.result().tokenizer
        return [] if tokenizer is None else tokenizer.eos_token_ids

    with ProgressBar("Loading weights", "matrix", delay=_SLOW_LOAD_S) as bar:

        def progress(done: int, total: int) -> None:
            if text.done():
                text.result()
            bar.show(done, total)

        return _core.Engine(
            str(files.path), config.engine, eos_tokens, progress, cuda_library_folders(), str(cache_root() / "cuda")
        )


def inspect_text(files: ModelFiles) -> dict[str, Any]:
    """What the model's files say about text, without its weights.

    Keys: tokenizer (what it is, or why it cannot be used), num_tokens (None when it cannot), adds_bos, and
    chat_template (the source of the default one, None without any).
    """
    metadata = _core.gguf_metadata(str(files.path)) if files.kind == "gguf" else None
    try:
        text = load_model_text(files, metadata)
    except (ValueError, OSError) as error:
        return {"tokenizer": f"not usable: {error}", "num_tokens": None, "adds_bos": False, "chat_template": None}
    source = None
    if text.chat_template is not None:
        source = text.chat_template.source_for(None)
        text.chat_template.close()
    facts: dict[str, Any] = {"chat_template": source, "tokenizer": "none", "num_tokens": None, "adds_bos": False}
    if text.tokenizer is not None:
        tokenizer = text.tokenizer
        facts |= {"tokenizer": tokenizer.source, "num_tokens": tokenizer.vocab_size, "adds_bos": tokenizer.adds_bos}
    return facts


class _Stream:
    """One request on its way to its event loop: the events that wait to be read, or the engine's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, state: RequestState) -> None:
        self.loop = loop
        self.state = state
        self.queue: asyncio.Queue[TokenEvent | Exception] = asyncio.Queue()


class EngineClient:
    """Methods may be called from any thread, `generate` from any event loop."""

    def __init__(self, model: LoadedModel) -> None:
        """Takes over the model: `close` stops it."""
        self._model = model
        self._engine = model.engine
        self._streams: dict[str, _Stream] = {}
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._closing = False
        self.model_name = model.name
        self.max_model_len: int = model.engine.plan["max_model_len"]
        self.vocab_size: int = model.engine.info["vocab_size"]
        self.hidden_size: int = model.engine.info["hidden_size"]
        self.default_params = model.default_params
        self._pump = threading.Thread(target=self._run_pump, name="pagoda-pump", daemon=True)
        self._pump.start()
        # A thread that comes back from the engine while the interpreter is torn down would bring the process down.
        atexit.register(self.close)

    @classmethod
    def create(cls, config: Config) -> EngineClient:
        """Loads the model of `config`. Raises what `load_model` raises."""
        return cls(load_model(config))

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None when the model was loaded without one."""
        return self._model.tokenizer

    @property
    def chat_template(self) -> ChatTemplate | None:
        """None when the model has none."""
        return self._model.chat_template

    def encode(self, text: str) -> list[int]:
        """A prompt's token ids. Raises InvalidArgument when the model was loaded without a tokenizer."""
        return self._model.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The token ids of a conversation that the model shall answer. Raises what `LoadedModel.encode_chat` raises."""
        return self._model.encode_chat(messages)

    def compile(self, params: SamplingParams) -> None:
        """Makes a guided request's grammar ready; blocks, for a second or two at most. `generate` does it by itself.

        Raises InvalidArgument with the compiler's complaint.
        """
        self._model.compile(params)

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        tenant: str = "",
        pooling: str = "none",
    ) -> AsyncGenerator[TokenEvent, None]:
        """The events of one request, as they come; choices interleave. Leaving the iterator aborts the request.

        `tenant` is on whose behalf it is; the scheduling policy "fair" shares the engine among tenants. `pooling`
        "mean" or "last" asks for the prompt's embedding instead of a continuation.

        Raises, before the first event, InvalidArgument for a request that cannot be served, Overloaded when the queue
        is full, DeviceError when the engine has failed; DeviceError also when it fails meanwhile.
        """
        name = f"{request_id or 'request'}#{next(self._ids)}"
        if not self._model.is_compiled(params):
            await asyncio.to_thread(self._model.compile, params)
        stream = self._submit(name, prompt_token_ids, params, tenant, pooling)
        unfinished = params.n
        try:
            while unfinished:
                event = await stream.queue.get()
                if isinstance(event, Exception):
                    raise event
                unfinished -= event.finish_reason is not None
                yield event
        finally:
            with self._lock:
                self._streams.pop(name, None)
            if unfinished:
                self._engine.abort(name)

    def _submit(
        self, name: str, prompt_token_ids: Sequence[int], params: SamplingParams, tenant: str, pooling: str
    ) -> _Stream:
        # Under the lock, so that the pump cannot see an output before the stream is known.
        with self._lock:
            state = self._model.submit(name, prompt_token_ids, params, tenant, pooling)
            stream = _Stream(asyncio.get_running_loop(), state)
            self._streams[name] = stream
        return stream

    def _run_pump(self) -> None:
        while not self._closing:
            outputs = self._model.wait(_WAIT_MS)
            if outputs:
                self._dispatch(outputs)
            elif not self._engine.healthy():
                self._fail(self._engine.failure() or "the engine was stopped")
                return

    def _dispatch(self, outputs: Sequence[Any]) -> None:
        """Turns outputs into events and wakes each event loop once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        for output in outputs:
            with self._lock:
                stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            event: TokenEvent | Exception | None
            try:
                event = self._model.absorb(stream.state, output)
            except Exception as error:  # one request's text must not end the pump for all
                event = error
            if event is not None:
                by_loop.setdefault(stream.loop, []).append(_put(stream, event))
        for loop, calls in by_loop.items():
            _call_in(loop, calls)

    def _fail(self, why: str) -> None:
        with self._lock:
            streams = list(self._streams.values())
        for stream in streams:
            _call_in(stream.loop, [_put(stream, DeviceError(why))])

    def stats(self) -> dict[str, int | float]:
        """Counters and gauges of the engine as of its last step."""
        return dict(self._engine.stats())

    def reset_prefix_cache(self) -> None:
        """Forgets all cached prompt beginnings before the next step. Raises DeviceError when the engine has ended."""
        self._engine.reset_prefix_cache()

    def histograms(self) -> dict[str, tuple[list[int], float]]:
        """The engine's histograms: how many values fell into each bucket, and the sum of all."""
        return dict(self._engine.histograms())

    def timelines(self, request_id: str | None = None) -> list[dict[str, Any]]:
        """What happened to the engine's latest requests, one entry for each choice of each prompt, in order of arrival.

        With `request_id`, only to the request that `generate` was given under this id, or under this id with `-N`
        behind it for prompt N. Times are seconds since 1970.
        """
        if request_id is None:
            return list(self._engine.timelines())
        own = re.compile(re.escape(request_id) + r"(-\d+)?#\d+")
        return [entry for entry in self._engine.timelines(request_id) if own.fullmatch(entry["request_id"])]

    def steps(self) -> list[tuple[float, float, int, int]]:
        """The engine's latest steps: begin and end in seconds since 1970, sequences, tokens."""
        return list(self._engine.steps())

    def stalled_seconds(self) -> float:
        """How long the engine has had work without finishing a step; 0 when it has nothing to do."""
        return float(self._engine.stalled_seconds())

    def describe(self) -> dict[str, Any]:
        """Facts of the model and the device, and the memory plan; sizes in bytes."""
        return {**self._engine.info, **self._engine.plan}

    def is_healthy(self) -> bool:
        """False once the engine has failed or was stopped: no request can be served any more."""
        return bool(self._engine.healthy())

    def close(self) -> None:
        """Stops the engine; live requests end with DeviceError. Idempotent; at the latest the program's end does it."""
        if self._closing:
            return
        self._closing = True
        atexit.unregister(self.close)
        self._model.close()
        self._pump.join()
        self._fail("the engine was stopped")


def _put(stream: _Stream, event: TokenEvent | Exception) -> Callable[[], None]:
    return lambda: stream.queue.put_nowait(event)


def _call_in(loop: asyncio.AbstractEventLoop, calls: Sequence[Callable[[], None]]) -> None:
    """Runs all calls in the loop; a loop that was closed meanwhile has nobody left who waits."""

    def run() -> None:
        for call in calls:
            call()

    try:
        loop.call_soon_threadsafe(run)
    except RuntimeError:
        if not loop.is_closed():
            raise
