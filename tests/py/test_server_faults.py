"""What happens to an answer when something goes wrong inside it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fake_client import FakeClient, fake_api

USER = [{"role": "user", "content": "hi"}]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def ask(path: str, body: dict[str, Any], client: FakeClient) -> tuple[int, str]:
    """Status and text of one request."""

    async def run() -> tuple[int, str]:
        async with fake_api(client) as (session, _), session.post(path, json=body) as response:
            return response.status, await response.text()

    return asyncio.run(run())


def test_impossible_alternatives_are_minus_9999_and_the_json_is_valid() -> None:
    client = FakeClient()
    client.impossible = True
    body = {"messages": USER, "max_tokens": 1, "logprobs": True, "top_logprobs": 2, "prompt_logprobs": 2}
    status, text = ask(CHAT, body, client)
    assert status == 200
    answer = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] == -9999.0
    status, text = ask(COMPLETIONS, {"prompt": "ab", "max_tokens": 1, "logprobs": 2, "echo": True}, client)
    answer = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert sorted(answer["choices"][0]["logprobs"]["top_logprobs"][1].values()) == [-9999.0, -0.5]


@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, {"prompt": "abcd"}), (CHAT, {"messages": USER})])
def test_an_error_in_the_middle_of_a_stream_is_an_event_before_done(path: str, body: dict[str, Any]) -> None:
    client = FakeClient()
    client.fail_at = 2
    status, text = ask(path, body | {"max_tokens": 4, "stream": True}, client)
    assert status == 200
    *before, error, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    told = json.loads(error.removeprefix("data: "))
    assert set(told) == {"error"}
    assert (told["error"]["type"], told["error"]["code"]) == ("server_error", "generation_failed")
    assert "0x" not in error
    assert "/home" not in error
    reasons = [choice["finish_reason"] for frame in before for choice in json.loads(frame[6:])["choices"]]
    assert reasons == [None] * len(reasons)


def test_an_error_before_the_end_of_a_whole_answer_is_a_500() -> None:
    client = FakeClient()
    client.fail_at = 2
    status, text = ask(CHAT, {"messages": USER, "max_tokens": 4}, client)
    assert status == 500
    assert json.loads(text)["error"]["code"] == "generation_failed"


@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, {"prompt": "abcd"}), (CHAT, {"messages": USER})])
@pytest.mark.parametrize("stream", [False, True])
def test_a_failed_choice_ends_with_error_and_the_others_as_they_do(
    path: str, body: dict[str, Any], stream: bool
) -> None:
    client = FakeClient()
    client.fail_at, client.failing_choice = 1, 1
    status, text = ask(path, body | {"max_tokens": 4, "n": 3, "stream": stream}, client)
    assert status == 200
    if stream:
        frames = [json.loads(frame[6:]) for frame in text.split("\n\n")[:-2]]
        choices = [choice for frame in frames for choice in frame["choices"] if choice["finish_reason"]]
    else:
        choices = json.loads(text)["choices"]
    assert {choice["index"]: choice["finish_reason"] for choice in choices} == {0: "length", 1: "error", 2: "length"}
    assert "/home" not in text
