"""Fields beyond sampling: cut prompts, usage in every chunk, token ids, tenants and the model's further names."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fake_client import BOS, FakeClient, fake_api

from pagoda.chat_template import ChatTemplate

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]


def ask(path: str, body: dict[str, Any], client: FakeClient | None = None, **settings: Any) -> dict[str, Any]:
    """The answer to one request that succeeds."""

    async def run() -> dict[str, Any]:
        async with fake_api(client, **settings) as (session, _), session.post(path, json=body) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    return asyncio.run(run())


def ask_stream(path: str, body: dict[str, Any], client: FakeClient | None = None) -> list[dict[str, Any]]:
    """The chunks of one streamed answer."""

    async def run() -> str:
        async with fake_api(client) as (session, _), session.post(path, json=body | {"stream": True}) as response:
            assert response.status == 200, await response.text()
            return await response.text()

    frames = asyncio.run(run()).split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, b"j"), (3, b"hij"), (11, [BOS, *b"abcdefghij"]), (10**6, [BOS, *b"abcdefghij"])]
)
def test_a_cut_prompt_keeps_its_end(keep: int, kept: Any) -> None:
    client = FakeClient()
    body = {"prompt": "abcdefghij", "max_tokens": 1, "truncate_prompt_tokens": keep}
    assert ask(COMPLETIONS, body, client)["usage"]["prompt_tokens"] == len(kept)
    assert client.requests[0][0] == list(kept)


@pytest.mark.parametrize(("max_tokens", "kept"), [(None, 31), (1, 31), (20, 12)])
def test_minus_one_cuts_a_prompt_to_what_fits(max_tokens: int | None, kept: int) -> None:
    body = {"prompt": [7] * 100, "max_tokens": max_tokens, "truncate_prompt_tokens": -1}
    assert ask(COMPLETIONS, body, FakeClient(max_model_len=32))["usage"]["prompt_tokens"] == kept
    chat = {"messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 2, "truncate_prompt_tokens": -1}
    assert ask(CHAT, chat, FakeClient(max_model_len=32))["usage"]["prompt_tokens"] == 30


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_continuous_usage_counts_up_with_every_chunk(path: str) -> None:
    body = {"prompt": "abc"} if path == COMPLETIONS else {"messages": USER}
    for continuous in (True, False):
        options = {"include_usage": True, "continuous_usage_stats": continuous}
        chunks = ask_stream(path, body | {"max_tokens": 3, "stream_options": options})
        counts = [chunk["usage"] and chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts[-1] == 3
        if continuous:
            assert counts == sorted(counts)
            assert {1, 2, 3} <= set(counts)
        else:
            assert counts[:-1] == [None] * (len(chunks) - 1)
    alone = ask_stream(path, body | {"max_tokens": 3, "stream_options": {"continuous_usage_stats": True}})
    assert not any("usage" in chunk for chunk in alone)


def test_token_ids_of_a_stream_are_those_of_the_whole_answer() -> None:
    body = {"messages": USER, "max_tokens": 3, "n": 2, "return_token_ids": True}
    whole, chunks = ask(CHAT, body), ask_stream(CHAT, body)
    assert [chunk["prompt_token_ids"] for chunk in chunks if "prompt_token_ids" in chunk] == [whole["prompt_token_ids"]]
    for choice in whole["choices"]:
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert [token for piece in mine for token in piece.get("token_ids", [])] == choice["token_ids"]
    body = {"prompt": ["ab", "c"], "max_tokens": 3, "return_token_ids": True, "echo": True}
    whole, chunks = ask(COMPLETIONS, body), ask_stream(COMPLETIONS, body)
    for choice in whole["choices"]:
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        told = [piece["prompt_token_ids"] for piece in mine if "prompt_token_ids" in piece]
        assert told == [choice["prompt_token_ids"]]
        assert [token for piece in mine for token in piece.get("token_ids", [])] == choice["token_ids"]


def test_the_engine_is_shared_among_keys_or_else_among_users() -> None:
    async def run() -> None:
        async with fake_api() as (session, client):
            for user in ("ann", None):
                async with session.post(CHAT, json={"messages": USER, "max_tokens": 1, "user": user}) as response:
                    assert response.status == 200
            assert client.tenants == ["ann", ""]
        async with fake_api(api_keys=["one", "two"]) as (session, client):
            for key in ("one", "two", "one"):
                body = {"messages": USER, "max_tokens": 1, "user": "ann"}
                async with session.post(CHAT, json=body, headers={"x-api-key": key}) as response:
                    assert response.status == 200
            first, second, third = client.tenants
            assert first == third != second
            assert "one" not in first

    asyncio.run(run())


def test_every_served_name_is_listed_and_answers_under_itself() -> None:
    async def run() -> None:
        async with fake_api(served_model_names=["gpt-4o", "org/other", "fake"]) as (session, _):
            async with session.get("/v1/models") as response:
                models = (await response.json())["data"]
            assert [model["id"] for model in models] == ["fake", "gpt-4o", "org/other"]
            assert {(model["root"], model["max_model_len"]) for model in models} == {("fake", 4096)}
            for name in ("gpt-4o", "org/other", "fake"):
                async with session.get(f"/v1/models/{name}") as response:
                    assert (await response.json())["id"] == name
                async with session.post(CHAT, json={"model": name, "messages": USER, "max_tokens": 1}) as response:
                    assert (await response.json())["model"] == name
            async with session.get("/v1/models/none") as response:
                assert response.status == 404
            async with session.post(CHAT, json={"messages": USER, "max_tokens": 1}) as response:
                assert (await response.json())["model"] == "fake"

    asyncio.run(run())


@pytest.mark.parametrize("name", ["", "x" * 513])
def test_a_served_name_has_some_characters(name: str) -> None:
    with pytest.raises(ValueError, match="served_model_names must hold names of 1 to 512 characters"):
        ask(CHAT, {"messages": USER}, served_model_names=[name])


def test_a_developers_message_is_a_systems_where_the_template_knows_no_developer() -> None:
    client = FakeClient()
    ask(CHAT, {"messages": [{"role": "developer", "content": "short"}, *USER], "max_tokens": 1}, client)
    assert bytes(token for token in client.requests[0][0] if token < 256) == b"system:shortuser:hiassistant:"
    client.chat_template = ChatTemplate("{# knows developer #}{% for m in messages %}{{ m.role }};{% endfor %}")
    ask(CHAT, {"messages": [{"role": "developer", "content": "short"}, *USER], "max_tokens": 1}, client)
    assert bytes(client.requests[1][0]) == b"developer;user;"
