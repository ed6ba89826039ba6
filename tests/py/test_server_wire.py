"""The server on raw sockets: broken HTTP, slow requests, pipelining, connection limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import struct
import time
from typing import Any

import psutil
import pytest
from fake_client import FakeClient, calling, serving

from pagoda.server.runner import Server

BODY = json.dumps({"prompt": "ab", "max_tokens": 2}).encode()
JSON = {"Content-Type": "application/json"}


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


async def exchange(server: Server, *parts: bytes, pause_s: float = 0.0, timeout_s: float = 60.0) -> bytes:
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


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    """Waits for a condition; fails after the timeout."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.01)


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


def test_a_body_of_no_declared_type_is_a_415() -> None:
    async def run() -> None:
        async with serving() as (server, client):
            request = completion(head=b"Connection: close\r\n").replace(b"Content-Type: application/json\r\n", b"")
            answer = await exchange(server, request)
            assert status_of(answer) == 415
            assert error_of(answer)["code"] == "unsupported_media_type"
            assert client.started == 0

    asyncio.run(run())


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


def test_others_are_served_while_a_body_of_one_byte_chunks_arrives() -> None:
    async def run() -> None:
        async with serving() as (server, _), calling(server) as session:
            payload = BODY + b" " * (1_000_000 - len(BODY))
            chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in payload) + b"0\r\n\r\n"
            head = completion(b"", b"Transfer-Encoding: chunked\r\nConnection: close\r\n")
            upload = asyncio.create_task(exchange(server, head.replace(b"Content-Length: 0\r\n", b""), chunks))
            num_served = 0
            while not upload.done():
                async with session.post("/v1/completions", data=BODY, headers=JSON) as response:
                    assert response.status == 200
                    num_served += 1
            assert status_of(await upload) == 200
            assert num_served >= 3

    asyncio.run(run())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def run() -> None:
        async with serving() as (server, _):
            bodies = [json.dumps({"prompt": f"{i:03d}", "max_tokens": 3}).encode() for i in range(1000)]
            requests = b"".join(completion(body) for body in bodies[:-1])
            answer = await exchange(server, requests + completion(bodies[-1], b"Connection: close\r\n"))
            texts = re.findall(r'"text": "([^"]*)"', answer.decode())
            assert texts == [f"{i:03d}" for i in range(1000)]

    asyncio.run(run())


def test_pipelined_requests_are_not_read_ahead_without_bound() -> None:
    async def run() -> None:
        client = FakeClient()
        client.first_delay_s = 60.0
        async with serving(client) as (server, _):
            _, writer = await connect(server)
            writer.write(completion())
            await until(lambda: client.running == 1)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500_000)
            left, before = writer.transport.get_write_buffer_size(), -1
            while left != before:
                await asyncio.sleep(0.2)
                left, before = writer.transport.get_write_buffer_size(), left
            assert left > 10_000_000  # of 24 MB; the kernel holds some
            client.first_delay_s = 0.0
            await still_serves(server)
            client.first_delay_s = 60.0
            reset = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            writer.transport.abort()
            await until(lambda: client.running == 0, 30)

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


def test_two_hundred_clients_with_slow_headers_or_bodies_are_sent_away_and_others_served() -> None:
    async def trickle(server: Server, head: bytes) -> bytes:
        reader, writer = await connect(server)
        writer.write(head)
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(b"X")
            await asyncio.wait({answer}, timeout=0.2)
        writer.close()
        return b"" if answer.exception() else answer.result()

    async def run() -> None:
        async with serving(header_timeout_s=1.5, body_timeout_s=1.5) as (server, client), calling(server) as session:
            heads = [b"GET /health HTTP/1.1\r\nHo"] * 100 + [completion(b" " * 1000)[:-1000]] * 100
            async with session.get("/health/live"):  # its connection is open before the crowd comes
                crowd = asyncio.gather(*(trickle(server, head) for head in heads))
            while not crowd.done():
                async with session.post("/v1/completions", data=BODY, headers=JSON) as response:
                    assert (await response.json())["choices"][0]["text"] == "ab"
                await asyncio.sleep(0.1)
            answers = await crowd
            assert set(answers[:100]) == {b""}
            assert {status_of(answer) for answer in answers[100:] if answer} == {408}
            assert client.started == client.finished > 0
            await until(lambda: server.open_connections == 1)

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
