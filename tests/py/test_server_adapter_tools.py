"""Reasoning, tool calls and structured output through the adapters: the packages of both APIs see the chat's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_client import fake_api
from test_server_messages import anthropic_client
from test_server_responses import openai_client
from test_server_tools import ANSWER, tooled

USER: list[Any] = [{"role": "user", "content": "hi"}]
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def test_a_message_has_thinking_text_and_a_tool_use() -> None:
    async def run() -> None:
        asked: dict[str, Any] = {
            "model": "fake",
            "max_tokens": 400,
            "messages": USER,
            "tools": [{"name": "look", "description": "Looks.", "input_schema": PARAMETERS}],
        }
        async with anthropic_client(tooled(ANSWER)) as client:
            whole = await client.messages.create(**asked)
            assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
            thinking, text, call = (block.to_dict() for block in whole.content)
            assert "Who?" in thinking["thinking"]
            assert text["text"].strip() == "Wait."
            assert (call["name"], call["input"]) == ("look", {"city": "Rome"})
            assert whole.stop_reason == "tool_use"
            async with client.messages.stream(**asked) as stream:
                streamed = await stream.get_final_message()
            assert streamed.stop_reason == "tool_use"
            told = [block.to_dict() | {"id": None} for block in streamed.content]
            assert told == [block.to_dict() | {"id": None} for block in whole.content]
            turns = [
                *USER,
                {"role": "assistant", "content": [block.to_dict() for block in whole.content]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "rain"}]},
            ]
            again = await client.messages.create(**asked | {"messages": turns})
            assert again.stop_reason == "tool_use"

    asyncio.run(run())


def test_a_response_has_reasoning_a_message_and_a_function_call() -> None:
    async def run() -> None:
        asked: dict[str, Any] = {
            "model": "fake",
            "input": USER,
            "tools": [{"type": "function", "name": "look", "description": "Looks.", "parameters": PARAMETERS}],
            "include": ["message.output_text.logprobs"],
            "max_output_tokens": 400,
        }
        async with openai_client(tooled(ANSWER)) as client:
            whole = await client.responses.create(**asked)
            assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
            assert whole.output_text.strip() == "Wait."
            call = whole.output[-1].to_dict()
            assert (call["name"], call["arguments"]) == ("look", '{"city": "Rome"}')
            async with client.responses.stream(**asked) as stream:
                kinds = [event.type async for event in stream]
                streamed = await stream.get_final_response()
            assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 3
            assert [item.type for item in streamed.output] == ["reasoning", "message", "function_call"]
            assert streamed.output_text == whole.output_text
            assert streamed.output[-1].to_dict()["arguments"] == call["arguments"]
            items = [*USER, *(item.to_dict() for item in whole.output)]
            items.append({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"})
            again = await client.responses.create(**asked | {"input": items})
            assert again.status == "completed"

    asyncio.run(run())


def test_the_form_of_the_answer_reaches_the_engine() -> None:
    async def run() -> None:
        schema = {"name": "answer", "schema": PARAMETERS, "strict": True}
        fake = tooled("{}")
        async with fake_api(fake) as (session, _):
            asked = [
                ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": schema}}),
                ("/v1/responses", {"input": "hi", "text": {"format": {"type": "json_schema"} | schema}}),
                ("/v1/messages", {"max_tokens": 9, "output_format": {"type": "json_schema", "schema": PARAMETERS}}),
            ]
            for path, body in asked:
                base = {} if path == "/v1/responses" else {"messages": USER}
                async with session.post(path, json=base | body) as response:
                    assert response.status == 200, await response.text()
            grammars = [params.guided_json or params.guided_grammar for _, params in fake.requests]
            assert grammars[0]
            assert grammars == [grammars[0]] * 3

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/responses", {"input": "x", "tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        (
            "/v1/responses",
            {"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
        ),
        ("/v1/responses", {"input": "x", "text": {"format": {"type": "xml"}}}, "text.format.type"),
        ("/v1/messages", {"max_tokens": 1, "messages": USER, "tools": [{"name": "a b"}]}, "tools[0].name"),
        (
            "/v1/messages",
            {"max_tokens": 1, "messages": USER, "output_format": {"type": "json_schema", "schema": 5}},
            "output_format.schema",
        ),
    ],
)
def test_a_wrong_tool_or_schema_is_named_where_the_caller_wrote_it(path: str, body: dict[str, Any], param: str) -> None:
    async def run() -> None:
        async with fake_api(tooled()) as (session, _), session.post(path, json=body) as response:
            answer = await response.json()
            assert response.status == 400
            assert answer["error"]["param"] == param, answer

    asyncio.run(run())
