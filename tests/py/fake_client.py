"""FakeClient: an EngineClient without an engine, for tests of the HTTP server.

It answers a prompt with the prompt's own tokens, over and over, up to max_tokens, or with a text that a test has set. A
token is a byte, so every count and every offset in a test can be worked out by hand. It can be slow, fail at a token,
refuse requests and hang; it counts what it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import sys
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp

from pagoda.chat_template import ChatTemplate
from pagoda.client import Logprob, TokenEvent
from pagoda.config import STATS_FIELDS, SamplingParams
from pagoda.server.logs import configure_logging
from pagoda.server.runner import Server, run_server
from pagoda.server.settings import ServerSettings

BOS, EOS = 256, 257
_END = "\uffff"  # no byte decodes to it


class ByteTokenizer:
    """Token n < 256 is the byte n; 256 and 257 are the control tokens `<s>` and `</s>`."""

    vocab_size = 258
    bos_token_id = BOS
    eos_token_id = EOS

    def encode(self, text: str, add_special_tokens: bool = True, parse_special: bool = False) -> list[int]:
        """BOS and the UTF-8 bytes; `</s>` becomes one token only with parse_special."""
        parts = text.split("</s>") if parse_special else [text]
        ids = list(parts[0].encode())
        for part in parts[1:]:
            ids += [EOS, *part.encode()]
        return [BOS, *ids] if add_special_tokens else ids

    control_tokens = ("<s>", "</s>")

    def encode_protected(self, text: str, protector: str, add_special_tokens: bool = False) -> list[int]:
        """Parses control tokens, then drops the protectors."""
        names = {"<s>": BOS, "</s>": EOS}
        parts = re.split("(<s>|</s>)", text)
        return [
            token
            for part in parts
            for token in ([names[part]] if part in names else part.replace(protector, "").encode())
        ]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of the bytes."""
        shown = [token for token in ids if token < 256 or not skip_special_tokens]
        return b"".join(self.token_bytes(token) for token in shown).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The byte, or the control token's name."""
        return {BOS: b"<s>", EOS: b"</s>"}.get(token_id) or bytes([token_id])

    def token_text(self, token_id: int) -> str:
        """The token's bytes as text."""
        return self.token_bytes(token_id).decode(errors="replace")


@functools.cache
def chat_template() -> ChatTemplate:
    """`<s>role:content</s>` for each message, then `<s>assistant:`; refuses the role `tool`."""
    return ChatTemplate(
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "<s>{{ m.role }}:{{ m.content }}{{ suffix }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant:{% endif %}"
    )


class FakeClient:
    """Counts: `started`, `running`, `aborted` (left before their end), `finished`, and events `produced`."""

    def __init__(self, max_model_len: int = 4096) -> None:
        self.model_name = "fake"
        self.max_model_len = max_model_len
        self.tokenizer: ByteTokenizer | None = ByteTokenizer()
        self.vocab_size = ByteTokenizer.vocab_size
        self.hidden_size = 4
        self.chat_template: ChatTemplate | None = chat_template()
        self.default_params: dict[str, Any] = {}
        self.delay_s = 0.0
        self.first_delay_s = 0.0
        self.refusal: Exception | None = None
        self.fail_at: int | None = None
        self.failing_choice: int | None = None  # the one that fails at `fail_at`; None: all of them
        self.raise_at: tuple[int, Exception] | None = None
        self.healthy = True
        self.stalled_s = 0.0
        self.piece_factor = 1
        self.impossible = False
        self.started = self.running = self.aborted = self.finished = self.produced = 0
        self.requests: list[tuple[list[int], SamplingParams]] = []
        self.cache_resets = 0
        self.compiled: list[SamplingParams] = []
        self.text: str | None = None
        self.tenants: list[str] = []
        self.progress: list[int] = []

    def is_healthy(self) -> bool:
        """As set by the test."""
        return self.healthy

    def stats(self) -> dict[str, int | float]:
        """Two gauges and a counter, as the engine has them."""
        return {"num_running": self.running, "kv_cache_usage": 0.25, "num_preemptions": 3, "num_finished_stop": 5}

    def histograms(self) -> dict[str, tuple[list[int], float]]:
        """One histogram, with two values in its first bucket and one above all bounds."""
        bounds = next(row["bounds"] for row in STATS_FIELDS if row["name"] == "queue_time_seconds")
        return {"queue_time_seconds": ([2, *[0] * (len(bounds) - 1), 1], 12345.5)}

    def describe(self) -> dict[str, Any]:
        """Sizes of a KV cache."""
        return {"kv_bytes_per_block": 64, "block_size": 16, "num_blocks": 100}

    def timelines(self, request_id: str | None = None) -> list[dict[str, Any]]:
        """Two choices of one request, the second one unfinished."""
        head = [{"event": "queued", "time": 1000.0, "end": 4}, {"event": "admitted", "time": 1002.5, "end": 0}]
        ends = [{"event": "first_token", "time": 1003.0, "end": 4}]
        ends.append({"event": "finished", "time": 1005.0, "end": 9, "reason": "length"})
        entries = [
            {"request_id": "cmpl-1-0#7", "choice": index, "events": head + tail, "num_dropped": 0}
            for index, tail in enumerate([ends, [{"event": "chunk", "time": 1002.5, "begin": 0, "end": 3}]])
        ]
        return entries if request_id in (None, "cmpl-1") else []

    def steps(self) -> list[tuple[float, float, int, int]]:
        """One step."""
        return [(1002.5, 1003.0, 2, 7)]

    def reset_prefix_cache(self) -> None:
        """Counts the calls."""
        self.cache_resets += 1

    def compile(self, params: SamplingParams) -> None:
        """Notes what would be compiled."""
        self.compiled.append(params)

    def stalled_seconds(self) -> float:
        """As set by the test."""
        return self.stalled_s

    async def generate(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        request_id: str | None = None,
        tenant: str = "",
        pooling: str = "none",
    ) -> AsyncIterator[TokenEvent]:
        """One event a step for each choice, choice 0 first."""
        if self.refusal is not None:
            raise self.refusal
        self.requests.append((prompt_token_ids, params))
        self.tenants.append(tenant)
        self.started += 1
        self.running += 1
        ended = False
        try:
            await asyncio.sleep(self.first_delay_s)
            room = self.max_model_len - len(prompt_token_ids)
            count = room if params.max_tokens is None else params.max_tokens
            if pooling != "none":
                await asyncio.sleep(self.delay_s)
                ended = True
                self.finished += 1
                yield embedding_event(prompt_token_ids, pooling)
                return
            states = [""] * params.n
            for done in self.progress:
                yield progress_event(done)
                await asyncio.sleep(self.delay_s)
            for step in range(count):
                if step:
                    await asyncio.sleep(self.delay_s)
                if self.raise_at is not None and step == self.raise_at[0]:
                    raise self.raise_at[1]
                for index in range(params.n):
                    if step == 0 or not states[index].endswith(_END):
                        event = self._event(prompt_token_ids, params, index, step, count, states)
                        ended = event.finish_reason is not None and index == params.n - 1
                        self.produced += 1
                        yield event
                if all(state.endswith(_END) for state in states):
                    break
            self.finished += 1
        finally:
            self.running -= 1
            if not ended:
                self.aborted += 1

    def _event(
        self, prompt: list[int], params: SamplingParams, index: int, step: int, count: int, states: list[str]
    ) -> TokenEvent:
        """The event of `step`; a choice's state is its text, closed by _END at its end."""
        words = [token for token in prompt if token < 256] or [33]
        words = words if self.text is None else [*self.text.encode()]
        token = words[step % len(words)]
        text = bytes([token]).decode(errors="replace") * self.piece_factor
        finish: str | None = None
        stop_reason: str | None = None
        states[index] += text
        for stop in params.stop:
            if states[index].endswith(stop):
                finish, stop_reason = "stop", stop
                text = ""
        if finish is None and self.text is not None and step + 1 == len(words):
            finish = "stop"
        if finish is None and step + 1 == count:
            finish = "length"
        if self.fail_at == step and self.failing_choice in (None, index):
            finish = "error"
        if finish is not None:
            states[index] += _END
        return TokenEvent(
            index=index,
            text=text,
            token_ids=[token],
            logprobs=None if params.logprobs is None else [self._logprobs(token, params.logprobs)],
            finish_reason=finish,
            stop_reason=stop_reason,
            seed=(params.seed if params.seed is not None else 1000) + index,
            error="broken at 0x7f00deadbeef in /home/someone/engine.cc" if finish == "error" else None,
            prompt_logprobs=self._prompt_logprobs(prompt, params) if step == 0 and index == 0 else None,
            num_cached_tokens=len(prompt) // 16 * 16,
        )

    def _logprobs(self, token: int, top: int) -> dict[int, Logprob]:
        """The chosen token at -0.5 and the next ids below it; with `impossible` the alternatives are at minus
        infinity.
        """
        entries = {token: Logprob(-0.5, 1, None)}
        for rank in range(2, top + 1):
            other = (token + rank - 1) % 128
            entries[other] = Logprob(float("-inf") if self.impossible else -float(rank), rank, chr(other))
        return entries

    def _prompt_logprobs(self, prompt: list[int], params: SamplingParams) -> list[dict[int, Logprob] | None] | None:
        if params.prompt_logprobs is None:
            return None
        return [None, *(self._logprobs(token, params.prompt_logprobs) for token in prompt[1:])]


def embedding_event(prompt: list[int], pooling: str) -> TokenEvent:
    """Four numbers: the last token or the mean, the number of tokens, and 0 twice."""
    first = float(prompt[-1]) if pooling == "last" else sum(prompt) / len(prompt)
    vector = [first, float(len(prompt)), 0.0, 0.0]
    return TokenEvent(0, "", [], None, "stop", None, 1000, None, None, 0, None, vector)


def progress_event(num_prompt_computed: int) -> TokenEvent:
    """News of a prompt that is being computed."""
    return TokenEvent(0, "", [], None, None, None, 1000, None, None, 0, num_prompt_computed)


@contextlib.asynccontextmanager
async def serving(
    client: FakeClient | None = None, sampling: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[Server, FakeClient]]:
    """A server on a free port of 127.0.0.1."""
    client = client or FakeClient()
    server = Server(client, ServerSettings(port=0, **settings), sampling)  # type: ignore[arg-type]
    await server.start()
    try:
        yield server, client
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def calling(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client whose paths start at the server's base URL."""
    async with aiohttp.ClientSession(server.url) as session:
        yield session


@contextlib.asynccontextmanager
async def fake_api(
    client: FakeClient | None = None, sampling: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[aiohttp.ClientSession, FakeClient]]:
    """A server and an HTTP client for it."""
    async with serving(client, sampling, **settings) as (server, fake), calling(server) as session:
        yield session, fake


def main() -> int:
    """Serves a slow FakeClient until a signal: `fake_client.py DELAY_S SHUTDOWN_TIMEOUT_S [LOG_FILE]`.

    Prints the port.
    """
    client = FakeClient()
    client.delay_s = float(sys.argv[1])
    log_file = sys.argv[3] if len(sys.argv) > 3 else None
    settings = ServerSettings(
        port=0, shutdown_timeout_s=float(sys.argv[2]), access_log=log_file is not None, log_file=log_file
    )
    if log_file is not None:
        configure_logging(settings)
    return run_server(client, settings, lambda host, port: print(port, flush=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
