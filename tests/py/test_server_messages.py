"""Anthropic's API: the `anthropic` package against a FakeClient, and bodies as chat bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from fake_client import FakeClient, fake_api, serving

from pagoda.server.errors import ApiError
from pagoda.server.messages_body import translate

USER: list[Any] = [{"role": "user", "content": "hi"}]
PATH = "/v1/messages"


@asynccontextmanager
async def anthropic_client(fake: FakeClient, **settings: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """A client of a fresh server, strict about what it gets."""
    async with (
        serving(fake, **settings) as (server, _),
        anthropic.AsyncAnthropic(
            base_url=server.url, api_key="key-1", max_retries=0, _strict_response_validation=True
        ) as client,
    ):
        yield client


def test_the_client_reads_a_whole_message() -> None:
    async def run() -> None:
        fake = FakeClient()
        async with anthropic_client(fake, api_keys=["key-1"]) as client:
            message = await client.messages.create(
                model="fake",
                max_tokens=4,
                messages=USER,
                system="be good",
                stop_sequences=["zz"],
                extra_body={"temperature": 0.5},
            )
            assert message.id.startswith("msg_")
            assert [block.text for block in message.content if block.type == "text"] == ["syst"]
            assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
            prompt = "<s>system:be good</s><s>user:hi</s><s>assistant:"
            num_prompt = len(prompt) - 3 * len("<s>") - 2 * len("</s>") + 5
            usage = message.usage
            assert (usage.input_tokens, usage.cache_read_input_tokens) == (num_prompt % 16, num_prompt // 16 * 16)
            assert usage.output_tokens == 4
            ids, params = fake.requests[0]
            assert len(ids) == num_prompt
            assert (params.max_tokens, params.temperature, params.stop) == (4, 0.5, ["zz"])

    asyncio.run(run())


def test_the_client_puts_a_stream_together_to_the_whole_message() -> None:
    async def run() -> None:
        fake = FakeClient()
        fake.progress = [3]
        async with anthropic_client(fake) as client:
            asked: dict[str, Any] = {"model": "fake", "max_tokens": 6, "messages": USER, "stop_sequences": ["r:h"]}
            whole = await client.messages.create(**asked)
            assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "r:h")
            kinds: list[str] = []
            async with client.messages.stream(**asked) as stream:
                async for event in stream:
                    kinds.append(event.type)
                streamed = await stream.get_final_message()
            told, wanted = streamed.to_dict(), whole.to_dict()
            for name in ("content", "usage", "stop_reason", "stop_sequence", "role", "model", "type"):
                assert told[name] == wanted[name]
            plain = [kind for kind in kinds if kind not in ("text", "content_block_delta")]
            assert plain == [
                "message_start",
                "content_block_start",
                "content_block_stop",
                "message_delta",
                "message_stop",
            ]

    asyncio.run(run())


def test_a_silent_stream_carries_pings_and_an_error_event_ends_a_broken_one() -> None:
    async def run() -> None:
        fake = FakeClient()
        fake.first_delay_s, fake.fail_at = 0.3, 2
        body = {"model": "fake", "max_tokens": 6, "messages": USER, "stream": True}
        async with fake_api(fake, sse_keep_alive_s=0.1) as (session, _), session.post(PATH, json=body) as response:
            frames = (await response.text()).split("\n\n")
        assert 'event: ping\ndata: {"type":"ping"}' in frames
        assert frames[-2].startswith('event: error\ndata: {"type":"error","error":{"message":"The engine ended')
        assert frames[-1] == ""

    asyncio.run(run())


def test_the_client_raises_its_own_error_types() -> None:
    async def run() -> None:
        async with anthropic_client(FakeClient(max_model_len=64), api_keys=["key-1"]) as client:
            with pytest.raises(anthropic.BadRequestError) as bad:
                await client.messages.create(model="fake", max_tokens=4, messages=USER, extra_body={"temperature": 7})
            assert bad.value.body == {
                "type": "error",
                "error": {
                    "type": "invalid_request_error",
                    "message": "temperature must be in [0, 2], got 7",
                    "param": "temperature",
                    "code": "invalid_value",
                },
            }
            with pytest.raises(anthropic.NotFoundError):
                await client.messages.create(model="other", max_tokens=4, messages=USER)
            with pytest.raises(anthropic.BadRequestError, match="maximum context length"):
                await client.messages.create(model="fake", max_tokens=400, messages=USER)
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await client.with_options(api_key="wrong").messages.create(model="fake", max_tokens=4, messages=USER)
            assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]

    asyncio.run(run())


def test_tokens_are_counted_as_they_would_be_used() -> None:
    async def run() -> None:
        fake = FakeClient()
        async with anthropic_client(fake) as client:
            counted = await client.messages.count_tokens(model="fake", messages=USER, system="be good")
            assert fake.started == 0
            await client.messages.create(model="fake", max_tokens=1, messages=USER, system="be good")
            assert counted.input_tokens == len(fake.requests[0][0])

    asyncio.run(run())


def test_an_assistants_last_message_is_continued() -> None:
    async def run() -> None:
        fake = FakeClient()
        async with anthropic_client(fake) as client:
            turns = [*USER, {"role": "assistant", "content": "well"}]
            await client.messages.create(model="fake", max_tokens=1, messages=turns)
            assert bytes(token for token in fake.requests[0][0] if token < 256) == b"user:hiassistant:well"

    asyncio.run(run())


BLOCKS: dict[str, Any] = {
    "model": "fake",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "sys", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hmm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "let me look"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"city": "Köln"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                {"type": "tool_result", "tool_use_id": "t2"},
                {"type": "text", "text": "so?"},
            ],
        },
    ],
    "tools": [{"name": "look", "description": "looks", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "thinking": {"type": "disabled"},
    "metadata": {"user_id": "me"},
    "stop_sequences": ["a"],
    "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    "top_k": 5,
    "seed": 3,
}


def test_blocks_become_messages_in_their_order() -> None:
    chat = translate(BLOCKS).chat()
    assert chat.pop("messages") == [
        {"role": "system", "content": [{"type": "text", "text": "sys"}]},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {
            "role": "assistant",
            "content": "let me look",
            "reasoning_content": "hmm",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Köln"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": [{"type": "text", "text": "rain"}]},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "so?"}]},
    ]
    assert chat == {
        "model": "fake",
        "max_tokens": 5,
        "top_k": 5,
        "seed": 3,
        "stop": ["a"],
        "user": "me",
        "parallel_tool_calls": False,
        "tool_choice": "required",
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "looks", "parameters": {"type": "object"}}}
        ],
        "chat_template_kwargs": {"enable_thinking": False},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


IMAGE = {"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
    ({"messages": [*USER, {"role": "user", "content": []}]}, "messages[1].content"),
    ({"messages": [*USER, {"role": "user", "content": [IMAGE]}]}, "messages[1].content[0].type"),
    ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"system": 5}, "system"),
    ({"system": [IMAGE]}, "system[0].type"),
    ({"stop_sequences": "x" * 300}, "stop_sequences[0]"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"metadata": {"user_id": 5}}, "metadata.user_id"),
    *(({"metadata": value}, "metadata") for value in (5, "", False)),
    ({"tools": {}}, "tools"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": {"type": "some"}}, "tool_choice"),
    ({"tool_choice": {"type": ["auto"]}}, "tool_choice"),
    ({"thinking": {"type": "maybe"}}, "thinking"),
    *(({"output_format": value}, "output_format") for value in ({"type": "yaml"}, {}, [], "")),
    *(({"output_config": value}, "output_config") for value in ("", [])),
    *(({"output_config": {"format": value}}, "output_config.format") for value in ({"type": "yaml"}, {}, 5, "")),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": False}]}]},
        "messages[0].content[0].content",
    ),
    ({"n": 2}, "n"),
    ({"temperature": 3}, "temperature"),
    ({"chat_template_kwargs": 5, "thinking": {"type": "enabled"}}, "chat_template_kwargs"),
]


def test_bad_bodies_get_a_400_that_names_the_callers_field() -> None:
    async def run() -> None:
        async with fake_api() as (session, fake):
            for body, param in REFUSED:
                async with session.post(PATH, json={"max_tokens": 3, "messages": USER} | body) as response:
                    answer = json.loads(await response.text())
                    assert response.status == 400, body
                    assert answer["error"]["param"] == param, (body, answer)
                    assert answer["error"]["message"].startswith(param.partition("[")[0].partition(".")[0]), answer
            assert fake.started == 0

    asyncio.run(run())


IGNORED: list[tuple[dict[str, Any], str]] = [
    ({"metadata": {"user_id": "u", "team": "t"}}, "metadata.team"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": "low"}}, "output_config.effort"),
    ({"output_config": {"pitch": "low"}}, "output_config.pitch"),
]


@pytest.mark.parametrize(("field", "name"), IGNORED)
def test_fields_without_effect_are_named_where_they_stand(field: dict[str, Any], name: str) -> None:
    async def run() -> None:
        body = {"model": "fake", "max_tokens": 1, "messages": USER} | field
        async with fake_api() as (session, _), session.post("/v1/messages", json=body) as response:
            assert response.status == 200
            assert response.headers["x-pagoda-ignored"] == name
        async with fake_api(strict=True) as (session, _), session.post("/v1/messages", json=body) as response:
            known = name in ("thinking.budget_tokens", "output_config.effort")
            assert response.status == (200 if known else 400)

    asyncio.run(run())


def test_errors_of_the_template_name_the_turn_where_it_stands() -> None:
    body = {"max_tokens": 1, "system": "s", "messages": [*USER, {"role": "user", "content": "x"}]}
    made = translate(body)
    with pytest.raises(ApiError) as caught, made.own_names():
        raise ApiError(400, "messages[2].content is odd", param="messages[2].content")
    assert caught.value.param == "messages[1].content"
    assert caught.value.message == "messages[1].content is odd"
