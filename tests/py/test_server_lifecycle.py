"""Readiness, draining, signals, time limits, and failures in the middle of a stream."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fake_client import FakeClient, calling, fake_api, serving

from pagoda.server.runner import ServeError, Server
from pagoda.server.settings import ServerSettings

PATH = "/v1/completions"


def stream_body(tokens: int = 1000) -> dict[str, Any]:
    """A stream of so many tokens."""
    return {"prompt": "ab", "max_tokens": tokens, "stream": True}


def last_words(text: str) -> tuple[dict[str, Any], str]:
    """The last JSON chunk of a stream and what follows it."""
    frames = text.split("\n\n")
    assert frames[-1] == ""
    return json.loads(frames[-3].removeprefix("data: ")), frames[-2]


def test_health_endpoints_tell_alive_from_ready() -> None:
    async def run() -> None:
        async with fake_api() as (session, client):
            for path, healthy, expected in (
                ("/health/live", True, 200),
                ("/health/ready", True, 200),
                ("/health", True, 200),
                ("/health/live", False, 200),
                ("/health/ready", False, 503),
                ("/health", False, 503),
            ):
                client.healthy = healthy
                async with session.get(path) as response:
                    assert response.status == expected, path
            async with session.post(PATH, json={"prompt": "a"}) as response:
                assert response.status == 503
                assert (await response.json())["error"]["code"] == "engine_unavailable"
            async with session.get("/version") as response:
                assert (await response.json())["version"]

    asyncio.run(run())


def test_models_are_listed_and_found_by_name() -> None:
    async def run() -> None:
        client = FakeClient()
        client.model_name = "org/fake-1"
        async with fake_api(client) as (session, _):
            async with session.get("/v1/models") as response:
                listed = await response.json()
            assert [model["id"] for model in listed["data"]] == ["org/fake-1"]
            async with session.get("/v1/models/org/fake-1") as response:
                assert await response.json() == listed["data"][0]
            async with session.get("/v1/models/other") as response:
                assert response.status == 404

    asyncio.run(run())


def test_an_engine_error_in_a_stream_is_an_error_event_before_done() -> None:
    async def run() -> None:
        for failure in ("event", "exception"):
            client = FakeClient()
            if failure == "event":
                client.fail_at = 2
            else:
                client.raise_at = (2, RuntimeError("secret /home/x"))
            async with fake_api(client) as (session, _):
                async with session.post(PATH, json=stream_body()) as response:
                    assert response.status == 200
                    text = await response.text()
                chunk, done = last_words(text)
                assert done == "data: [DONE]"
                assert set(chunk["error"]) == {"message", "type", "param", "code"}
                assert "secret" not in text
                assert "/home" not in text
                assert "0x" not in text
                assert client.running == 0

    asyncio.run(run())


def test_an_engine_error_fails_the_whole_answer_and_nothing_else() -> None:
    async def run() -> None:
        client = FakeClient()
        client.delay_s = 0.01
        async with fake_api(client) as (session, _):
            mate = asyncio.create_task(session.post(PATH, json={"prompt": "cd", "max_tokens": 20}))
            while client.produced < 5:
                await asyncio.sleep(0.01)
            client.raise_at = (3, RuntimeError("broken"))
            async with session.post(PATH, json={"prompt": "ab", "n": 2, "max_tokens": 9}) as response:
                assert response.status == 500
                assert (await response.json())["error"]["code"] == "internal_error"
            client.raise_at = None
            async with await mate as response:
                assert response.status == 200
                assert (await response.json())["choices"][0]["text"] == "cd" * 10

    asyncio.run(run())


@pytest.mark.parametrize("stage", ["queue", "decode"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_ended(stage: str, stream: bool) -> None:
    async def run() -> None:
        client = FakeClient()
        client.first_delay_s, client.delay_s = (60.0, 0.0) if stage == "queue" else (0.0, 0.05)
        async with fake_api(client, request_timeout_s=5) as (session, _):
            body = stream_body() | {"stream": stream, "timeout_s": 0.3}
            begin = time.monotonic()
            async with session.post(PATH, json=body) as response:
                text = await response.text()
            assert time.monotonic() - begin < 3
            if stream and stage == "decode":
                assert response.status == 200
                chunk, done = last_words(text)
                assert done == "data: [DONE]"
            else:
                assert response.status == 504
                chunk = json.loads(text)
            assert chunk["error"]["code"] == "timeout"
            assert client.running == 0
            assert client.aborted == 1

    asyncio.run(run())


def test_draining_refuses_new_requests_and_lets_running_ones_end() -> None:
    async def run() -> None:
        client = FakeClient()
        client.delay_s = 0.02
        async with serving(client) as (server, _), calling(server) as session:
            running = [await session.post(PATH, json=stream_body(30)) for _ in range(5)]
            whole = asyncio.create_task(session.post(PATH, json={"prompt": "ab", "max_tokens": 30}))
            while client.running < 6:
                await asyncio.sleep(0.01)
            drained = asyncio.create_task(server.drain())
            await asyncio.sleep(0)
            async with session.get("/health/ready") as response:
                assert response.status == 503
                assert response.headers["Connection"] == "close"
            async with session.post(PATH, json={"prompt": "a"}) as response:
                assert response.status == 503
                assert response.headers["Connection"] == "close"
                assert (await response.json())["error"]["code"] == "shutting_down"
            for response in running:
                chunk, done = last_words(await response.text())
                assert done == "data: [DONE]"
                assert chunk["choices"][0]["finish_reason"] == "length"
            async with await whole as response:
                assert response.status == 200
            await drained
            assert client.finished == 6
            assert client.aborted == 0

    asyncio.run(run())


def test_what_outlasts_the_drain_ends_with_abort() -> None:
    async def run() -> None:
        client = FakeClient()
        client.delay_s = 0.02
        async with serving(client, shutdown_timeout_s=0.2) as (server, _), calling(server) as session:
            stream = await session.post(PATH, json=stream_body() | {"n": 2})
            chat = await session.post(
                "/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "stream": True}
            )
            whole = asyncio.create_task(session.post(PATH, json={"prompt": "ab", "max_tokens": 1000}))
            while client.running < 3:
                await asyncio.sleep(0.01)
            begin = time.monotonic()
            await server.drain()
            assert time.monotonic() - begin < 2
            for response in (stream, chat):
                chunk, done = last_words(await response.text())
                assert done == "data: [DONE]"
                assert chunk["choices"][0]["finish_reason"] == "abort"
                assert chunk["choices"][0]["seed"] >= 1000
            async with await whole as response:
                assert response.status == 200
                choice = (await response.json())["choices"][0]
                assert choice["finish_reason"] == "abort"
                assert choice["text"].startswith("abab")
            assert client.running == 0
            page = server.state.metrics.render(0, True).decode()
            assert 'vllm:requests_total{reason="abort"} 3.0' in page

    asyncio.run(run())


def test_a_port_in_use_is_named() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(ServeError, match=f"127.0.0.1:{port} is already in use"):
                await Server(FakeClient(), ServerSettings(port=port)).start()  # type: ignore[arg-type]
        settings = ServerSettings(host="192.0.2.1", port=0, allow_insecure=True)
        with pytest.raises(ServeError, match="not an address of this machine"):
            await Server(FakeClient(), settings).start()  # type: ignore[arg-type]

    asyncio.run(run())


@contextmanager
def process(
    delay_s: float, shutdown_timeout_s: float, *more: str, before: Callable[[], None] | None = None
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server process with a FakeClient, in which `before` runs first; it is killed if a test leaves it running."""
    script = str(Path(__file__).with_name("fake_client.py"))
    command = [sys.executable, script, str(delay_s), str(shutdown_timeout_s), *more]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before
    ) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            assert line, child.stderr.read() if child.stderr else ""
            yield child, int(line)
        finally:
            child.kill()


def check_silent(child: subprocess.Popen[str]) -> None:
    """The process has written no error."""
    assert child.stderr is not None
    assert "Traceback" not in child.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_at_once(number: signal.Signals) -> None:
    with process(0, 30) as (child, port), socket.create_connection(("127.0.0.1", port)):
        begin = time.monotonic()
        child.send_signal(number)
        assert child.wait(5) == 0
        assert time.monotonic() - begin < 2
        check_silent(child)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_signal_lets_a_running_stream_end() -> None:
    async def run(child: subprocess.Popen[str], port: int) -> str:
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            session.post(PATH, json=stream_body(20)) as response,
        ):
            await response.content.readline()
            child.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.1)
            async with session.post(PATH, json={"prompt": "a"}) as refused:
                assert refused.status == 503
            return await response.text()

    with process(0.05, 30) as (child, port):
        chunk, done = last_words("data: {}\n\n" + asyncio.run(run(child, port)))
        assert done == "data: [DONE]"
        assert chunk["choices"][0]["finish_reason"] == "length"
        assert child.wait(5) == 0
        check_silent(child)


def test_sighup_opens_the_log_file_anew(tmp_path: Path) -> None:
    async def ask(port: int, name: str) -> None:
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            session.get("/health", headers={"x-request-id": name}) as response,
        ):
            assert response.status == 200

    log, rotated = tmp_path / "log", tmp_path / "log.1"
    with process(0, 30, str(log)) as (child, port):
        asyncio.run(ask(port, "before"))
        log.rename(rotated)
        child.send_signal(signal.SIGHUP)
        asyncio.run(ask(port, "after"))
        child.send_signal(signal.SIGTERM)
        assert child.wait(5) == 0
    assert " before GET /health 200 " in rotated.read_text()
    assert " after GET /health 200 " in log.read_text()
    assert "after" not in rotated.read_text()


def test_running_out_of_file_descriptors_only_delays_connections() -> None:
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    async def run(port: int) -> None:
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        await asyncio.sleep(0.2)
        for connection in sockets:
            connection.close()
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            session.post(PATH, json={"prompt": "ab", "max_tokens": 2}) as response,
        ):
            assert response.status == 200

    with process(0, 30, before=few_files) as (child, port):
        asyncio.run(run(port))
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        _, log = child.communicate(timeout=5)
    assert child.returncode == 0
    assert log.count("no file descriptor is left") == 1
    assert "Traceback" not in log


def test_a_second_interrupt_aborts_at_once() -> None:
    async def run(child: subprocess.Popen[str], port: int) -> str:
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            session.post(PATH, json=stream_body()) as response,
        ):
            await response.content.readline()
            child.send_signal(signal.SIGINT)
            await asyncio.sleep(0.3)
            assert child.poll() is None
            child.send_signal(signal.SIGINT)
            return await response.text()

    with process(0.05, 30) as (child, port):
        begin = time.monotonic()
        chunk, done = last_words("data: {}\n\n" + asyncio.run(run(child, port)))
        assert done == "data: [DONE]"
        assert chunk["choices"][0]["finish_reason"] == "abort"
        assert child.wait(5) == 130
        assert time.monotonic() - begin < 3
        check_silent(child)
