"""Two thousand clients and ten thousand choices at once: served or told when to come back, and gone without a trace."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from random_llama import write_random_llama

from pagoda.client import EngineClient
from pagoda.config import load_config
from pagoda.server.runner import Server
from pagoda.server.settings import ServerSettings

NUM_CLIENTS, CHOICES = 2000, 5
PATH = "/v1/completions"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_random_llama(tmp_path_factory.mktemp("crowd") / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return str(path)


@pytest.fixture(autouse=True)
def open_files() -> None:
    """Both ends of every connection are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * NUM_CLIENTS + 1000
    if soft != resource.RLIM_INFINITY and soft < wanted:
        assert hard == resource.RLIM_INFINITY or hard >= wanted, f"the test needs {wanted} open files, {hard} allowed"
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@asynccontextmanager
async def serving(model: str, **engine: Any) -> AsyncIterator[tuple[Server, EngineClient]]:
    options = {"num_kv_blocks": 256, "max_model_len": 2048, "num_threads": 1, "prefix_cache": False, **engine}
    client = EngineClient.create(load_config(values={"model": {"name": model}, "engine": options}))
    server = Server(client, ServerSettings(port=0, access_log=False))
    await server.start()
    try:
        yield server, client
    finally:
        await server.stop()
        client.close()


async def quiet(client: EngineClient) -> None:
    """Until the engine has nothing left."""
    async with asyncio.timeout(120):
        while client.stats()["num_running"] or client.stats()["num_waiting"]:
            await asyncio.sleep(0.02)
    assert client.stats()["kv_cache_usage"] == 0


async def control(session: aiohttp.ClientSession) -> str:
    """The text of a request that is always the same."""
    async with session.post(PATH, json={"prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0}) as response:
        assert response.status == 200, await response.text()
        text: str = (await response.json())["choices"][0]["text"]
        return text


def test_a_crowd_is_queued_up_to_the_limit_refused_beyond_and_missed_when_it_leaves(model: str) -> None:
    async def run() -> None:
        limit = NUM_CLIENTS * CHOICES // 2
        async with serving(model, max_num_seqs=1, max_num_queued_seqs=limit) as (server, client):
            async with aiohttp.ClientSession(server.url) as session:
                before = await control(session)
            # So long that hardly one is done while the crowd comes, however fast the engine is.
            body = {"prompt": [1, 2, 3], "n": CHOICES, "max_tokens": 2000, "ignore_eos": True}
            refused: list[float] = []

            async def ask(crowd: aiohttp.ClientSession) -> None:
                async with crowd.post(PATH, json=body) as response:
                    if response.status == 200:  # one of the first, whose turn has come
                        return
                    assert response.status == 429, await response.text()
                    assert (await response.json())["error"]["code"] == "overloaded"
                    refused.append(float(response.headers["Retry-After"]))

            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(server.url, connector=connector) as crowd:
                tasks = [asyncio.create_task(ask(crowd)) for _ in range(NUM_CLIENTS)]
                async with asyncio.timeout(240):
                    while len(refused) < NUM_CLIENTS // 4 and not any(
                        task.done() and task.exception() for task in tasks
                    ):
                        await asyncio.sleep(0.05)
                assert client.stats()["num_waiting"] <= limit
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(end) for end in ends} == {type(None), asyncio.CancelledError}
            assert min(refused) >= 1
            assert len(refused) <= NUM_CLIENTS - limit // CHOICES
            await quiet(client)
            async with aiohttp.ClientSession(server.url) as session:
                assert await control(session) == before

    asyncio.run(run())
