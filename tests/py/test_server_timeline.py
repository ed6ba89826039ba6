"""Timelines of requests, the trace for Perfetto, and the command that writes it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from fake_client import FakeClient, fake_api, serving

from enginectl.__main__ import main
from pagoda.chrome_trace import chrome_trace


def test_a_timeline_tells_each_choices_events_with_times() -> None:
    async def run() -> Any:
        async with fake_api() as (session, _):
            async with session.get("/v1/requests/cmpl-9/timeline") as response:
                assert response.status == 404
                assert (await response.json())["error"]["code"] == "request_not_found"
            async with session.get("/v1/requests/cmpl-1/timeline") as response:
                assert response.status == 200
                return await response.json()

    body = asyncio.run(run())
    assert (body["id"], body["object"]) == ("cmpl-1", "request.timeline")
    first, second = body["choices"]
    assert (first["prompt"], first["index"], second["index"]) == (0, 0, 1)
    assert [(event["event"], event["offset_s"]) for event in first["events"]] == [
        ("queued", 0),
        ("admitted", 2.5),
        ("first_token", 3),
        ("finished", 5),
    ]
    assert first["events"][-1]["reason"] == "length"


def spans(trace: dict[str, Any], process: int) -> list[tuple[str, float, float]]:
    """Name, begin and duration in seconds of a process's spans."""
    return [
        (event["name"], event["ts"] / 1e6, event["dur"] / 1e6)
        for event in trace["traceEvents"]
        if event["ph"] == "X" and event["pid"] == process
    ]


def test_a_trace_has_spans_for_steps_and_for_the_phases_of_requests() -> None:
    client = FakeClient()
    trace = chrome_trace(client.timelines(), client.steps())
    assert spans(trace, 1) == [("step", 1002.5, 0.5)]
    assert spans(trace, 2) == [
        ("queued", 1000, 2.5),
        ("prefill", 1002.5, 0.5),
        ("decode", 1003, 2),
        ("queued", 1000, 2.5),
        ("prefill", 1002.5, 0),
    ]
    counters = {event["name"]: event["args"] for event in trace["traceEvents"] if event["ph"] == "C"}
    assert counters == {"sequences": {"sequences": 2}, "tokens": {"tokens": 7}}
    assert [event["args"] for event in trace["traceEvents"] if event["ph"] == "i"] == [{"begin": 0, "end": 3}]
    json.dumps(trace, allow_nan=False)


@pytest.mark.parametrize(
    ("kinds", "phases"),
    [
        (["preempted", "resumed", "finished"], ["decode", "preempted", "decode"]),
        (
            ["preempted", "swapped_out", "swapped_in", "resumed", "finished"],
            ["decode", "preempted", "swapped out", "decode"],
        ),
    ],
)
def test_a_preemption_is_a_phase_after_which_the_one_before_goes_on(kinds: list[str], phases: list[str]) -> None:
    events = [
        {"event": kind, "time": float(time), "end": 0, "reason": "stop"}
        for time, kind in enumerate(["queued", "admitted", "first_token", *kinds])
    ]
    trace = chrome_trace([{"request_id": "a", "choice": 0, "events": events, "num_dropped": 0}], [])
    assert [name for name, _, _ in spans(trace, 2)] == ["queued", "prefill", *phases]
    assert sum(seconds for _, _, seconds in spans(trace, 2)) == len(events) - 1


def test_the_command_writes_the_trace_of_a_running_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, key = tmp_path / "trace.json", tmp_path / "key"
    key.write_text("admin-1\n")

    async def run(*more: str) -> int:
        async with serving(admin_api_keys=["admin-1"]) as (server, _):
            return await asyncio.to_thread(main, ["trace", "--url", server.url, "--out", str(out), *more])

    assert asyncio.run(run()) == 2
    assert "answered 401: A valid API key is required" in capsys.readouterr().err
    assert not out.exists()
    assert asyncio.run(run("--key-file", str(key))) == 0
    assert spans(json.loads(out.read_text()), 1) == [("step", 1002.5, 0.5)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "expected --url URL or [MODEL] PROMPT, got 0 words"),
        (["--url", "ftp://x"], "--url must begin with http:// or https://, got 'ftp://x'"),
        (["--url", "http://127.0.0.1:1"], "http://127.0.0.1:1 does not answer"),
        (["--url", "http://127.0.0.1:1", "hello"], "it takes no prompt, got 'hello'"),
    ],
)
def test_the_command_says_what_it_needs(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", *words]) == 2
    assert text in capsys.readouterr().err
