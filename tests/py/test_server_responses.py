"""OpenAI's responses: the `openai` package against a FakeClient, and bodies as chat bodies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from fake_client import FakeClient, fake_api, serving

from pagoda.server.response_items import ItemWriter
from pagoda.server.responses_body import translate

PATH = "/v1/responses"


@asynccontextmanager
async def openai_client(fake: FakeClient, **settings: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a fresh server, strict about what it gets."""
    async with (
        serving(fake, **settings) as (server, _),
        openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="key-1", max_retries=0, _strict_response_validation=True
        ) as client,
    ):
        yield client


def test_the_client_reads_a_whole_response() -> None:
    async def run() -> None:
        fake = FakeClient()
        async with openai_client(fake) as client:
            response = await client.responses.create(
                model="fake", input="hi", instructions="be good", max_output_tokens=4, temperature=0.5, store=False
            )
            assert response.id.startswith("resp_")
            assert response.output_text == "syst"
            assert response.status == "incomplete"
            assert response.incomplete_details is not None
            assert response.incomplete_details.reason == "max_output_tokens"
            assert (response.temperature, response.top_p, response.instructions) == (0.5, 1.0, "be good")
            assert response.usage is not None
            assert response.usage.output_tokens == 4
            assert response.usage.input_tokens == len(fake.requests[0][0])
            fake.requests.clear()
            stopped = await client.responses.create(model="fake", input="hi", extra_body={"stop": "er"})
            assert (stopped.status, stopped.output_text) == ("completed", "use")

    asyncio.run(run())


def test_the_clients_stream_ends_with_the_whole_response() -> None:
    async def run() -> None:
        async with openai_client(FakeClient()) as client:
            asked: dict[str, Any] = {
                "model": "fake",
                "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
                "extra_body": {"stop": "r"},
                "include": ["message.output_text.logprobs"],
                "top_logprobs": 2,
            }
            whole = await client.responses.create(**asked)
            stream = await client.responses.create(**asked, stream=True)
            events = [event async for event in stream]
            assert [event.sequence_number for event in events] == list(range(len(events)))
            kinds = [event.type for event in events]
            assert kinds == [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
                *["response.output_text.delta"] * kinds.count("response.output_text.delta"),
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.completed",
            ]
            text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            assert text == whole.output_text == "use"
            last = events[-1]
            assert last.type == "response.completed"
            ignored = {"id", "created_at"}
            assert without_ids(last.response.to_dict(), ignored) == without_ids(whole.to_dict(), ignored)
            part = whole.output[0].content[0]  # type: ignore[union-attr]
            assert [len(entry.top_logprobs) for entry in part.logprobs] == [2, 2, 2, 2]  # type: ignore[union-attr]

    asyncio.run(run())


def without_ids(value: Any, names: set[str]) -> Any:
    """A copy of JSON data without the fields of these names."""
    if isinstance(value, dict):
        return {key: without_ids(item, names) for key, item in value.items() if key not in names}
    return [without_ids(item, names) for item in value] if isinstance(value, list) else value


def test_a_stream_that_breaks_ends_with_a_failed_response() -> None:
    async def run() -> None:
        fake = FakeClient()
        fake.fail_at = 2
        async with openai_client(fake) as client:
            stream = await client.responses.create(model="fake", input="hi", stream=True)
            last = [event async for event in stream][-1]
            assert last.type == "response.failed"
            assert last.response.error is not None
            assert last.response.error.code == "server_error"
            assert last.response.error.message.startswith("The engine ended this request")

    asyncio.run(run())


def test_an_aborted_response_is_cancelled() -> None:
    async def run() -> None:
        fake = FakeClient()
        fake.delay_s = 0.02
        async with openai_client(fake) as client:
            stream = await client.responses.create(model="fake", input="hi", stream=True)
            async for event in stream:
                if event.type == "response.created":
                    await client.post(f"/requests/{event.response.id}/abort", cast_to=object)
            assert event.type == "response.incomplete"
            assert event.response.status == "cancelled"

    asyncio.run(run())


ITEMS: dict[str, Any] = {
    "model": "fake",
    "instructions": "be good",
    "input": [
        {"role": "developer", "content": "dev"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hmm"}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "m",
            "content": [{"type": "output_text", "text": "let me look", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"city": 1}'},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"role": "assistant", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "so?"},
    ],
    "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "function", "name": "look"},
    "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}},
    "max_output_tokens": 5,
    "truncation": "auto",
    "store": False,
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 3,
    "seed": 1,
}


def test_items_become_messages_in_their_order() -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
    ]
    chat = translate(ITEMS).chat()
    assert chat.pop("messages") == [
        {"role": "system", "content": "be good"},
        {"role": "developer", "content": "dev"},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {"role": "assistant", "content": "let me look", "reasoning_content": "hmm", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "assistant", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "so?"},
    ]
    assert chat == {
        "model": "fake",
        "store": False,
        "seed": 1,
        "max_tokens": 5,
        "truncate_prompt_tokens": -1,
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True},
        },
        "logprobs": True,
        "top_logprobs": 3,
    }


def test_every_kind_of_item_tells_its_start_its_deltas_and_its_end() -> None:
    writer = ItemWriter("x")
    events = writer.reasoning("a") + writer.reasoning("b") + writer.text("c", [])
    events += writer.call({"index": 0, "id": "c0", "function": {"name": "f", "arguments": ""}})
    events += writer.call({"index": 0, "function": {"arguments": "{}"}})
    events += writer.call({"index": 1, "id": "c1", "function": {"name": "g", "arguments": "[]"}})
    events += writer.close()
    assert [event["type"].removeprefix("response.") for event in events] == [
        "output_item.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["item"]["status"] for event in added] == ["in_progress"] * 4
    assert [event["output_index"] for event in added] == [0, 1, 2, 3]
    assert [item["status"] for item in writer.items] == ["completed"] * 4
    assert writer.items[0]["content"] == [{"type": "reasoning_text", "text": "ab"}]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in writer.items[2:]] == [
        ("c0", "f", "{}"),
        ("c1", "g", "[]"),
    ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": 5}, "input"),
    ({"input": []}, "input"),
    ({"input": [5]}, "input[0]"),
    ({"instructions": "x", "input": [{"role": "king", "content": "x"}]}, "input[0].role"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "["}]}, "input[0].tool_calls"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"instructions": 5}, "instructions"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "c"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"background": True}, "background"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": "x"}, "max_output_tokens"),
    ({"truncation": "always"}, "truncation"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
    *(({name: value}, name) for name in ("text", "include", "reasoning") for value in (5, "", False)),
    ({"top_p": 2}, "top_p"),
    ({"messages": []}, "messages"),
    ({"n": 2}, "n"),
]


IGNORED: list[tuple[dict[str, Any], str]] = [
    ({"store": True}, "store"),
    ({"temprature": 1}, "temprature"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"text": {"format": {"type": "text"}, "colour": 1}}, "text.colour"),
]


def test_bad_bodies_get_a_400_that_names_the_callers_field() -> None:
    async def run() -> None:
        async with fake_api() as (session, fake):
            for body, param in REFUSED:
                async with session.post(PATH, json={"input": "hi"} | body) as response:
                    answer = json.loads(await response.text())
                    assert response.status == 400, body
                    assert (answer["error"]["param"] or "").startswith(param), (body, answer)
            assert fake.started == 0

    asyncio.run(run())


@pytest.mark.parametrize(("field", "names"), IGNORED)
def test_fields_without_effect_are_named(field: dict[str, Any], names: str) -> None:
    async def run() -> None:
        body = {"input": "hi", "max_output_tokens": 1} | field
        async with fake_api() as (session, _), session.post(PATH, json=body) as response:
            assert response.status == 200
            assert response.headers["x-pagoda-ignored"] == names

    asyncio.run(run())
