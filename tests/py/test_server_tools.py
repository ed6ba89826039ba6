"""Structured output and tools at the HTTP server, over a client without an engine: checks, prompts and shapes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fake_client import FakeClient, fake_api
from test_server_validation import check_error

from pagoda.chat_template import ChatTemplate

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = [{"role": "user", "content": "hi"}]
TEMPLATES = Path(__file__).parents[1] / "data/chat_templates"
QWEN = (TEMPLATES / "qwen_3.jinja").read_text(encoding="utf-8")
CODER = (TEMPLATES / "qwen_3_coder.jinja").read_text(encoding="utf-8")
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ANSWER = '<think>\nWho?\n</think>\n\nWait.\n<tool_call>\n{"name": "look", "arguments": {"city": "Rome"}}\n</tool_call>'


def tooled(text: str | None = None, template: str = QWEN) -> FakeClient:
    client = FakeClient()
    client.chat_template = ChatTemplate(template)
    client.text = text
    return client


async def post(session: Any, body: dict[str, Any], path: str = CHAT) -> tuple[int, dict[str, Any]]:
    base = {"messages": USER} if path == CHAT else {"prompt": "hi"}
    async with session.post(path, json={"max_tokens": 400} | base | body) as response:
        return response.status, await response.json()


async def stream(session: Any, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with session.post(CHAT, json={"messages": USER, "max_tokens": 400, "stream": True} | body) as response:
        assert response.status == 200
        lines = [line async for line in response.content]
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


def function(**changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {**LOOK["function"], **changes}}  # type: ignore[dict-item]


def schema(**content: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": content}


F = "tools[0].function"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": schema(name="a")}, "response_format.json_schema.schema"),
    *(({"response_format": schema(name="a", schema=v)}, "response_format.json_schema.schema") for v in ("", False, [])),
    ({"response_format": schema(name="a b", schema={})}, "response_format.json_schema.name"),
    ({"response_format": schema(name="a", strict="yes", schema={})}, "response_format.json_schema.strict"),
    ({"response_format": schema(name="a", schema={"enum": ["x" * (5 << 20)]})}, "response_format.json_schema.schema"),
    ({"guided_json": 5}, "guided_json"),
    ({"guided_json": ""}, "guided_json"),
    ({"guided_regex": ""}, "guided_regex"),
    ({"guided_regex": ["a"]}, "guided_regex"),
    ({"guided_choice": []}, "guided_choice"),
    ({"guided_choice": [1]}, "guided_choice[0]"),
    ({"guided_grammar": {}}, "guided_grammar"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
    ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
    ({"tools": {"look": 1}}, "tools"),
    ({"tools": [LOOK] * 129}, "tools"),
    ({"tools": ["look"]}, "tools[0]"),
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, F),
    ({"tools": [{"type": "function", "function": {}}]}, f"{F}.name"),
    *(({"tools": [function(name=v)]}, f"{F}.name") for v in ("", "look up", "x" * (1 << 20), 5)),
    ({"tools": [LOOK, LOOK]}, "tools[1].function.name"),
    ({"tools": [function(description=5)]}, f"{F}.description"),
    ({"tools": [function(parameters="object")]}, f"{F}.parameters"),
    ({"tools": [function(parameters={"type": "string"})]}, f"{F}.parameters.type"),
    ({"tools": [function(parameters={"properties": 1})]}, f"{F}.parameters.properties"),
    ({"tools": [function(parameters={"properties": {"a": 1}})]}, f"{F}.parameters.properties.a"),
    ({"tools": [function(parameters={"properties": {"a": {"type": "str"}}})]}, f"{F}.parameters.properties.a.type"),
    (
        {"tools": [function(parameters={"properties": {"a": {"items": {"pattern": "(a"}}}})]},
        f"{F}.parameters.properties.a.items.pattern",
    ),
    ({"tools": [function(parameters={"anyOf": [{"pattern": 5}]})]}, f"{F}.parameters.anyOf[0].pattern"),
    ({"tools": [function(parameters={"description": "x" * (1 << 19)})]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [LOOK], "tool_choice": "maybe"}, "tool_choice"),
    ({"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "hear"}}}, "tool_choice"),
    ({"tools": [LOOK], "tool_choice": {"type": "function"}}, "tool_choice"),
    ({"tools": [LOOK], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"tools": [LOOK], "tool_choice": "required", "guided_regex": "a"}, "guided_regex"),
]


def test_bad_forms_and_tools_get_a_400_that_names_the_field() -> None:
    async def run() -> None:
        async with fake_api(tooled()) as (session, client):
            for body, param in REFUSED:
                status, answer = await post(session, body)
                assert status == 400, (str(body)[:200], answer)
                check_error(answer, param)
            assert client.started == 0

    asyncio.run(run())


def test_a_model_whose_template_knows_no_tools_says_so() -> None:
    async def run() -> None:
        async with fake_api(tooled(template="{{ messages[0].content }}")) as (session, _):
            status, answer = await post(session, {"tools": [LOOK]})
            assert (status, answer["error"]["param"]) == (400, "tools")
            assert "no place for tools" in answer["error"]["message"]
        for marks in ("", "<tool_call><arg_key></tool_call>"):
            async with fake_api(tooled(template=marks + "{{ tools }}{{ messages[0].content }}")) as (session, _):
                status, answer = await post(session, {"tools": [LOOK]})
                assert status == 400, marks
                assert "set tool_parser" in answer["error"]["message"]
                assert (await post(session, {"tools": [LOOK], "tool_choice": "required"}))[0] == 200

    asyncio.run(run())


def test_forms_reach_the_engine_as_sampling_parameters() -> None:
    asked = [
        ({"response_format": {"type": "json_object"}}, "guided_json", '{"type": "object"}'),
        ({"response_format": schema(name="a", schema={"enum": [1]})}, "guided_json", '{"enum": [1]}'),
        ({"guided_json": {"enum": [2]}}, "guided_json", '{"enum": [2]}'),
        ({"guided_json": '{"enum":[3]}'}, "guided_json", '{"enum":[3]}'),
        ({"guided_regex": "a+"}, "guided_regex", "a+"),
        ({"guided_choice": ["a", "b"]}, "guided_choice", ["a", "b"]),
        ({"guided_grammar": "start: /a/"}, "guided_grammar", "start: /a/"),
    ]

    async def run() -> None:
        async with fake_api() as (session, client):
            for path in (CHAT, COMPLETIONS):
                for body, name, value in asked:
                    status, _ = await post(session, {"max_tokens": 2} | body, path)
                    assert status == 200
                    assert getattr(client.requests[-1][1], name) == value
                    assert getattr(client.compiled[-1], name) == value
            count = len(client.compiled)
            await post(session, {"response_format": {"type": "text"}, "max_tokens": 2})
            assert len(client.compiled) == count

    asyncio.run(run())


def test_tools_reach_the_template_and_their_calls_the_caller() -> None:
    async def run() -> None:
        async with fake_api(tooled(ANSWER)) as (session, client):
            status, answer = await post(session, {"tools": [LOOK]})
            assert status == 200
            prompt = bytes(token for token in client.requests[0][0] if token < 256).decode()
            assert '"description": "Looks."' in prompt
            (choice,) = answer["choices"]
            assert choice["finish_reason"] == "tool_calls"
            message = choice["message"]
            assert (message["content"], message["reasoning_content"]) == ("Wait.", "Who?")
            (call,) = message["tool_calls"]
            assert call["type"] == "function"
            assert call["function"] == {"name": "look", "arguments": '{"city": "Rome"}'}
            chunks = await stream(session, {"tools": [LOOK]})
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
            assert "".join(delta.get("content") or "" for delta in deltas) == "Wait."
            assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Who?"
            calls = [call for delta in deltas for call in delta.get("tool_calls") or []]
            assert calls[0]["function"]["name"] == "look"
            assert calls[0]["id"].startswith("call_")
            assert len(calls) > 5
            assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Rome"}'
            assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("settings", "body", "content"),
    [
        ({}, {}, ANSWER.partition("</think>\n\n")[2]),
        ({"reasoning_parser": "none"}, {"tools": [LOOK], "tool_choice": "none"}, ANSWER),
        ({"reasoning_parser": "none", "tool_parser": "none"}, {"tools": [LOOK]}, ANSWER),
        ({"tool_parser": "llama3"}, {"tools": [LOOK]}, ANSWER.partition("</think>\n\n")[2]),
    ],
)
def test_without_tools_or_their_parser_calls_stay_in_the_text(
    settings: dict[str, str], body: dict[str, Any], content: str
) -> None:
    async def run() -> None:
        async with fake_api(tooled(ANSWER), **settings) as (session, _):
            _, answer = await post(session, body)
            assert answer["choices"][0]["message"]["content"] == content
            assert answer["choices"][0]["finish_reason"] == "stop"
            chunks = await stream(session, body)
            assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == content

    asyncio.run(run())


def test_a_demanded_call_is_a_grammar() -> None:
    named = {"type": "function", "function": {"name": "look"}}
    other = function(name="hear")

    async def run() -> None:
        async with fake_api(tooled(ANSWER.partition("Wait.\n")[2])) as (session, client):
            for choice in ("required", named):
                status, answer = await post(session, {"tools": [LOOK, other], "tool_choice": choice})
                assert status == 200
                assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "look"
                assert answer["choices"][0]["message"]["content"] is None
                grammar = client.requests[-1][1].guided_grammar
                assert "<tool_call>" in grammar
                assert '\\"look\\"' in grammar
                assert ('\\"hear\\"' in grammar) == (choice == "required")

    asyncio.run(run())


def test_calls_that_are_not_json_become_json_by_their_schema_and_are_demanded_as_json() -> None:
    text = "<tool_call>\n<function=look>\n<parameter=city>\n5\n</parameter>\n<parameter=n>\n5\n</parameter>\n"
    tool = function(parameters={"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}})

    async def run() -> None:
        async with fake_api(tooled(text + "</function>\n</tool_call>", CODER)) as (session, client):
            _, answer = await post(session, {"tools": [tool]})
            (call,) = answer["choices"][0]["message"]["tool_calls"]
            assert call["function"] == {"name": "look", "arguments": '{"city": "5", "n": 5}'}
            assert answer["choices"][0]["message"]["content"] is None
            client.text = '[{"name": "look", "arguments": {"city": "a"}}]'
            _, answer = await post(session, {"tools": [tool], "tool_choice": "required"})
            (call,) = answer["choices"][0]["message"]["tool_calls"]
            assert call["function"] == {"name": "look", "arguments": '{"city": "a"}'}
            assert "<function=" not in client.requests[-1][1].guided_grammar

    asyncio.run(run())


def test_a_call_goes_back_through_the_template() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Rome"}'}}
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]

    async def run() -> None:
        async with fake_api(tooled("ok")) as (session, client):
            status, _ = await post(session, {"messages": messages, "tools": [LOOK]})
            assert status == 200
            prompt = bytes(token for token in client.requests[0][0] if token < 256).decode()
            assert '{"name": "look", "arguments": {"city": "Rome"}}' in prompt
            assert "<tool_response>\nsunny\n</tool_response>" in prompt

    asyncio.run(run())
