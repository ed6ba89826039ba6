"""`enginectl run-batch`: OpenAI's batch format, resuming, what is refused before anything runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_client import FakeClient

from enginectl import run_batch
from enginectl.__main__ import main
from pagoda.config import Overloaded

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def line(custom_id: str, url: str = COMPLETIONS, **body: Any) -> str:
    """One request."""
    base = {"prompt": "ab"} if url == COMPLETIONS else {"messages": [{"role": "user", "content": "hi"}]}
    entry = {"custom_id": custom_id, "method": "POST", "url": url, "body": {"max_tokens": 3} | base | body}
    return json.dumps(entry) + "\n"


def answers(path: Path) -> dict[str, Any]:
    """The output's entries by custom_id, each of which must be there once."""
    entries = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    result = {entry["custom_id"]: entry for entry in entries}
    assert len(result) == len(entries)
    return result


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """The client that the command opens instead of an engine."""
    fake = FakeClient()

    @contextlib.contextmanager
    def opened(_config: Any) -> Iterator[FakeClient]:
        yield fake

    monkeypatch.setattr(run_batch, "open_client", opened)
    return fake


def test_each_request_has_its_answer_in_openais_format(client: FakeClient, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("c1") + "\n" + line("c2", CHAT, max_tokens=2) + line("bad", temperature=9))
    assert main(["run-batch", str(source), str(target)]) == 1
    found = answers(target)
    assert found.keys() == {"c1", "c2", "bad"}
    for entry in found.values():
        assert set(entry) == {"id", "custom_id", "response", "error"}
        assert entry["error"] is None
        assert entry["response"]["request_id"]
    assert found["c1"]["response"]["status_code"] == 200
    assert found["c1"]["response"]["body"]["choices"][0]["text"] == "aba"
    assert found["c2"]["response"]["body"]["object"] == "chat.completion"
    assert found["bad"]["response"]["status_code"] == 400
    assert found["bad"]["response"]["body"]["error"]["param"] == "temperature"


def test_a_second_run_does_only_what_is_missing(
    client: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(line(f"r{i}") for i in range(10)))
    assert main(["run-batch", str(source), str(target), "--concurrency", "3"]) == 0
    complete = target.read_text().splitlines(keepends=True)
    failed = complete[2].replace('"status_code": 200', '"status_code": 503')
    target.write_text("".join([*complete[:2], failed, *complete[3:6]]) + complete[6][:20])
    client.requests.clear()
    assert main(["run-batch", str(source), str(target)]) == 0
    assert len(client.requests) == 5
    assert answers(target).keys() == {f"r{i}" for i in range(10)}
    assert "10 answers" in capsys.readouterr().err
    client.requests.clear()
    assert main(["run-batch", str(source), str(target)]) == 0
    assert not client.requests


def test_no_more_requests_run_at_once_than_asked_for(client: FakeClient, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(line(f"r{i}") for i in range(12)))
    most = 0
    event_of = client._event

    def counting(*args: Any) -> Any:
        nonlocal most
        most = max(most, client.running)
        return event_of(*args)

    client.delay_s = 0.01
    client._event = counting  # type: ignore[method-assign]
    assert main(["run-batch", str(source), str(tmp_path / "out"), "--concurrency", "4"]) == 0
    assert most == 4


def test_a_full_queue_is_waited_for(client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    client.refusal = Overloaded("the waiting queue is full")
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        client.refusal = None

    monkeypatch.setattr(run_batch.asyncio, "sleep", sleep)
    assert main(["run-batch", str(source), str(target)]) == 0
    assert waits[0] >= 1
    assert answers(target)["a"]["response"]["status_code"] == 200


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "holds no request"),
        ("{\n", "in.jsonl:1: is not JSON"),
        ("[1]\n", "must be a JSON object"),
        (line("a") + line("b") + line("a"), "in.jsonl:3: custom_id 'a' is also that of line 1"),
        (line("a").replace("POST", "GET"), 'method must be POST, got "GET"'),
        (line("a").replace("/v1/completions", "/v1/files"), 'got "/v1/files"'),
        (line(""), "custom_id must be a string"),
        (line("a", stream=True), "body.stream must be false"),
        ('{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": 3}\n', "body must be a JSON object"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_faulty_input_is_refused_before_a_model_is_loaded(
    text: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(text)
    assert main(["run-batch", "/no/such/model", str(source), str(target)]) == 2
    assert fault in capsys.readouterr().err
    assert not target.exists()


def test_a_file_that_is_no_output_is_left_alone(
    client: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    target.write_text("my diary\n")
    assert main(["run-batch", str(source), str(target)]) == 2
    assert "out.jsonl:1: is no answer of a batch" in capsys.readouterr().err
    assert target.read_text() == "my diary\n"
