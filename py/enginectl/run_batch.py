"""Answer a file of requests in OpenAI's batch format: one JSON object a line, in and out.

A run that was interrupted goes on where it stopped: what the output file has answers for is not computed again. The
answers come in the order in which they are ready. Exit code 1 when a request was refused or failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TextIO

import aiohttp
from aiohttp import web
from tqdm import tqdm

from enginectl.batch_file import BatchRequest, check_batch, read_batch, resume
from enginectl.console import note
from enginectl.flags import add_config_flags, read_config
from enginectl.session import open_client
from pagoda.client import EngineClient
from pagoda.config import Config, ConfigError
from pagoda.server.app import ROUTES, build_app

_OK = 200
_OVERLOADED = 429
_LONGEST_REQUEST_S = 86400
_DEFAULT_CONCURRENCY = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl run-batch`."""
    parser.add_argument("files", nargs="+", metavar="[MODEL] IN.jsonl OUT.jsonl", help="requests and answers")
    parser.add_argument(
        "--concurrency", type=int, default=_DEFAULT_CONCURRENCY, metavar="N",
        help=f"requests at work at once (default: {_DEFAULT_CONCURRENCY})",
    )  # fmt: skip
    add_config_flags(parser, ["model", "sampling", "engine"])


def run(args: argparse.Namespace) -> int:
    """Answers what is not answered yet."""
    if len(args.files) not in (2, 3):
        raise ConfigError([f"expected [MODEL] IN.jsonl OUT.jsonl, got {len(args.files)} words"])
    if args.concurrency < 1:
        raise ConfigError([f"--concurrency must be >= 1, got {args.concurrency}"])
    source, target = (Path(name) for name in args.files[-2:])
    config = read_config(args, args.files[0] if len(args.files) == 3 else None)
    total = check_batch(source, _urls())
    done = resume(target)
    unanswered = (request for request in read_batch(source, _urls()) if request.custom_id not in done)
    with open_client(config) as client, target.open("a", encoding="utf-8") as out:
        batch = Batch(out, total, sum(request.custom_id in done for request in read_batch(source, _urls())))
        asyncio.run(batch.run(client, config, unanswered, args.concurrency))
    note(f"{target}: {batch.num_done} answers" + (f", {batch.num_failed} of them failures" if batch.num_failed else ""))
    return 1 if batch.num_failed else 0


def _urls() -> set[str]:
    """The endpoints that a batch may name."""
    return {route.path for route in ROUTES if route.inference and "{" not in route.path}


class Batch:
    """The run of one batch. `num_failed` counts answers of this run with another status than 200."""

    def __init__(self, out: TextIO, total: int, num_done: int) -> None:
        self.num_done = num_done
        self.num_failed = 0
        self._out = out
        self._total = total

    async def run(
        self, client: EngineClient, config: Config, requests: Iterator[BatchRequest], concurrency: int
    ) -> None:
        """Sends every request through the server's own handlers, `concurrency` at a time, and writes the answers."""
        quiet = not sys.stderr.isatty()
        async with _serving(client, config) as session:
            with tqdm(total=self._total, initial=self.num_done, unit="request", disable=quiet) as bar:

                async def work() -> None:
                    for request in requests:  # shared by all workers
                        self._write(request, *await _answer(session, request))
                        bar.update()

                async with asyncio.TaskGroup() as group:
                    for _ in range(concurrency):
                        group.create_task(work())

    def _write(self, request: BatchRequest, status: int, request_id: str, body: Any) -> None:
        self.num_done += 1
        self.num_failed += status != _OK
        response = {"status_code": status, "request_id": request_id, "body": body}
        line = {
            "id": f"batch_req_{uuid.uuid4().hex}", "custom_id": request.custom_id, "response": response, "error": None
        }  # fmt: skip
        self._out.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._out.flush()


async def _answer(session: aiohttp.ClientSession, request: BatchRequest) -> tuple[int, str, Any]:
    """Status, request id and body. While the queue is full the request waits."""
    while True:
        async with session.post(request.url, json=request.body) as response:
            if response.status != _OVERLOADED:
                return response.status, response.headers["x-request-id"], await response.json()
            wait_s = float(response.headers.get("Retry-After", "1"))
        await asyncio.sleep(wait_s)


@contextlib.asynccontextmanager
async def _serving(client: EngineClient, config: Config) -> AsyncIterator[aiohttp.ClientSession]:
    """The server's application on a socket that only this user can reach, and a session for it."""
    settings = dataclasses.replace(
        config.server,
        host="localhost",
        api_keys=[],
        api_key_file=None,
        access_log=False,
        request_timeout_s=_LONGEST_REQUEST_S,
    )
    with tempfile.TemporaryDirectory(prefix="pagoda-batch-") as folder:
        socket = str(Path(folder) / "http")
        runner = web.AppRunner(build_app(client, settings, config.sampling), access_log=None, handler_cancellation=True)
        await runner.setup()
        try:
            await web.UnixSite(runner, socket).start()
            connector = aiohttp.UnixConnector(socket, limit=0)
            timeout = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession("http://localhost", connector=connector, timeout=timeout) as session:
                yield session
        finally:
            await runner.cleanup()
