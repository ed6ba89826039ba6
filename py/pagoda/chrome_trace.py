"""Timelines and steps of an engine as a trace that Perfetto and chrome://tracing open.

The steps are one row and two counters, each choice of each request is a row of its own. Used by the server and by
`enginectl trace`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_STEPS, _REQUESTS = 1, 2
#: What a choice is doing after an event; the others change nothing.
_PHASES = {
    "queued": "queued",
    "admitted": "prefill",
    "first_token": "decode",
    "preempted": "preempted",
    "swapped_out": "swapped out",
}


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
    """The phases of one choice as spans, its chunks as instants. A phase that goes on ends with the last event."""
    name = f"{timeline['request_id']} [{timeline['choice']}]"
    result = [_name("thread_name", _REQUESTS, row, name)]
    phase, begin, before_preemption = "", 0.0, "prefill"
    for event in timeline["events"]:
        kind, time = event["event"], event["time"]
        if kind == "chunk":
            tokens = {"begin": event["begin"], "end": event["end"]}
            result.append({"name": "chunk", "ph": "i", "s": "t", "pid": _REQUESTS, "tid": row, "ts": _micros(time)})
            result[-1]["args"] = tokens
            continue
        following = before_preemption if kind in ("resumed", "swapped_in") else _PHASES.get(kind, "")
        if following == phase:
            continue
        if phase:
            result.append(_span(phase, _REQUESTS, row, begin, time, {}))
        if kind == "preempted":
            before_preemption = phase
        if kind == "finished":
            args = {"reason": event["reason"], "tokens": event["end"]}
            result[-1]["args"] = args
        phase, begin = following, time
    if phase:
        result.append(_span(phase, _REQUESTS, row, begin, timeline["events"][-1]["time"], {"unfinished": True}))
    return result


def _span(name: str, process: int, row: int, begin: float, end: float, args: Mapping[str, Any]) -> dict[str, Any]:
    start = _micros(begin)
    times = {"ts": start, "dur": _micros(end) - start}
    return {"name": name, "ph": "X", "pid": process, "tid": row, **times, "args": dict(args)}


def _name(kind: str, process: int, row: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": row, "args": {"name": name}}


def _micros(seconds: float) -> float:
    return round(seconds * 1e6, 1)
