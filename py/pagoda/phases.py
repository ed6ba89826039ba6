"""What a choice of a request was doing and when, from the events of its timeline. Used by `chrome_trace` and by the
server's spans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: What a choice is doing after an event; the others change nothing.
_AFTER = {
    "queued": "queued",
    "admitted": "prefill",
    "first_token": "decode",
    "preempted": "preempted",
    "swapped_out": "swapped out",
}


@dataclass(slots=True)
class Phase:
    """A stretch of time, in seconds since 1970. `facts` says how the last one ended."""

    name: str
    begin: float
    end: float
    facts: dict[str, Any] = field(default_factory=dict)


def phases(timeline: Mapping[str, Any]) -> list[Phase]:
    """The phases of one choice without gaps; one that goes on ends with the last event and is `unfinished`."""
    found: list[Phase] = []
    before_preemption = "prefill"
    for event in timeline["events"]:
        kind, time = event["event"], event["time"]
        if kind == "chunk":
            continue
        if kind == "finished":
            found[-1].end = time
            found[-1].facts = {"reason": event["reason"], "tokens": event["end"]}
            return found
        name = before_preemption if kind in ("resumed", "swapped_in") else _AFTER[kind]
        if found and found[-1].name == name:
            continue
        if kind == "preempted":
            before_preemption = found[-1].name
        if found:
            found[-1].end = time
        found.append(Phase(name, time, time))
    if found:
        found[-1].end = timeline["events"][-1]["time"]
        found[-1].facts = {"unfinished": True}
    return found
