"""The cases of bench/: what is asked of an engine, and what its time means."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.delitem(sys.modules, "cases", raising=False)
    return importlib.import_module("cases")


class Engine:
    """Takes 0.001 s for each prompt token and 0.01 s for each step, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cases: Any) -> None:
        self.now, self.asked = 0.0, []
        monkeypatch.setattr(cases.time, "perf_counter", lambda: self.now)

    def generate(self, prompts: list[list[int]], count: int) -> list[int]:
        self.asked.append((prompts, count))
        self.now += 0.001 * sum(map(len, prompts)) + 0.01 * (count - 1)
        return [count] * len(prompts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decode", 100),  # the prompt's 0.032 s are taken off
        ("prefill_512", 1000),
        ("batch_16", 16 * 128 / (16 * 0.128 + 1.27)),
        ("shared", 32 * 32 / (32 * 1.056 + 0.31)),
    ],
)
def test_a_case_measures_tokens_per_second(
    name: str, value: float, cases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(case for case in cases.CASES if case.name == name)
    engine = Engine(monkeypatch, cases)
    assert cases.measure(case, engine.generate, random.Random(1), 1000) == pytest.approx(value)
    prompts, count = engine.asked[0]
    assert [len(prompt) for prompt in prompts] == [case.shared + case.own] * case.num_requests
    assert count == case.output
    assert len({tuple(prompt[: case.shared]) for prompt in prompts}) == 1
    assert len({tuple(prompt) for prompt in prompts}) == len(prompts)


def test_an_engine_that_stops_early_is_not_measured(cases: Any) -> None:
    with pytest.raises(SystemExit, match=r"\[127\] tokens came out, 128 were asked for"):
        cases.measure(cases.DECODE, lambda prompts, count: [count - 1], random.Random(1), 1000)
