"""A fault of ours in the text of one request: it alone ends with a 500, and the others do not notice."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import pytest
from random_llama import write_random_llama

from pagoda.client import EngineClient
from pagoda.config import load_config
from pagoda.loaded_model import LoadedModel
from pagoda.server.runner import Server
from pagoda.server.settings import ServerSettings

UNLUCKY = 13


def body(first: int, **more: Any) -> dict[str, Any]:
    return {"prompt": [first, 5, 6], "max_tokens": 20, "ignore_eos": True, "seed": first, "n": 2, **more}


async def texts(session: aiohttp.ClientSession, first: int) -> list[str]:
    async with session.post("/v1/completions", json=body(first)) as response:
        assert response.status == 200
        return [choice["text"] for choice in (await response.json())["choices"]]


def test_a_fault_in_one_requests_text_ends_it_alone(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(write_random_llama(tmp_path_factory.mktemp("fails") / "model"))
    client = EngineClient.create(load_config(values={"model": {"name": path}, "engine": {"num_kv_blocks": 64}}))
    absorb, outputs = LoadedModel.absorb, 0

    def unlucky(model: LoadedModel, state: Any, output: Any) -> Any:
        nonlocal outputs
        if state.prompt_token_ids[0] == UNLUCKY:
            outputs += 1
            if outputs % 5 == 0:
                raise RuntimeError("out of luck")
        return absorb(model, state, output)

    async def run() -> None:
        server = Server(client, ServerSettings(port=0, access_log=False))
        await server.start()
        try:
            async with aiohttp.ClientSession(server.url) as session:
                expected = [await texts(session, first) for first in (1, 2, 3)]
                monkeypatch.setattr(LoadedModel, "absorb", unlucky)
                mates = asyncio.gather(*(texts(session, first) for first in (1, 2, 3)))
                async with session.post("/v1/completions", json=body(UNLUCKY)) as response:
                    assert response.status == 500
                    assert (await response.json())["error"]["code"] == "internal_error"
                async with session.post("/v1/completions", json=body(UNLUCKY, stream=True)) as response:
                    *_, error, done, _ = (await response.text()).split("\n\n")
                    assert '"code":"internal_error"' in error
                    assert done == "data: [DONE]"
                assert await mates == expected
                async with asyncio.timeout(60):
                    while client.stats()["num_running"]:
                        await asyncio.sleep(0.02)
                assert client.stats()["kv_cache_usage"] == 0
                assert [await texts(session, first) for first in (1, 2, 3)] == expected
        finally:
            await server.stop()

    try:
        with caplog.at_level(logging.ERROR):
            asyncio.run(run())
    finally:
        client.close()
    assert "out of luck" in caplog.text


def test_a_request_that_rules_out_every_token_is_a_bad_request(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(write_random_llama(tmp_path_factory.mktemp("ruled_out") / "model"))
    client = EngineClient.create(load_config(values={"model": {"name": path}, "engine": {"num_kv_blocks": 64}}))

    async def run() -> None:
        server = Server(client, ServerSettings(port=0, access_log=False))
        await server.start()
        try:
            nothing = {"allowed_token_ids": [30], "logit_bias": {"30": -100}}
            async with (
                aiohttp.ClientSession(server.url) as session,
                session.post("/v1/completions", json=body(1, **nothing)) as response,
            ):
                assert response.status == 400
                assert (await response.json())["error"]["code"] == "no_token_allowed"
            assert client.stats()["num_numerics_errors"] == 0
        finally:
            await server.stop()

    try:
        asyncio.run(run())
    finally:
        client.close()
