"""The `openai` package against a FakeClient: it understands our answers, our errors and our streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from fake_client import FakeClient, serving

from pagoda.config import Overloaded

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def openai_client(fake: FakeClient, **settings: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a fresh server."""
    async with (
        serving(fake, **settings) as (server, _),
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="key-1", max_retries=0) as client,
    ):
        yield client


async def read_texts(stream: Any, texts: list[str]) -> None:
    """Appends the text of every chunk."""
    async for chunk in stream:
        texts.append(chunk.choices[0].text)


def test_it_reads_whole_and_streamed_answers() -> None:
    async def run() -> None:
        async with openai_client(FakeClient(), api_keys=["key-1"]) as client:
            assert [model.id async for model in client.models.list()] == ["fake"]
            answer = await client.chat.completions.create(
                model="fake", messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=2
            )
            assert answer.choices[0].message.content == "user"
            logprobs = answer.choices[0].logprobs
            assert logprobs is not None
            assert logprobs.content is not None
            assert [bytes(entry.bytes or []) for entry in logprobs.content] == [b"u", b"s", b"e", b"r"]
            stream = await client.chat.completions.create(
                model="fake", messages=MESSAGES, max_tokens=4, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            assert chunks[0].choices[0].delta.role == "assistant"
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
            assert text == "user"
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 4

    asyncio.run(run())


def test_it_raises_its_own_error_types() -> None:
    async def run() -> None:
        fake = FakeClient()
        async with openai_client(fake, api_keys=["key-1"]) as client:
            with pytest.raises(openai.BadRequestError) as bad:
                await client.completions.create(model="fake", prompt="x", temperature=3)
            assert bad.value.param == "temperature"
            assert bad.value.request_id
            with pytest.raises(openai.NotFoundError) as absent:
                await client.completions.create(model="other", prompt="x")
            assert absent.value.code == "model_not_found"
            fake.refusal = Overloaded("the waiting queue is full")
            with pytest.raises(openai.RateLimitError):
                await client.completions.create(model="fake", prompt="x")
            fake.healthy = False
            with pytest.raises(openai.InternalServerError):
                await client.completions.create(model="fake", prompt="x")
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="wrong").completions.create(model="fake", prompt="x")

    asyncio.run(run())


def test_an_error_in_the_middle_of_a_stream_is_raised() -> None:
    async def run() -> None:
        fake = FakeClient()
        fake.fail_at = 2
        async with openai_client(fake) as client:
            stream = await client.completions.create(model="fake", prompt="abcd", stream=True)
            texts: list[str] = []
            with pytest.raises(openai.APIError, match="The engine ended this request"):
                await read_texts(stream, texts)
            assert texts == ["a", "b"]

    asyncio.run(run())


def test_closing_a_stream_aborts_its_request() -> None:
    async def run() -> None:
        fake = FakeClient()
        fake.delay_s = 0.02
        async with openai_client(fake) as client:
            stream = await client.completions.create(model="fake", prompt="ab", max_tokens=1000, stream=True)
            async for _ in stream:
                break
            assert fake.running == 1
            await stream.close()
            async with asyncio.timeout(5):
                while fake.running:
                    await asyncio.sleep(0.01)
            assert fake.aborted == 1

    asyncio.run(run())
