"""Clients that leave, at each point of their request, and clients that do not take their answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket

import pytest
from fake_client import FakeClient, calling, serving
from test_server_wire import completion, connect, still_serves, until

from pagoda.server.runner import Server
from pagoda.server.sse import SseWriter


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


async def sip(sock: socket.socket) -> None:
    """Reads a byte every 20 ms, to the end."""
    while await asyncio.get_running_loop().sock_recv(sock, 1):
        await asyncio.sleep(0.02)


async def disconnects(server: Server) -> float:
    """How many requests ended because their client left."""
    async with calling(server) as session, session.get("/metrics") as response:
        counted = re.search(r'vllm:requests_total{reason="client_disconnect"} (\S+)', await response.text())
    return float(counted[1]) if counted else 0.0


def test_a_client_that_leaves_before_its_body_is_complete_starts_nothing() -> None:
    async def run() -> None:
        async with serving() as (server, client):
            _, writer = await connect(server)
            writer.write(completion()[:-5])
            await until(lambda: server.state.in_flight == 1)
            writer.transport.abort()
            await until(lambda: server.state.in_flight == 0)
            assert client.started == 0
            assert await disconnects(server) == 1
            await still_serves(server)

    asyncio.run(run())


def test_a_client_that_leaves_while_its_prompt_is_computed_aborts_it() -> None:
    async def run() -> None:
        client = FakeClient()
        client.progress, client.delay_s = [1] * 1000, 0.02
        async with serving(client) as (server, _):
            reader, writer = await connect(server)
            writer.write(completion(json.dumps({"prompt": "ab", "stream": True}).encode()))
            assert b": prefill 1/3" in await reader.readuntil(b"prefill 1/3\n")
            writer.transport.abort()
            await until(lambda: client.running == 0)
            assert (client.aborted, client.finished, client.produced) == (1, 0, 0)
            await until(lambda: server.state.in_flight == 0)
            assert await disconnects(server) == 1

    asyncio.run(run())


def test_a_client_that_leaves_further_requests_behind_is_missed_too() -> None:
    async def run() -> None:
        client = FakeClient()
        client.first_delay_s = 60.0
        async with serving(client) as (server, _):
            _, writer = await connect(server)
            writer.write(completion() * 200)  # more than is read ahead
            await until(lambda: client.running == 1)
            writer.transport.abort()
            await until(lambda: client.running == 0, 30)
            await until(lambda: server.state.in_flight == 0)
            assert (client.started, client.aborted) == (1, 1)
            assert await disconnects(server) == 1

    asyncio.run(run())


def test_a_client_that_leaves_between_the_last_token_and_done_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        left, done = asyncio.Event(), SseWriter.done

        async def done_later(writer: SseWriter) -> None:
            await left.wait()
            await done(writer)

        monkeypatch.setattr(SseWriter, "done", done_later)
        async with serving() as (server, client):
            reader, writer = await connect(server)
            writer.write(completion(json.dumps({"prompt": "ab", "max_tokens": 2, "stream": True}).encode()))
            await reader.readuntil(b'"finish_reason":"length"')
            await until(lambda: client.finished == 1)
            writer.transport.abort()
            left.set()
            await until(lambda: server.state.in_flight == 0)
            await until(lambda: server.open_connections == 0)
            assert (client.running, client.aborted) == (0, 0)
            await still_serves(server)

    asyncio.run(run())


@pytest.mark.parametrize("sips", [False, True], ids=["reads nothing", "reads byte by byte"])
def test_a_client_that_stops_reading_is_cut_off_and_others_are_served(sips: bool) -> None:
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
            sipping = asyncio.create_task(sip(sock)) if sips else None
            client.piece_factor = 1
            await still_serves(server)
            client.piece_factor = 4000
            await until(lambda: client.running == 0)
            assert client.aborted == 1
            if sipping is not None:
                sipping.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await sipping
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
            await until(lambda: client.finished == 1)
            await until(lambda: server.open_connections == 0)
            sock.close()

    asyncio.run(run())
