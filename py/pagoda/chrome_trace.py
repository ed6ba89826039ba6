"""Timelines and steps of an engine as a trace that Perfetto and chrome://tracing open.

The steps are one row and two counters, each choice of each request is a row of its own. Used by the server and by
`enginectl trace`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pagoda.phases import phases

_STEPS, _REQUESTS = 1, 2


def chrome_trace(
    timelines: Sequence[Mapping[str, Any]], steps: Sequence[tuple[float, float, int, int]]
) -> dict[str, Any]:
    """The trace as a JSON object; `timelines` and `steps` as `EngineClient` gives them."""
    events = [_name("process_name", _STEPS, 0, "engine"), _name("process_name", _REQUESTS, 0, "requests")]
    for begin, end, num_seqs, num_tokens in steps:
        counts = {"sequences": num_seqs, "tokens": num_tokens}
        events.append(_span("step", _STEPS, 1, begin, end, counts))
        events += [
            {"name": name, "ph": "C", "pid": _STEPS, "ts": _micros(begin), "args": {name: count}}
            for name, count in counts.items()
        ]
    for row, timeline in enumerate(timelines, start=1):
        events += _row(row, timeline)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _row(row: int, timeline: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The phases of one choice as spans, its chunks as instants."""
    result = [_name("thread_name", _REQUESTS, row, f"{timeline['request_id']} [{timeline['choice']}]")]
    result += [_span(phase.name, _REQUESTS, row, phase.begin, phase.end, phase.facts) for phase in phases(timeline)]
    for event in timeline["events"]:
        if event["event"] == "chunk":
            tokens = {"begin": event["begin"], "end": event["end"]}
            place = {"pid": _REQUESTS, "tid": row, "ts": _micros(event["time"])}
            result.append({"name": "chunk", "ph": "i", "s": "t", **place, "args": tokens})
    return result


def _span(name: str, process: int, row: int, begin: float, end: float, args: Mapping[str, Any]) -> dict[str, Any]:
    start = _micros(begin)
    times = {"ts": start, "dur": _micros(end) - start}
    return {"name": name, "ph": "X", "pid": process, "tid": row, **times, "args": dict(args)}


def _name(kind: str, process: int, row: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": row, "args": {"name": name}}


def _micros(seconds: float) -> float:
    return round(seconds * 1e6, 1)
