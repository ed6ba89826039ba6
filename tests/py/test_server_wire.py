"""The server on raw sockets: broken HTTP, slow and dead clients, pipelining, connection limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import time
from typing import Any

import psutil
import pytest
from fake_client import FakeClient, calling, serving

from pagoda.server.runner import Server

BODY = json.dumps({"prompt": "ab", "max_tokens": 2}).encode()


def completion(body: bytes = BODY, head: bytes = b"") -> bytes:
    """A well-formed POST, with more header lines when given."""
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        + head
        + b"Content-Length: %d\r\n\r\n" % len(body)
        + body
    )


async def connect(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A plain TCP connection."""
    return await asyncio.open_connection("127.0.0.1", server.port)


async def exchange(server: Server, *parts: bytes, pause_s: float = 0.0, timeout_s: float = 10.0) -> bytes:
    """Sends the parts and reads until the server closes the connection."""
    reader, writer = await connect(server)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(timeout_s):
            return await reader.read()
    except (ConnectionResetError, BrokenPipeError):
        return b""
    finally:
        writer.close()


def status_of(answer: bytes) -> int:
    """The status of the first response."""
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> dict[str, Any]:
    """The error object of a response."""
    error: dict[str, Any] = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
    return error


async def still_serves(server: Server) -> None:
    """A control request gets its usual answer."""
    async with calling(server) as session, session.post("/v1/completions", json=json.loads(BODY)) as response:
        assert response.status == 200
        assert (await response.json())["choices"][0]["text"] == "ab"


BROKEN_REQUESTS = {
    "long header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
    "long line": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    + b"".join(b"X-%d: a\r\n" % i for i in range(200))
    + b"\r\n",
    "two lengths": completion(head=b"Content-Length: 5\r\n"),
    "length and chunked": completion(head=b"Transfer-Encoding: chunked\r\n"),
    "two hosts": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    "nul in header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
    "bare cr in header": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
    "negative length": b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


def test_broken_requests_get_a_json_400_and_the_connection_is_closed() -> None:
    async def run() -> None:
        async with serving() as (server, client):
            for name, request in BROKEN_REQUESTS.items():
                answer = await exchange(server, request)
                assert status_of(answer) in (400, 431), (name, answer[:200])
                assert b"x-request-id" in answer.lower(), name
                assert b"aiohttp" not in answer, name
                assert set(error_of(answer)) == {"message", "type", "param", "code"}, name
            assert client.started == 0
            await still_serves(server)

    asyncio.run(run())


def test_the_log_of_a_broken_request_shows_nothing_of_its_headers(caplog: pytest.LogCaptureFixture) -> None:
    secret = b"Authorization: Bearer canary"
    heads = (secret + b"\0\r\n", secret * 400 + b"\r\n", b"canary\r\n", b"ca nary: x\r\n")

    async def run() -> None:
        async with serving() as (server, _):
            for head in heads:
                assert status_of(await exchange(server, completion(head=head))) == 400
            assert status_of(await exchange(server, b"GET /canary HTTP/canary\r\n\r\n")) == 400

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    records = [record.getMessage() for record in caplog.records if record.name == "pagoda.server.connection"]
    assert len(records) == len(heads) + 1
    assert "nary" not in " ".join(records), records
    assert all(record.startswith("a request was not valid HTTP: ") for record in records)


def test_a_broken_chunked_body_is_a_400() -> None:
    async def run() -> None:
        async with serving() as (server, _):
            head = (
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            answer = await exchange(server, head, b"zz\r\nhello\r\n")
            assert status_of(answer) == 400
            await still_serves(server)

    asyncio.run(run())


def test_endless_trailers_end_with_the_time_for_the_body() -> None:
    async def run() -> None:
        async with serving(body_timeout_s=0.5) as (server, _):
            head = (
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
            )
            reader, writer = await connect(server)
            before = psutil.Process().memory_info().rss
            writer.write(head)
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(20):
                    while not reader.at_eof():
                        writer.write(b"X-T: " + b"a" * 1000 + b"\r\n")
                        await writer.drain()
            writer.close()
            assert psutil.Process().memory_info().rss - before < 50_000_000
            await still_serves(server)

    asyncio.run(run())


def test_a_request_in_one_byte_segments_is_served() -> None:
    async def run() -> None:
        async with serving() as (server, _):
            request = completion(head=b"Connection: close\r\n")
            answer = await exchange(server, *(request[i : i + 1] for i in range(len(request))))
            assert status_of(answer) == 200

    asyncio.run(run())


def test_a_megabyte_in_one_byte_chunks_costs_little() -> None:
    async def run() -> None:
        async with serving() as (server, _):
            head = (
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            )
            payload = BODY + b" " * (1_000_000 - len(BODY))
            chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in payload) + b"0\r\n\r\n"
            begin = time.process_time()
            answer = await exchange(server, head, chunks, timeout_s=60)
            assert status_of(answer) in (200, 400)
            assert time.process_time() - begin < 4.0  # client and server together
            await still_serves(server)

    asyncio.run(run())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def run() -> None:
        async with serving() as (server, _):
            bodies = [json.dumps({"prompt": f"{i:03d}", "max_tokens": 3}).encode() for i in range(200)]
            requests = b"".join(completion(body) for body in bodies[:-1])
            answer = await exchange(server, requests + completion(bodies[-1], b"Connection: close\r\n"))
            texts = re.findall(r'"text": "([^"]*)"', answer.decode())
            assert texts == [f"{i:03d}" for i in range(200)]

    asyncio.run(run())


def test_http_1_0_and_expect_continue_are_understood() -> None:
    async def run() -> None:
        async with serving() as (server, _):
            answer = await exchange(server, b"GET /health/live HTTP/1.0\r\n\r\n")
            assert status_of(answer) == 200
            reader, writer = await connect(server)
            whole = completion(head=b"Expect: 100-continue\r\nConnection: close\r\n")
            head, body = whole[: -len(BODY)], whole[-len(BODY) :]
            writer.write(head)
            assert (await reader.readline()).startswith(b"HTTP/1.1 100")
            writer.write(body)
            assert b"HTTP/1.1 200" in await reader.read()
            writer.close()
            answer = await exchange(server, completion(head=b"Expect: magic\r\nConnection: close\r\n"))
            assert status_of(answer) == 417
            assert error_of(answer)["code"] == "http_error"

    asyncio.run(run())


def test_slow_headers_and_silent_connections_are_closed() -> None:
    async def run() -> None:
        async with serving(header_timeout_s=0.3, keep_alive_s=0.3) as (server, _):
            begin = time.monotonic()
            slow = exchange(server, *(b"GET /health HTTP/1.1\r\n"[i : i + 1] for i in range(20)), pause_s=0.05)
            answers = await asyncio.gather(slow, exchange(server), still_serves(server))
            assert answers[:2] == [b"", b""]
            assert time.monotonic() - begin < 3

    asyncio.run(run())


def test_an_idle_kept_alive_connection_is_closed() -> None:
    async def run() -> None:
        async with serving(keep_alive_s=0.2) as (server, _):
            begin = time.monotonic()
            assert status_of(await exchange(server, completion())) == 200
            assert time.monotonic() - begin < 3

    asyncio.run(run())


def test_a_body_that_stalls_gets_a_408() -> None:
    async def run() -> None:
        async with serving(body_timeout_s=0.2) as (server, client):
            answer = await exchange(server, completion()[:-5])
            assert status_of(answer) == 408
            assert error_of(answer)["code"] == "timeout"
            assert client.started == 0
            await still_serves(server)

    asyncio.run(run())


def test_an_oversized_body_is_not_read_to_its_end() -> None:
    async def run() -> None:
        async with serving(max_body_bytes=4096) as (server, _):
            head = (
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100000000\r\n\r\n"
            )
            answer = await exchange(server, head, b" " * 1000)
            assert status_of(answer) == 413
            assert b"Connection: close" in answer
            await still_serves(server)

    asyncio.run(run())


def test_connections_beyond_the_limit_get_a_503() -> None:
    async def run() -> None:
        async with serving(max_connections=2) as (server, _):
            held = [await connect(server) for _ in range(2)]
            await asyncio.sleep(0.05)
            answer = await exchange(server)
            assert status_of(answer) == 503
            assert b"Retry-After: 1" in answer
            assert error_of(answer)["code"] == "too_many_connections"
            for _, writer in held:
                writer.close()
            await asyncio.sleep(0.1)
            await still_serves(server)

    asyncio.run(run())


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    """Waits for a condition; fails after the timeout."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.01)


def test_a_client_that_leaves_aborts_its_request_wherever_it_is() -> None:
    async def run() -> None:
        client = FakeClient()
        async with serving(client) as (server, _):
            for stream in (True, False):
                for first_delay, delay in ((60.0, 0.0), (0.0, 0.02)):
                    client.first_delay_s, client.delay_s = first_delay, delay
                    body = json.dumps({"prompt": "ab", "max_tokens": 1000, "n": 2, "stream": stream}).encode()
                    aborted = client.aborted
                    _, writer = await connect(server)
                    writer.write(completion(body))
                    await until(lambda: client.running == 1)
                    await asyncio.sleep(0.1)
                    writer.transport.abort()
                    await until(lambda: client.running == 0)
                    assert client.aborted == aborted + 1
            await until(lambda: server.state.in_flight == 0)
            client.first_delay_s = client.delay_s = 0.0
            await still_serves(server)
            async with calling(server) as session, session.get("/metrics") as response:
                page = await response.text()
            assert 'vllm:requests_total{reason="client_disconnect"} 4.0' in page
            assert 'vllm:requests_total{reason="finished"} 1.0' in page
            assert client.finished == 1

    asyncio.run(run())


def test_a_client_that_stops_reading_is_cut_off_and_others_are_served() -> None:
    async def run() -> None:
        client = FakeClient(max_model_len=100_000)
        client.piece_factor = 4000
        async with serving(client, write_timeout_s=0.3) as (server, _):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
            body = json.dumps({"prompt": "ab", "max_tokens": 50_000, "stream": True}).encode()
            await asyncio.get_running_loop().sock_sendall(sock, completion(body))
            await until(lambda: client.running == 1)
            client.piece_factor = 1
            await still_serves(server)
            client.piece_factor = 4000
            await until(lambda: client.running == 0, 10)
            assert client.aborted == 1
            sock.close()

    asyncio.run(run())


def test_an_answer_that_is_not_taken_is_dropped() -> None:
    async def run() -> None:
        client = FakeClient(max_model_len=100_000)
        client.piece_factor = 4000
        async with serving(client, write_timeout_s=0.3) as (server, _):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", server.port))
            await loop.sock_sendall(sock, completion(json.dumps({"prompt": "ab", "max_tokens": 2000}).encode()))
            await until(lambda: client.finished == 1, 10)
            await until(lambda: server.open_connections == 0, 10)
            sock.close()

    asyncio.run(run())
