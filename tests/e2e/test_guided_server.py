"""Structured output and tools through HTTP, from a real engine with a tiny random model: the grammar does the work."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema
import openai
import psutil
import pytest
from e2e.families.llama import LLAMA
from e2e.guided_schemas import SCHEMAS
from e2e.tiny_models import save
from text_tokenizers import byte_level, write_directory

from pagoda.client import EngineClient
from pagoda.config import SamplingParams, load_config
from pagoda.server.runner import Server
from pagoda.server.settings import ServerSettings

TEMPLATE = (Path(__file__).parents[1] / "data/chat_templates/qwen_3.jinja").read_text(encoding="utf-8")
USER: list[Any] = [{"role": "user", "content": "hi"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"n": {"$ref": "#/$defs/digit"}, "word": {"enum": [name, "x"]}},
                "required": ["n"],
                "additionalProperties": False,
                "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
            },
        },
    }
    for name in ("look", "hear")
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model whose template speaks of tools and reasoning."""
    path = tmp_path_factory.mktemp("guided") / "tiny"
    config = {"vocab_size": byte_level().get_vocab_size(), "max_position_embeddings": 4096}
    save(LLAMA.make(config), path)
    (path / "generation_config.json").unlink(missing_ok=True)
    return write_directory(path, {"chat_template": TEMPLATE})


def run(path: Path, work: Callable[[openai.AsyncOpenAI], Awaitable[None]], **settings: Any) -> None:
    """Does `work` with a client that accepts nothing but OpenAI's own shapes."""

    async def main() -> None:
        options = {"num_kv_blocks": 600, "max_model_len": 2048}
        client = EngineClient.create(load_config(values={"model": {"name": str(path)}, "engine": options}))
        server = Server(client, ServerSettings(port=0, access_log=False, **settings))
        await server.start()
        try:
            caller = openai.AsyncOpenAI(
                base_url=f"{server.url}/v1", api_key="x", max_retries=0, _strict_response_validation=True
            )
            async with caller:
                await work(caller)
        finally:
            await server.stop()
            client.close()

    asyncio.run(main())


async def answer(caller: openai.AsyncOpenAI, thinks: bool = False, **asked: Any) -> Any:
    body: dict[str, Any] = {"model": "tiny", "messages": USER, "max_tokens": 400, "seed": 3, **asked}
    body["extra_body"] = {"chat_template_kwargs": {"enable_thinking": thinks}, **asked.get("extra_body", {})}
    return (await caller.chat.completions.create(**body)).choices[0]


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}


def test_fifty_schemas_are_satisfied(path: Path) -> None:
    async def work(caller: openai.AsyncOpenAI) -> None:
        assert len(SCHEMAS) >= 50
        forms = [schema_format(schema) for schema in SCHEMAS]
        choices = await asyncio.gather(*(answer(caller, response_format=form, max_tokens=1500) for form in forms))
        for schema, choice in zip(SCHEMAS, choices, strict=True):
            assert choice.finish_reason == "stop", schema
            jsonschema.validate(json.loads(choice.message.content), schema)

    run(path, work)


def test_json_objects_and_extensions_at_both_endpoints(path: Path) -> None:
    async def work(caller: openai.AsyncOpenAI) -> None:
        choice = await answer(caller, response_format={"type": "json_object"}, seed=1)
        assert choice.message.content.lstrip().startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
        for extra, pattern in (
            ({"guided_regex": "[a-c]{4}"}, "[a-c]{4}"),
            ({"guided_choice": ["yes", "no"]}, "yes|no"),
            ({"guided_grammar": 'start: "<" /[0-9]{3}/ ">"'}, "<[0-9]{3}>"),
            ({"guided_json": {"enum": [1, 2]}}, "1|2"),
        ):
            choice = await answer(caller, extra_body=extra)
            assert re.fullmatch(pattern, choice.message.content)
            completion = await caller.completions.create(model="tiny", prompt="x", max_tokens=50, extra_body=extra)
            assert re.fullmatch(pattern, completion.choices[0].text)
            assert completion.choices[0].finish_reason == "stop"

    run(path, work)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


DEEP = '{"type":"object","properties":{"a":' * 10_000 + "{}" + "}}" * 10_000
HARD = {"allOf": [{"type": "string", "pattern": f".*{chr(97 + i)}.*"} for i in range(20)]}
UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"response_format": schema_format({"type": "elephant"})}, "Invalid type: elephant"),
    ({"response_format": schema_format({"$ref": "#/$defs/none"})}, "does not exist"),
    ({"response_format": schema_format({"$ref": "#"})}, "no text satisfies it"),
    ({"response_format": schema_format({"type": "string", "pattern": "(a"})}, "cannot be used"),
    ({"response_format": schema_format({"not": {}})}, "Unimplemented keys"),
    ({"response_format": schema_format({"type": "string", "enum": [5]})}, "cannot be used"),
    ({"response_format": schema_format(nested(80))}, "recursion limit"),
    ({"response_format": schema_format(HARD)}, "needs more than 1 s"),
    ({"extra_body": {"guided_json": DEEP}}, "recursion limit"),
    ({"extra_body": {"guided_json": "{"}}, "EOF"),
    ({"extra_body": {"guided_json": "[]"}}, "must be an object"),
    ({"extra_body": {"guided_regex": "(a+"}}, "unclosed group"),
    ({"extra_body": {"guided_regex": "(" * 100_000}}, "cannot be used"),
    ({"extra_body": {"guided_regex": r"(a)\1"}}, "backreferences are not supported"),
    ({"extra_body": {"guided_regex": "((a{1000}){1000}){1000}"}}, "cannot be used"),
    ({"extra_body": {"guided_grammar": "start: " + "(" * 20_000}}, "nested"),
    ({"extra_body": {"guided_grammar": "begin: /a/"}}, "cannot be used"),
]


def test_what_does_not_compile_is_a_400_and_never_blocks_the_event_loop(path: Path) -> None:
    async def work(caller: openai.AsyncOpenAI) -> None:
        await answer(caller, extra_body={"guided_regex": "a"})  # the vocabulary is ready
        longest, running = 0.0, True

        async def watch() -> None:
            nonlocal longest
            while running:
                begin = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - begin)

        watcher = asyncio.create_task(watch())
        for asked, complaint in UNUSABLE:
            begin = time.process_time()
            with pytest.raises(openai.BadRequestError) as caught:
                await answer(caller, **asked)
            field = "response_format" if "response_format" in asked else next(iter(asked["extra_body"]))
            assert caught.value.param == field
            assert complaint in str(caught.value), (asked, str(caught.value))
            assert time.process_time() - begin < 1.0, "the work was done in this process"
        running = False
        await watcher
        assert longest < 0.9
        for asked in ({"guided_regex": "(a+)+b$"}, {"guided_json": {"properties": {"a": {"$ref": "#"}}}}):
            assert (await answer(caller, extra_body=asked, max_tokens=5)).finish_reason in ("length", "stop")

    run(path, work)


def test_demanded_calls_are_made_and_auto_calls_are_found(path: Path) -> None:
    named = {"type": "function", "function": {"name": "hear"}}

    def check(call: Any, names: set[str]) -> None:
        function = next(t["function"] for t in TOOLS if t["function"]["name"] == call.function.name)
        assert call.function.name in names
        jsonschema.validate(json.loads(call.function.arguments), function["parameters"])

    async def work(caller: openai.AsyncOpenAI) -> None:
        for choice, names in (("required", {"look", "hear"}), (named, {"hear"})):
            got = await answer(caller, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
            assert got.finish_reason == "tool_calls"
            assert got.message.content is None
            (call,) = got.message.tool_calls
            check(call, names)
        got = await answer(caller, tools=TOOLS, tool_choice="required", seed=2)
        assert len({call.id for call in got.message.tool_calls}) == len(got.message.tool_calls)
        spelled = '<tool_call>\n{"name": "look", "arguments": {"n": 7}}\n</tool_call>'
        got = await answer(caller, tools=TOOLS, extra_body={"guided_choice": [spelled]})
        assert got.message.tool_calls[0].function.arguments == '{"n": 7}'
        assert got.finish_reason == "tool_calls"
        thought = "<think>\nwhy\n</think>\n\nbecause"
        got = await answer(caller, extra_body={"guided_grammar": f"start: {json.dumps(thought)}"}, thinks=True)
        assert got.message.content == thought
        got = await answer(caller, extra_body={"guided_choice": [thought]})
        assert (got.message.reasoning_content, got.message.content) == ("why", "because")

    run(path, work)


def test_a_streamed_call_adds_up_to_the_whole_one(path: Path) -> None:
    async def work(caller: openai.AsyncOpenAI) -> None:
        asked: dict[str, Any] = {"model": "tiny", "messages": USER, "max_tokens": 400, "seed": 5, "tools": TOOLS}
        asked |= {"tool_choice": "required", "extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
        whole = (await caller.chat.completions.create(**asked)).choices[0]
        calls: list[list[str]] = []
        finish = None
        async for chunk in await caller.chat.completions.create(**asked, stream=True):
            finish = chunk.choices[0].finish_reason or finish
            for part in chunk.choices[0].delta.tool_calls or []:
                if part.id is not None:
                    calls.append([part.function.name, ""])
                calls[part.index][1] += part.function.arguments or ""
        assert finish == whole.finish_reason == "tool_calls"
        assert calls == [[c.function.name, c.function.arguments] for c in whole.message.tool_calls]

    run(path, work)


def test_many_distinct_schemas_leave_memory_where_it_is(path: Path) -> None:
    options = {"num_kv_blocks": 64, "max_model_len": 256}
    client = EngineClient.create(load_config(values={"model": {"name": str(path)}, "engine": options}))
    process, sizes = psutil.Process(), []
    try:
        for number in range(2400):
            schema = {"type": "object", "properties": {f"key_{number}": {"type": "string", "maxLength": number + 1}}}
            client.compile(SamplingParams(guided_json=json.dumps(schema)))
            if number % 400 == 399:
                sizes.append(process.memory_info().rss)
        assert len(client._model.guide().compiler._cache) == 128
    finally:
        client.close()
    assert sizes[-1] - sizes[1] < 40 << 20, sizes
