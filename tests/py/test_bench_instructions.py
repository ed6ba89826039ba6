"""The guard on instruction counts: what it lets through and what it says. The counting is `make instructions`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[2] / "bench" / "instructions.py"


@pytest.fixture
def guard() -> Any:
    spec = importlib.util.spec_from_file_location("bench_instructions", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("number", "compiler", "status", "text"),
    [
        (1020, "c++ 12", 0, "+2.0%"),
        (
            1040,
            "c++ 12",
            1,
            "over instructions.json by more than 3%. If that is meant: `make instructions ARGS=-",
        ),
        (900, "c++ 12", 0, "fewer than committed"),
        (2000, "c++ 13", 0, "not compared: built with c++ 13"),
    ],
)
def test_only_more_instructions_of_the_same_compiler_fail(
    number: int, compiler: str, status: int, text: str, guard: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = {"compiler": "c++ 12", "counts": {"decode": 1000}}
    assert guard.compare({"compiler": compiler, "counts": {"decode": number}}, committed) == status
    assert text in capsys.readouterr().out


def test_every_case_has_a_committed_count(guard: Any, capsys: pytest.CaptureFixture[str]) -> None:
    committed = {"compiler": "c++ 12", "counts": {}}
    assert guard.compare({"compiler": "c++ 12", "counts": {"new": 1}}, committed) == 1
    assert "not committed" in capsys.readouterr().out
