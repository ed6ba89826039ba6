"""POST /v1/completions: every prompt form, echo, logprobs, choices, usage, and its stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from fake_client import BOS, FakeClient, fake_api

PATH = "/v1/completions"


def complete(client: FakeClient | None = None, **body: Any) -> dict[str, Any]:
    """The answer to one request."""

    async def run() -> dict[str, Any]:
        async with fake_api(client) as (session, _), session.post(PATH, json=body) as response:
            assert response.status == 200, await response.text()
            result: dict[str, Any] = await response.json()
            return result

    return asyncio.run(run())


async def read_events(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """The chunks of a stream; checks its framing and that [DONE] is its last word."""
    text = (await response.read()).decode()
    assert text.endswith("data: [DONE]\n\n")
    frames = [frame for frame in text.removesuffix("data: [DONE]\n\n").split("\n\n") if frame]
    assert all(frame.startswith(("data: {", ":")) and "\n" not in frame for frame in frames)
    return [json.loads(frame[6:]) for frame in frames if not frame.startswith(":")]


def stream(client: FakeClient | None = None, **body: Any) -> list[dict[str, Any]]:
    """The chunks of one streamed answer."""

    async def run() -> list[dict[str, Any]]:
        async with fake_api(client) as (session, _), session.post(PATH, json=body | {"stream": True}) as response:
            assert response.status == 200, await response.text()
            assert response.headers["Content-Type"].startswith("text/event-stream")
            return await read_events(response)

    return asyncio.run(run())


def joined(chunks: list[dict[str, Any]], index: int, field: str = "text") -> Any:
    """One choice's texts (or logprob lists) of a stream, put together."""
    pieces = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    if field == "text":
        return "".join(piece["text"] for piece in pieces)
    return [item for piece in pieces if piece["logprobs"] for item in piece["logprobs"][field]]


def test_a_completion_has_all_of_openais_fields() -> None:
    answer = complete(prompt="abc", max_tokens=5, seed=7)
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["model"] == "fake"
    assert answer["system_fingerprint"].startswith("fp_")
    assert answer["choices"] == [
        {"index": 0, "text": "abcab", "logprobs": None, "finish_reason": "length", "stop_reason": None, "seed": 7}
    ]
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 5,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_sixteen_tokens_are_the_default() -> None:
    assert complete(prompt="a")["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [("ab", ["aba"]), (["ab", "cd"], ["aba", "cdc"]), ([120, 121], ["xyx"]), ([[97], [98, 99]], ["aaa", "bcb"])],
)
def test_every_prompt_form_is_served_in_order(prompt: Any, texts: list[str]) -> None:
    answer = complete(prompt=prompt, max_tokens=3)
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))


def test_choices_are_numbered_across_prompts_and_report_their_seeds() -> None:
    answer = complete(prompt=["ab", "cd"], n=3, max_tokens=1, seed=50)
    assert [choice["text"] for choice in answer["choices"]] == ["a", "a", "a", "c", "c", "c"]
    assert [choice["seed"] for choice in answer["choices"]] == [50, 51, 52] * 2
    assert answer["usage"]["prompt_tokens"] == 6
    assert answer["usage"]["completion_tokens"] == 6


def test_a_stop_string_ends_a_choice_and_is_reported() -> None:
    choice = complete(prompt="abcd", stop="bc", max_tokens=50)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == "bc"
    assert choice["text"] == "ab"


def test_control_tokens_in_a_prompt_are_text_unless_parse_special() -> None:
    async def run() -> None:
        async with fake_api() as (session, client):
            for flags in ({}, {"parse_special": True}, {"add_special_tokens": False}):
                async with session.post(PATH, json={"prompt": "a</s>", "max_tokens": 1, **flags}) as response:
                    assert response.status == 200
            plain = list(b"a</s>")
            assert [ids for ids, _ in client.requests] == [[BOS, *plain], [BOS, 97, 257], plain]

    asyncio.run(run())


def test_logprobs_are_four_parallel_lists() -> None:
    choice = complete(prompt="ab", max_tokens=3, logprobs=2)["choices"][0]
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "a"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"a": -0.5, "b": -2.0}, {"b": -0.5, "c": -2.0}, {"a": -0.5, "b": -2.0}],
        "text_offset": [0, 1, 2],
    }


def test_impossible_tokens_have_a_finite_logprob() -> None:
    client = FakeClient()
    client.impossible = True
    choice = complete(client, prompt="a", max_tokens=1, logprobs=3)["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [{"a": -0.5, "b": -9999.0, "c": -9999.0}]


def test_echo_puts_the_prompt_before_the_text() -> None:
    assert complete(prompt="héy", echo=True, max_tokens=1)["choices"][0]["text"] == "héyh"
    assert complete(prompt=[104, 105], echo=True, max_tokens=1)["choices"][0]["text"] == "hih"


def test_echo_with_logprobs_covers_prompt_and_text() -> None:
    logprobs = complete(prompt="ab", echo=True, max_tokens=2, logprobs=1)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["<s>", "a", "b", "a", "b"]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.5, -0.5, -0.5]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["text_offset"] == [0, 3, 4, 5, 6]


def test_echo_without_new_tokens_scores_the_prompt() -> None:
    answer = complete(prompt="ab", echo=True, max_tokens=0, logprobs=1)
    choice = answer["choices"][0]
    assert choice["text"] == "ab"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == ["<s>", "a", "b"]
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["usage"]["total_tokens"] == 3


def test_prompt_logprobs_are_reported_by_token_id() -> None:
    choice = complete(prompt="ab", max_tokens=1, prompt_logprobs=1)["choices"][0]
    assert choice["prompt_logprobs"] == [
        None,
        {"97": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}},
        {"98": {"logprob": -0.5, "rank": 1, "decoded_token": "b"}},
    ]
    assert "prompt_logprobs" not in complete(prompt="ab", max_tokens=1, echo=True, logprobs=1)["choices"][0]


def test_token_ids_are_returned_when_asked_for() -> None:
    choice = complete(prompt="ab", max_tokens=3, return_token_ids=True)["choices"][0]
    assert choice["token_ids"] == [97, 98, 97]
    assert choice["prompt_token_ids"] == [BOS, 97, 98]
    chunks = stream(prompt="ab", max_tokens=3, return_token_ids=True)
    assert [token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])] == [97, 98, 97]


def test_cached_prompt_tokens_are_reported() -> None:
    answer = complete(prompt=[7] * 40, max_tokens=1)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}


@pytest.mark.parametrize(
    "extra", [{}, {"echo": True}, {"logprobs": 2}, {"echo": True, "logprobs": 1}, {"stop": ["ba"]}]
)
def test_a_stream_puts_together_to_the_whole_answer(extra: dict[str, Any]) -> None:
    body = {"prompt": ["abc", "xy"], "n": 2, "max_tokens": 6, "seed": 3, **extra}
    whole = complete(**body)
    chunks = stream(**body, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice in whole["choices"]:
        index = choice["index"]
        assert joined(chunks, index) == choice["text"]
        endings = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index and c["finish_reason"]]
        assert [(end["finish_reason"], end["seed"]) for end in endings] == [(choice["finish_reason"], choice["seed"])]
        if choice["logprobs"] is not None:
            for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                assert joined(chunks, index, field) == choice["logprobs"][field]


def test_an_echo_only_stream_repeats_the_prompt_alone() -> None:
    chunks = stream(prompt="ab", echo=True, max_tokens=0, logprobs=1)
    assert joined(chunks, 0) == "ab"
    assert joined(chunks, 0, "tokens") == ["<s>", "a", "b"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_stream_without_usage_has_no_usage_field() -> None:
    chunks = stream(prompt="ab", max_tokens=2)
    assert all("usage" not in chunk for chunk in chunks)
    assert len(chunks) == 2


def test_line_ends_inside_a_text_do_not_break_the_framing() -> None:
    text = "a\r\nb\u2028c\u0085d"
    answer = complete(prompt=text, echo=True, max_tokens=0)
    assert answer["choices"][0]["text"] == text

    async def run() -> bytes:
        async with fake_api() as (session, _):
            body = {"prompt": text, "echo": True, "max_tokens": 1, "stream": True}
            async with session.post(PATH, json=body) as response:
                return await response.read()

    raw = asyncio.run(run()).decode()
    first = raw.split("\n\n")[0]
    assert len(first.splitlines()) == 1
    assert json.loads(first[6:])["choices"][0]["text"] == text


def test_tokenize_and_detokenize_are_inverse() -> None:
    async def run() -> None:
        async with fake_api() as (session, _):
            async with session.post("/tokenize", json={"prompt": "hé", "add_special_tokens": False}) as response:
                answer = await response.json()
            assert answer == {"tokens": [104, 195, 169], "count": 3, "max_model_len": 4096}
            async with session.post("/detokenize", json={"tokens": answer["tokens"]}) as response:
                assert await response.json() == {"prompt": "hé"}
            async with session.post("/tokenize", json={"messages": [{"role": "user", "content": "x"}]}) as response:
                tokens = (await response.json())["tokens"]
            assert bytes(token for token in tokens if token < 256) == b"user:xassistant:"
            goes_on = {
                "messages": [{"role": "assistant", "content": "x"}],
                "continue_final_message": True,
                "messages_": 1,
            }
            async with session.post("/tokenize", json=goes_on) as response:
                tokens = (await response.json())["tokens"]
                assert response.headers["x-pagoda-ignored"] == "messages_"
            assert bytes(token for token in tokens if token < 256) == b"assistant:x"
            async with session.post("/detokenize", json={"tokens": [104], "model": "another"}) as response:
                assert response.status == 404
            for path, body, param in (
                ("/tokenize", {"prompt": 5}, "prompt"),
                ("/tokenize", {"messages": "x"}, "messages"),
                ("/detokenize", {"tokens": [258]}, "tokens[0]"),
                ("/detokenize", {"tokens": "x"}, "tokens"),
            ):
                async with session.post(path, json=body) as response:
                    assert response.status == 400
                    named = (await response.json())["error"]["param"]
                    assert named == ("tokens" if param == "tokens[0]" else param)

    asyncio.run(run())
