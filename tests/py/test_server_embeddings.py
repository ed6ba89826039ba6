"""POST /v1/embeddings against a FakeClient: shapes, both encodings, limits."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from fake_client import BOS, FakeClient, fake_api, serving

from pagoda.client import TokenEvent

PATH = "/v1/embeddings"


def ask(body: dict[str, Any], client: FakeClient | None = None, **settings: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of one request."""

    async def run() -> tuple[int, dict[str, Any]]:
        async with fake_api(client, **settings) as (session, _), session.post(PATH, json=body) as response:
            return response.status, await response.json()

    return asyncio.run(run())


def vectors(body: dict[str, Any]) -> list[Any]:
    """The embeddings of one request that succeeds."""
    status, answer = ask(body)
    assert status == 200, answer
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    return [entry["embedding"] for entry in answer["data"]]


@pytest.mark.parametrize("strict", [True, False])
def test_the_client_reads_embeddings(strict: bool) -> None:
    async def run() -> None:
        async with (
            serving(FakeClient()) as (server, _),
            openai.AsyncOpenAI(
                base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=strict
            ) as client,
        ):
            # Left to itself the client asks for base64, which its own types do not allow.
            form: dict[str, Any] = {"encoding_format": "float"} if strict else {}
            answer = await client.embeddings.create(
                model="fake", input=["ab", "c"], **form, extra_body={"normalize": False}
            )
            assert [entry.embedding for entry in answer.data] == [[98.0, 3.0, 0.0, 0.0], [99.0, 2.0, 0.0, 0.0]]
            assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("fake", 5, 5)

    asyncio.run(run())


def test_base64_holds_little_endian_floats() -> None:
    shown = vectors({"input": ["ab", "c"], "normalize": False, "encoding_format": "base64"})
    expected = [(98.0, 3.0, 0.0, 0.0), (99.0, 2.0, 0.0, 0.0)]
    assert [struct.unpack("<4f", base64.b64decode(text)) for text in shown] == expected


def test_pooling_normalisation_and_dimensions() -> None:
    raw = {"normalize": False}
    assert vectors({"input": [3, 4], **raw}) == [[4.0, 2.0, 0.0, 0.0]]
    assert vectors({"input": [[3, 4], [8]], "pooling": "mean", **raw}) == [[3.5, 2.0, 0.0, 0.0], [8.0, 1.0, 0.0, 0.0]]
    assert vectors({"input": [1, 1, 3, 4]}) == [pytest.approx([0.5**0.5, 0.5**0.5, 0, 0])]
    assert vectors({"input": [1, 1, 3, 4], "dimensions": 1}) == [[1.0]]
    assert vectors({"input": "x", "add_special_tokens": False, **raw}) == [[120.0, 1.0, 0.0, 0.0]]
    assert vectors({"input": "xy", "truncate_prompt_tokens": 1, **raw}) == [[121.0, 1.0, 0.0, 0.0]]


def test_fields_reach_the_engine() -> None:
    client = FakeClient()
    body = {
        "input": "ab",
        "priority": 3,
        "cache_salt": "s",
        "user": "ann",
        "temperature": 7,
        "encoding_format": "float",
    }
    assert ask(body, client)[0] == 200
    ids, params = client.requests[0]
    assert ids == [BOS, 97, 98]
    assert (params.priority, params.cache_salt, client.tenants) == (3, "s", ["ann"])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": 5}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [999]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": [7] * 65}, "input"),
        ({"input": "x" * 10_000_000}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "encoding_format": ["float"]}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 5}, "dimensions"),
        ({"input": "a", "dimensions": 2, "normalize": False}, "normalize"),
        ({"input": "a", "pooling": "max"}, "pooling"),
        ({"input": "a", "priority": "high"}, "priority"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ],
)
def test_bad_fields_get_a_400_that_names_them(body: dict[str, Any], param: str) -> None:
    status, answer = ask(body, FakeClient(max_model_len=64))
    assert status == 400
    assert answer["error"]["param"].partition("[")[0] == param, answer
    assert answer["error"]["message"].startswith(param) or answer["error"]["code"] == "context_length_exceeded"


def test_a_text_that_fills_the_context_fits() -> None:
    assert ask({"input": [7] * 64}, FakeClient(max_model_len=64))[0] == 200


@pytest.mark.parametrize("form", ["float", "base64"])
def test_many_inputs_come_to_the_engine_in_groups_and_keep_their_order(form: str) -> None:
    class Counting(FakeClient):
        most = 0

        async def generate(self, *args: Any, **options: Any) -> AsyncIterator[TokenEvent]:
            async for event in super().generate(*args, **options):
                self.most = max(self.most, self.running)
                yield event

    client = Counting()
    client.delay_s = 0.01
    inputs = [[number % 250 + 1] for number in range(300)]
    status, answer = ask({"input": inputs, "normalize": False, "encoding_format": form}, client, max_choices=100)
    assert status == 200
    assert [entry["index"] for entry in answer["data"]] == list(range(300))
    vectors = [entry["embedding"] for entry in answer["data"]]
    if form == "base64":
        vectors = [list(struct.unpack("<4f", base64.b64decode(text))) for text in vectors]
    assert [vector[0] for vector in vectors] == [number % 250 + 1 for number in range(300)]
    assert answer["usage"] == {"prompt_tokens": 300, "total_tokens": 300}
    assert 1 < client.most <= 100


def test_all_groups_together_have_the_requests_time() -> None:
    client = FakeClient()
    client.delay_s = 0.3
    status, answer = ask({"input": [[1], [2], [3]], "timeout_s": 0.5}, client, max_choices=1)
    assert (status, answer["error"]["code"]) == (504, "timeout")
    assert answer["error"]["message"] == "The request did not finish within 0.5 seconds."
    assert client.running == 0
    assert client.finished == 1


def test_unknown_fields_are_refused_when_strict_and_other_models_are_not_found() -> None:
    assert ask({"input": "a", "temperature": 1}, strict=True)[1]["error"]["param"] == "temperature"
    status, answer = ask({"input": "a", "model": "other"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_an_aborted_request_has_no_answer() -> None:
    async def run() -> None:
        client = FakeClient()
        client.delay_s = 5
        async with fake_api(client) as (session, _):
            asked = asyncio.create_task(session.post(PATH, json={"input": "a"}, headers={"x-request-id": "job"}))
            async with asyncio.timeout(5):
                while not client.running:
                    await asyncio.sleep(0.01)
            async with session.post("/v1/requests/job/abort") as answer:
                assert answer.status == 200
            async with await asked as response:
                assert response.status == 503
                assert (await response.json())["error"]["code"] == "aborted"

    asyncio.run(run())
