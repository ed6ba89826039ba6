"""Counters of the HTTP server and the Prometheus text of /metrics.

Owns the server's own counters and histograms; the engine's come from `client.stats()` when the page is read. Used on
the event loop's thread only.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from pagoda.config import STATS_FIELDS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Counter:
    """A family of counters, one for each tuple of label values."""

    def __init__(self, name: str, doc: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.doc = doc
        self.labels = tuple(labels)
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Adds `amount` to the counter with these label values."""
        self.values[labels] = self.values.get(labels, 0.0) + amount

    def lines(self) -> list[str]:
        """The family in Prometheus text format."""
        head = [f"# HELP {self.name} {self.doc}", f"# TYPE {self.name} counter"]
        return head + [f"{self.name}{_labels(self.labels, key)} {_number(n)}" for key, n in sorted(self.values.items())]


class Histogram:
    """A histogram over fixed upper bounds, in seconds."""

    def __init__(self, name: str, doc: str, bounds: Sequence[float] = _LATENCY_BUCKETS) -> None:
        self.name = name
        self.doc = doc
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts `value` (seconds) `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def lines(self) -> list[str]:
        """The histogram in Prometheus text format, buckets cumulative."""
        lines = [f"# HELP {self.name} {self.doc}", f"# TYPE {self.name} histogram"]
        seen = 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            seen += count
            lines.append(f'{self.name}_bucket{{le="{_number(bound)}"}} {seen}')
        return [*lines, f"{self.name}_sum {_number(self.total)}", f"{self.name}_count {seen}"]


class Metrics:
    """All counters of one server."""

    def __init__(self) -> None:
        self.http_requests = Counter(
            "pagoda_http_requests_total", "HTTP requests by route and status.", ("route", "status")
        )
        self.requests = Counter("pagoda_requests_total", "Inference requests by how they ended.", ("reason",))
        self.finished = Counter("pagoda_choices_total", "Generated choices by finish reason.", ("finish_reason",))
        self.prompt_tokens = Counter("pagoda_http_prompt_tokens_total", "Prompt tokens received.")
        self.completion_tokens = Counter("pagoda_http_completion_tokens_total", "Tokens sent in answers.")
        self.time_to_first_token = Histogram(
            "pagoda_time_to_first_token_seconds", "From the submission of a prompt to its first token."
        )
        self.inter_token_latency = Histogram("pagoda_inter_token_latency_seconds", "Between two tokens of one choice.")

    def render(self, engine: Mapping[str, int | float], in_flight: int, draining: bool) -> str:
        """The page: the engine's numbers under the prefix `pagoda_`, then the server's."""
        lines: list[str] = []
        for row in STATS_FIELDS:
            if row["name"] in engine:
                lines += _family(row["name"], row["kind"], row["doc"], engine[row["name"]])
        lines += _family("http_requests_in_flight", "gauge", "inference requests being answered", in_flight)
        lines += _family("http_draining", "gauge", "1 while the server shuts down, else 0", int(draining))
        for family in (
            self.http_requests,
            self.requests,
            self.finished,
            self.prompt_tokens,
            self.completion_tokens,
            self.time_to_first_token,
            self.inter_token_latency,
        ):
            lines += family.lines()
        return "\n".join(lines) + "\n"


def _family(key: str, kind: str, doc: str, value: int | float) -> list[str]:
    """A family of one number. The name of a counter ends in `_total`, as Prometheus has it."""
    name = f"pagoda_{key}_total" if kind == "counter" else f"pagoda_{key}"
    return [f"# HELP {name} {doc}", f"# TYPE {name} {kind}", f"{name} {_number(value)}"]


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: int | float) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "+Inf" if value > 0 else "-Inf"
        if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
    return repr(int(value) if isinstance(value, bool) else value)
