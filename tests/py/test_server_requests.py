"""Requests seen from outside: aborted by id, heard of while their prompt is computed, rendered without running."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from fake_client import FakeClient, fake_api

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]
LONG = {"messages": USER, "max_tokens": 1000}


async def first_chunk(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The first event of a stream."""
    line = await response.content.readline()
    chunk: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return chunk


def test_a_stream_is_aborted_by_the_id_of_its_answer() -> None:
    async def run() -> None:
        client = FakeClient()
        client.delay_s = 0.02
        async with fake_api(client) as (session, _), session.post(CHAT, json=LONG | {"stream": True}) as response:
            name = (await first_chunk(response))["id"]
            async with session.post(f"/v1/requests/{name}/abort") as answer:
                assert answer.status == 200
                assert await answer.json() == {"id": name, "object": "request.abort", "aborted": 1}
            rest = (await response.text()).split("\n\n")
            assert json.loads(rest[-3].removeprefix("data: "))["choices"][0]["finish_reason"] == "abort"
            assert rest[-2:] == ["data: [DONE]", ""]
            assert client.aborted == 1
            async with session.post(f"/v1/requests/{name}/abort") as answer:
                assert answer.status == 404
                assert (await answer.json())["error"]["code"] == "request_not_found"

    asyncio.run(run())


@pytest.mark.parametrize("key", ["mine", "boss"])
def test_a_request_is_aborted_by_its_own_id_with_its_own_key_or_an_admins(key: str) -> None:
    async def run() -> None:
        client = FakeClient()
        client.delay_s = 0.02
        mine, other = ({"x-api-key": key} for key in ("mine", "other"))
        async with fake_api(client, api_keys=["mine", "other"], admin_api_keys=["boss"]) as (session, _):
            asked = asyncio.create_task(session.post(CHAT, json=LONG, headers=mine | {"x-request-id": key}))
            async with asyncio.timeout(5):
                while not client.running:
                    await asyncio.sleep(0.01)
            statuses = []
            for headers in (other, {}, {"x-api-key": key}):
                async with session.post(f"/v1/requests/{key}/abort", headers=headers) as answer:
                    statuses.append(answer.status)
            assert statuses == [404, 401, 200]
            async with await asked as response:
                assert (await response.json())["choices"][0]["finish_reason"] == "abort"

    asyncio.run(run())


def test_comments_tell_how_far_a_long_prompt_is() -> None:
    async def run() -> None:
        client = FakeClient()
        client.progress = [10, 20]
        async with fake_api(client) as (session, _):
            async with session.post(CHAT, json=LONG | {"max_tokens": 2, "stream": True}) as response:
                text = await response.text()
            frames = text.split("\n\n")
            assert [frame for frame in frames if frame.startswith(":")] == [": prefill 10/20", ": prefill 20/20"]
            assert (
                "".join(
                    choice["delta"].get("content", "")
                    for frame in frames
                    if frame.startswith("data: {")
                    for choice in json.loads(frame[6:])["choices"]
                )
                == "us"
            )
            async with session.post(CHAT, json=LONG | {"max_tokens": 2}) as response:
                assert (await response.json())["choices"][0]["message"]["content"] == "us"

    asyncio.run(run())


def test_a_rendered_chat_is_the_prompt_that_would_run() -> None:
    async def run() -> None:
        async with fake_api() as (session, client):
            body = {"messages": USER, "max_tokens": 1, "chat_template_kwargs": {"suffix": "!"}, "temprature": 1}
            async with session.post(f"{CHAT}/render", json=body) as response:
                assert response.status == 200
                assert response.headers["x-pagoda-ignored"] == "temprature"
                rendered = await response.json()
            assert client.started == 0
            async with session.post(CHAT, json=body) as response:
                assert response.status == 200
            assert rendered["prompt_token_ids"] == client.requests[0][0]
            assert rendered["prompt"] == "<s>user:hi!</s><s>assistant:"
            assert rendered["count"] == len(rendered["prompt_token_ids"])

    asyncio.run(run())


@pytest.mark.parametrize(("body", "param"), [({}, "messages"), ({"messages": USER, "top_p": 7.5}, "top_p")])
def test_rendering_checks_its_fields(body: dict[str, Any], param: str) -> None:
    async def run() -> None:
        async with fake_api() as (session, _), session.post(f"{CHAT}/render", json=body) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == param

    asyncio.run(run())
