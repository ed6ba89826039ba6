"""`HttpEngine`: an OpenAI-compatible server as a process, driven over HTTP with prompts of token ids.

Standard library only.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from typing import Any

START_SECONDS = 400
REPLY_SECONDS = 600


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HttpEngine:
    """Starts the server and waits until it has made a token; `seconds` is how long that took."""

    start_case = "start_http"

    def __init__(self, command: list[str], port: int, model: str, environment: dict[str, str] | None = None) -> None:
        """Exits when the server ends or makes no token in time."""
        self.port, self._model = port, model
        begin = time.perf_counter()
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        self.pid = self._process.pid
        while not self._answers():
            if self._process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with status {self._process.returncode}")
            if time.perf_counter() - begin > START_SECONDS:
                self.close()
                raise SystemExit(f"{command[0]} made no token in {START_SECONDS} s")
            time.sleep(0.02)
        self.seconds = time.perf_counter() - begin

    def _answers(self) -> bool:
        try:
            return self.complete([1000 + i for i in range(32)], 1) == 1
        except (OSError, HTTPException, ValueError, KeyError):
            return False

    def close(self) -> None:
        """Ends the server."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _post(self, prompt: list[int], count: int, stream: bool) -> tuple[HTTPConnection, Any]:
        body = {"model": self._model, "prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=REPLY_SECONDS)
        body["stream"] = stream
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def complete(self, prompt: list[int], count: int) -> int:
        """How many tokens came out. Raises ValueError for an error reply."""
        connection, reply = self._post(prompt, count, stream=False)
        text = reply.read()
        connection.close()
        if reply.status != 200:
            raise ValueError(f"HTTP {reply.status}: {text[:300]!r}")
        return int(json.loads(text)["usage"]["completion_tokens"])

    def generate(self, prompts: list[list[int]], count: int) -> list[int]:
        """All prompts at once."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: self.complete(prompt, count), prompts))

    def times(self, prompt: list[int], count: int) -> list[float]:
        """When each piece of a stream came. Raises ValueError for an error reply."""
        connection, reply = self._post(prompt, count, stream=True)
        if reply.status != 200:
            raise ValueError(f"HTTP {reply.status}: {reply.read()[:300]!r}")
        stamps = []
        for line in reply:
            if line.startswith(b"data: {") and b'"choices":[]' not in line:
                stamps.append(time.perf_counter())
        connection.close()
        return stamps

    def online(
        self, streams: int, seconds: float, rng: random.Random, vocab: int
    ) -> Iterator[tuple[str, str, float, bool]]:
        """`streams` clients, each sending a prompt of 128 tokens for 128 more as soon as its last one is answered.

        Yields (case, unit, value, lower is better): output tokens per second inside the window, and percentiles of the
        time between the pieces of a stream. Engines that send several tokens in one piece have fewer and longer gaps.
        """
        begin = time.perf_counter()
        end, lock = begin + seconds, threading.Lock()
        runs: list[list[float]] = []

        def client(_: int) -> None:
            while time.perf_counter() < end:
                with lock:
                    prompt = [rng.randrange(vocab // 8, vocab // 2) for _ in range(128)]
                stamps = self.times(prompt, 128)
                with lock:
                    runs.append(stamps)

        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(client, range(streams)))
        pieces = sum(len(stamps) for stamps in runs)
        inside = sum(stamp <= end for stamps in runs for stamp in stamps)
        gaps = sorted((b - a) * 1e3 for stamps in runs for a, b in pairwise(stamps))
        per_piece = 128 * len(runs) / pieces
        yield "online_8", "output tok/s", inside * per_piece / seconds, False
        for percent in (50, 99):
            yield f"online_8_itl_p{percent}", "ms", gaps[round(percent / 100 * (len(gaps) - 1))], True
