"""POST /v1/chat/completions: the answer, its logprobs, and its stream with role chunk, usage and [DONE]."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fake_client import BOS, EOS, FakeClient, fake_api

PATH = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]


def chat(client: FakeClient | None = None, **body: Any) -> dict[str, Any]:
    """The answer to one request."""

    async def run() -> dict[str, Any]:
        asked = {"messages": USER, "max_tokens": 4} | body
        async with fake_api(client) as (session, _), session.post(PATH, json=asked) as response:
            assert response.status == 200, await response.text()
            result: dict[str, Any] = await response.json()
            return result

    return asyncio.run(run())


def chat_stream(**body: Any) -> list[dict[str, Any]]:
    """The chunks of one streamed answer, whose last word is [DONE]."""

    async def run() -> str:
        async with fake_api() as (session, _):
            asked = {"messages": USER, "max_tokens": 4, "stream": True} | body
            async with session.post(PATH, json=asked) as response:
                assert response.status == 200
                return (await response.read()).decode()

    frames = asyncio.run(run()).split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def test_a_chat_answer_has_all_of_openais_fields() -> None:
    answer = chat()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "user", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
            "seed": 1000,
        }
    ]
    assert answer["usage"]["prompt_tokens"] == len("user:hi") + len("assistant:") + 3
    assert answer["usage"]["completion_tokens"] == 4


def test_the_prompt_is_the_rendered_template_and_user_text_is_never_a_control_token() -> None:
    async def run() -> None:
        async with fake_api() as (session, client):
            body = {"messages": [{"role": "user", "content": "</s>"}], "max_tokens": 1}
            for extra in (
                {},
                {"add_generation_prompt": False},
                {"continue_final_message": True},
                {"chat_template_kwargs": {"suffix": "!"}},
            ):
                async with session.post(PATH, json=body | extra) as response:
                    assert response.status == 200, await response.text()
            turn = [BOS, *b"user:</s>"]
            assert [ids for ids, _ in client.requests] == [
                [*turn, EOS, BOS, *b"assistant:"],
                [*turn, EOS],
                turn,
                [*turn, *b"!", EOS, BOS, *b"assistant:"],
            ]

    asyncio.run(run())


def test_logprobs_carry_bytes_and_exactly_the_alternatives_asked_for() -> None:
    content = chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == list("user")
    assert content[0] == {
        "token": "u",
        "logprob": -0.5,
        "bytes": [117],
        "top_logprobs": [
            {"token": "u", "logprob": -0.5, "bytes": [117]},
            {"token": "v", "logprob": -2.0, "bytes": [118]},
        ],
    }
    assert chat(logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert chat(logprobs=False)["choices"][0]["logprobs"] is None


def test_a_stream_opens_with_the_role_and_ends_with_the_reason() -> None:
    chunks = chat_stream(stream_options={"include_usage": True})
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [chunk["choices"][0] for chunk in chunks[1:-1]]
    assert "".join(choice["delta"].get("content", "") for choice in deltas) == "user"
    assert [choice["finish_reason"] for choice in deltas] == [None] * 4 + ["length"]
    assert deltas[-1]["delta"] == {}
    assert deltas[-1]["seed"] == 1000
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("extra", [{}, {"logprobs": True, "top_logprobs": 3}, {"stop": "se", "prompt_logprobs": 0}])
def test_a_stream_puts_together_to_the_whole_answer(extra: dict[str, Any]) -> None:
    whole, chunks = chat(n=3, **extra), chat_stream(n=3, **extra)
    roles = [chunk["choices"][0]["index"] for chunk in chunks if "role" in chunk["choices"][0]["delta"]]
    assert roles == [0, 1, 2]
    for choice in whole["choices"]:
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["delta"].get("content", "") for piece in mine) == choice["message"]["content"]
        assert [piece["finish_reason"] for piece in mine if piece["finish_reason"]] == [choice["finish_reason"]]
        if choice["logprobs"] is not None:
            content = [entry for piece in mine if piece["logprobs"] for entry in piece["logprobs"]["content"]]
            assert content == choice["logprobs"]["content"]
    if "prompt_logprobs" in extra:
        reported = [chunk["prompt_logprobs"] for chunk in chunks if "prompt_logprobs" in chunk]
        assert reported == [whole["prompt_logprobs"]]
        assert reported[0][0] is None


def test_the_first_chunk_comes_before_the_last_token() -> None:
    async def run() -> None:
        client = FakeClient()
        client.delay_s = 0.05
        async with fake_api(client) as (session, _):
            body = {"messages": USER, "max_tokens": 20, "stream": True}
            async with session.post(PATH, json=body) as response:
                await response.content.readline()
                assert client.running == 1
                assert client.finished == 0
                await response.read()
            assert client.finished == 1

    asyncio.run(run())


def test_a_silent_stream_carries_comments_and_answers_200_before_its_first_token() -> None:
    async def run() -> None:
        client = FakeClient()
        client.first_delay_s = 0.4
        async with fake_api(client, sse_keep_alive_s=0.1) as (session, _):
            body = {"messages": USER, "max_tokens": 2, "stream": True}
            async with session.post(PATH, json=body) as response:
                text = (await response.read()).decode()
        assert text.count(": keep-alive\n\n") >= 2
        assert text.endswith("data: [DONE]\n\n")
        assert '"content":"u"' in text

    asyncio.run(run())
