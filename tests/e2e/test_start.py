"""A start: what the engine asks of the tokenizer while it loads, how errors on either side end it, and what it does
not import.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from e2e.tiny_models import TinyModel

import pagoda.client
from pagoda import LLM, _core
from pagoda.config import EngineOptions, InvalidArgument

OPTIONS: dict[str, Any] = {"device": "cpu", "max_model_len": 32, "num_kv_blocks": 8}


@pytest.fixture
def path(tiny: Callable[[str], TinyModel]) -> str:
    return str(tiny("llama").path)


def test_end_tokens_are_asked_for_when_the_weights_are_loaded(path: str) -> None:
    calls: list[str] = []

    def eos_tokens() -> list[int]:
        calls.append("end tokens")
        return [3, 5]

    engine = _core.Engine(
        path, EngineOptions(**OPTIONS), eos_tokens, lambda done, total: calls.append(f"{done}/{total}")
    )
    engine.stop()
    assert {3, 5} <= set(engine.info["eos_tokens"])
    assert calls.count("end tokens") == 1
    *loading, last = calls
    assert last == "end tokens"
    done, total = loading[-1].split("/")
    assert done == total  # the last matrix is told of, however quick they come


def test_an_end_token_that_the_model_does_not_have_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"end-of-sequence token must be in \[0, \d+\), got 999999"):
        _core.Engine(path, EngineOptions(**OPTIONS), lambda: [999999])


@pytest.mark.parametrize("place", ["eos_tokens", "progress"])
def test_what_a_callback_raises_ends_the_start(path: str, place: str) -> None:
    def fail(*_: int) -> list[int]:
        raise LookupError("no tokenizer")

    with pytest.raises(LookupError, match="no tokenizer"):
        _core.Engine(path, EngineOptions(**OPTIONS), **{place: fail})


def test_a_tokenizer_that_cannot_be_read_ends_the_start(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("damaged tokenizer")

    monkeypatch.setattr(pagoda.client, "load_model_text", fail)
    with pytest.raises(ValueError, match="damaged tokenizer"):
        LLM(path, **OPTIONS)


def test_weights_that_cannot_be_loaded_end_the_start(path: str) -> None:
    with pytest.raises(InvalidArgument, match="max_model_len"):
        LLM(path, **{**OPTIONS, "max_model_len": 1 << 40})


def test_serve_imports_neither_the_http_server_nor_what_only_some_need_before_it_loads() -> None:
    late = ("aiohttp", "jinja2", "llguidance", "prometheus_client", "tqdm", "yaml")
    code = f"import sys, enginectl.serve; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
