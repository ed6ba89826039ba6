"""The packages `openai`, `anthropic` and `langchain-openai` drive a real engine with a tiny model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from pagoda.client import EngineClient
from pagoda.config import load_config
from pagoda.server.runner import Server
from pagoda.server.settings import ServerSettings

MESSAGES: list[Any] = [{"role": "user", "content": "Count to three."}]


@pytest.fixture(scope="module")
def url(talking: Path) -> Iterator[str]:
    """A server whose steps have room for 32 tokens."""
    engine = {"num_kv_blocks": 256, "max_num_batched_tokens": 32, "num_threads": 1, "prefix_cache": False}
    client = EngineClient.create(load_config(values={"model": {"name": str(talking)}, "engine": engine}))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = Server(client, ServerSettings(port=0, access_log=False, served_model_names=["tiny-alias"]), None)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(30)
    yield server.url
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    client.close()


@pytest.fixture(scope="module")
def openai_client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)


@pytest.fixture(scope="module")
def answer(openai_client: openai.OpenAI) -> Any:
    """What the model says to MESSAGES."""
    return openai_client.chat.completions.create(model="tiny-alias", messages=MESSAGES, max_tokens=12, temperature=0)


@pytest.fixture(scope="module")
def reference(answer: Any) -> str:
    """Its text."""
    text = answer.choices[0].message.content
    assert text
    return str(text)


def test_chat_and_completions_hold_to_openais_types(openai_client: openai.OpenAI, answer: Any, reference: str) -> None:
    create = openai_client.chat.completions.create
    two = create(
        model="tiny-alias",
        messages=[{"role": "developer", "content": "Be brief."}, *MESSAGES],
        max_completion_tokens=12,
        temperature=0,
        n=2,
        logprobs=True,
        top_logprobs=3,
        logit_bias={"5": -100},
        stop=["zzzz"],
        seed=1,
        user="me",
    )
    assert two.system_fingerprint == answer.system_fingerprint
    assert [choice.index for choice in two.choices] == [0, 1]
    assert {choice.finish_reason for choice in two.choices} <= {"stop", "length"}
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = create(
        model="tiny-alias", messages=MESSAGES, max_tokens=12, temperature=0, stream=True, stream_options=options
    )
    chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == reference
    assert chunks[-1].usage == answer.usage
    completion = openai_client.completions.create(
        model="tiny-alias", prompt=["One two", "Three"], max_tokens=3, echo=True, temperature=0, best_of=1
    )
    assert [
        choice.text[: len(text)] for choice, text in zip(completion.choices, ("One two", "Three"), strict=True)
    ] == [
        "One two",
        "Three",
    ]
    scored = openai_client.completions.create(
        model="tiny-alias", prompt="One two", max_tokens=3, logprobs=2, temperature=0
    )
    assert scored.choices[0].logprobs is not None
    assert len(scored.choices[0].logprobs.tokens or []) == scored.usage.completion_tokens  # type: ignore[union-attr]


def test_a_response_says_what_the_chat_says(openai_client: openai.OpenAI, reference: str) -> None:
    asked: dict[str, Any] = {
        "model": "tiny-alias",
        "input": MESSAGES,
        "max_output_tokens": 12,
        "temperature": 0,
        "store": False,
    }
    assert openai_client.responses.create(**asked).output_text == reference
    with openai_client.responses.stream(**asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == reference


def test_a_message_says_what_the_chat_says(url: str, reference: str) -> None:
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True) as client:
        asked: dict[str, Any] = {
            "model": "tiny-alias",
            "max_tokens": 12,
            "messages": MESSAGES,
            "extra_body": {"temperature": 0},
        }
        whole = client.messages.create(**asked)
        assert [block.text for block in whole.content if block.type == "text"] == [reference]
        with client.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == reference
        counted = client.messages.count_tokens(model="tiny-alias", messages=MESSAGES)
        assert counted.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)


def test_langchains_chat_model_answers_and_streams(url: str, answer: Any, reference: str) -> None:
    model = ChatOpenAI(
        base_url=f"{url}/v1", api_key=SecretStr("none"), model="tiny-alias", temperature=0, max_completion_tokens=12
    )
    message = model.invoke([("human", "Count to three.")])
    assert message.content == reference
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == answer.usage.completion_tokens
    assert "".join(str(chunk.content) for chunk in model.stream([("human", "Count to three.")])) == reference
    batch = model.batch(["One", "Two"])
    assert len(batch) == 2


def test_langchains_chat_model_gets_tool_calls_and_structured_output(url: str) -> None:
    model = ChatOpenAI(
        base_url=f"{url}/v1", api_key=SecretStr("none"), model="tiny-alias", temperature=0, max_completion_tokens=60
    )
    schema = {
        "title": "pick",
        "description": "Picks a colour.",
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    message = model.bind_tools([schema], tool_choice="pick").invoke("Which?")
    (call,) = message.tool_calls
    assert call["name"] == "pick"
    assert call["args"]["colour"] in ("red", "blue")
    chunks = list(model.bind_tools([schema], tool_choice="pick").stream("Which?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [(one["name"], one["args"]) for one in whole.tool_calls] == [(call["name"], call["args"])]
    structured = model.with_structured_output(schema, method="json_schema", strict=True).invoke("Which?")
    assert structured["colour"] in ("red", "blue")


def test_embeddings_have_length_one_and_texts_are_their_tokens(url: str, openai_client: openai.OpenAI) -> None:
    ids = httpx.post(f"{url}/tokenize", json={"prompt": "Count to three."}, timeout=60).json()["tokens"]
    for pooling in ("last", "mean"):
        answer = openai_client.embeddings.create(
            model="tiny-alias",
            input="Count to three.",
            encoding_format="float",
            extra_body={"pooling": pooling},
        )
        vector = answer.data[0].embedding
        assert sum(value * value for value in vector) == pytest.approx(1)
        body = {"input": [ids, ids[:2]], "pooling": pooling}
        both = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).json()["data"]
        assert both[0]["embedding"] == vector != both[1]["embedding"]
        assert len(both[1]["embedding"]) == len(vector)


def test_a_bias_against_every_token_ends_in_an_answer_or_a_refusal(url: str) -> None:
    vocabulary = httpx.post(f"{url}/v1/completions", json={"prompt": [10**9]}, timeout=60).json()["error"]["message"]
    count = int(vocabulary.partition("[0, ")[2].partition("]")[0]) + 1
    body = {"prompt": "a", "max_tokens": 2, "logit_bias": {str(token): -100 for token in range(min(count, 1024))}}
    for temperature in (0, 1):
        response = httpx.post(f"{url}/v1/completions", json=body | {"temperature": temperature}, timeout=60)
        assert response.status_code in (200, 400)
        assert "NaN" not in response.text


def test_comments_tell_how_far_a_long_prompt_is(url: str) -> None:
    body = {"prompt": [7] * 100, "max_tokens": 1, "stream": True}
    text = httpx.post(f"{url}/v1/completions", json=body, timeout=60).text
    comments = [frame for frame in text.split("\n\n") if frame.startswith(":")]
    assert comments == [": prefill 32/100", ": prefill 64/100", ": prefill 96/100"]
    assert '"finish_reason":"length"' in text


def test_a_generation_that_ends_inside_a_character_says_so_once_and_gives_its_bytes(url: str) -> None:
    tokens = httpx.post(f"{url}/tokenize", json={"prompt": "\U0001f44d", "add_special_tokens": False}, timeout=60)
    first = tokens.json()["tokens"][0]
    body = {"messages": MESSAGES, "max_tokens": 1, "allowed_token_ids": [first], "logprobs": True}
    choice = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]
    assert choice["message"]["content"] == "\ufffd"
    (entry,) = choice["logprobs"]["content"]
    assert 0 < len(entry["bytes"]) < 4
    assert bytes(entry["bytes"]) == "\U0001f44d".encode()[: len(entry["bytes"])]
    text = httpx.post(f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=60).text
    assert text.count("\ufffd") == 1 + text.count('"token":"\ufffd"')
