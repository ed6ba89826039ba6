"""`enginectl complete` over an engine that is a list of events: streaming, JSON, several choices, errors, stdin."""

from __future__ import annotations

import io
import json
import math
import sys
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest

import enginectl.session
from enginectl.__main__ import main
from pagoda.client import Logprob, TokenEvent
from pagoda.config import Config, SamplingParams


class Words:
    """A tokenizer in which every character is a token."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


class ScriptedClient:
    """Answers every request with the words `one two three`, one event a word and choice."""

    model_name = "scripted"
    max_model_len = 64
    chat_template = None

    def __init__(self, config: Config) -> None:
        self.tokenizer = None if config.model.skip_tokenizer else Words()
        self.default_params: dict[str, Any] = {"temperature": 0.5, "top_k": 7}
        self.requests: list[tuple[list[int], SamplingParams]] = []
        self.closed = False
        self.failing = False

    async def generate(self, prompt: list[int], params: SamplingParams) -> AsyncIterator[TokenEvent]:
        self.requests.append((prompt, params))
        words = ["one", " two", " three"]
        for position, word in enumerate(words):
            last = position == len(words) - 1
            for index in range(params.n):
                logprobs = [{position: Logprob(-math.inf, 1, word)}] if params.logprobs is not None else None
                reason = ("error" if self.failing else "stop") if last else None
                yield TokenEvent(
                    index=index,
                    text=word if self.tokenizer else "",
                    token_ids=[position],
                    logprobs=logprobs,
                    finish_reason=reason,
                    stop_reason=None,
                    seed=11 + index,
                    error="logits are not finite" if reason == "error" else None,
                    prompt_logprobs=None,
                    num_cached_tokens=2,
                )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedClient]:
    """The clients that commands open from now on, in order."""
    made: list[ScriptedClient] = []

    def create(config: Config) -> ScriptedClient:
        made.append(ScriptedClient(config))
        return made[-1]

    monkeypatch.setattr(enginectl.session, "resolve", lambda name: None)
    monkeypatch.setattr(enginectl.session, "EngineClient", types.SimpleNamespace(create=create))
    return made


def test_the_text_and_nothing_else_goes_to_stdout(
    clients: list[ScriptedClient], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", "hi"]) == 0
    assert capsys.readouterr() == ("one two three\n", "")
    assert clients[0].requests[0][0] == [104, 105]
    assert clients[0].closed


def test_flags_win_over_the_models_own_defaults(clients: list[ScriptedClient]) -> None:
    assert main(["complete", "some/model", "--top-k", "3", "--seed", "5", "hi"]) == 0
    params = clients[0].requests[0][1]
    assert (params.top_k, params.temperature, params.seed) == (3, 0.5, 5)


def test_json_is_one_object_with_the_whole_result(
    clients: list[ScriptedClient], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", "--json", "--n", "2", "--logprobs", "0", "hi"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    result = json.loads(out)
    assert result["model"] == "scripted"
    assert result["prompt_token_ids"] == [104, 105]
    assert [choice["text"] for choice in result["choices"]] == ["one two three"] * 2
    assert [choice["seed"] for choice in result["choices"]] == [11, 12]
    assert result["choices"][0]["token_ids"] == [0, 1, 2]
    assert result["choices"][0]["finish_reason"] == "stop"
    assert result["choices"][0]["logprobs"][2]["2"] == {"logprob": -9999.0, "rank": 1, "decoded_token": " three"}
    assert result["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "cached_tokens": 2}


def test_several_choices_are_printed_one_after_another(
    clients: list[ScriptedClient], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", "--n", "2", "hi"]) == 0
    assert capsys.readouterr().out == "[0] one two three\n[1] one two three\n"


def test_a_dash_reads_the_prompt_from_stdin(clients: list[ScriptedClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\n\n".encode())))
    assert main(["complete", "-"]) == 0
    assert clients[0].requests[0][0] == [ord("é"), ord("\n")]


def test_stdin_that_is_not_text_is_refused(
    clients: list[ScriptedClient], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    assert main(["complete", "-"]) == 2
    assert "stdin must be UTF-8 text, got byte 0xff at 2" in capsys.readouterr().err
    assert clients == []


def test_without_a_tokenizer_prompt_and_output_are_token_ids(
    clients: list[ScriptedClient], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["complete", "--skip-tokenizer", "5, 6 7"]) == 0
    assert capsys.readouterr().out.split() == ["0", "1", "2"]
    assert clients[0].requests[0][0] == [5, 6, 7]
    assert main(["complete", "--skip-tokenizer", "hello"]) == 2
    assert "the prompt must be token ids, got 'hello'" in capsys.readouterr().err
    assert clients[1].closed


def test_a_failed_generation_exits_1(
    clients: list[ScriptedClient], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def create(config: Config) -> ScriptedClient:
        client = ScriptedClient(config)
        client.failing = True
        return client

    monkeypatch.setattr(enginectl.session, "EngineClient", types.SimpleNamespace(create=create))
    assert main(["complete", "hi"]) == 1
    assert "error: generation failed: logits are not finite" in capsys.readouterr().err
