"""What people give by mistake to `LLM` and the command line gets an error that names it, never a binding's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e.tiny_models import TinyModel

from pagoda import LLM, InvalidArgument, SamplingParams

FEW = SamplingParams(max_tokens=1)


@pytest.fixture(scope="module")
def llm(tiny: Callable[[str], TinyModel]) -> Iterator[LLM]:
    with LLM(str(tiny("llama-tied").path), skip_tokenizer=True, num_kv_blocks=8) as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ([[2**31]], "prompt must hold token ids in [0, "),
        ([[1, -(2**40)]], "got -1099511627776 at position 1"),
        ([[2**70]], "prompt must be in [-2^63, 2^63 - 1]"),
        ([[True]], "a list of token ids"),
        ([[1, 2, True, 3]], "a list of token ids"),
        ([[1, 2.0]], "a list of token ids"),
        ([5.5], "a prompt must be a text or a list of token ids, got float"),
        ([None], "got NoneType"),
        (None, "prompts must be a list of texts or of lists of token ids, got NoneType"),
        (b"x", "got bytes"),
        ([b"x"], "got bytes"),
        ([[]], "at least one token"),
        (["a"], "without a tokenizer"),
    ],
)
def test_a_wrong_prompt_is_refused_by_name(llm: LLM, prompts: Any, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        llm.generate(prompts, FEW, use_tqdm=False)
    assert text in str(caught.value)
    assert llm.stats()["num_running"] == llm.stats()["num_waiting"] == 0


def test_a_right_prompt_is_never_turned_into_text(llm: LLM) -> None:
    """Only errors show what was given: that takes many times as long as reading it."""

    class Token(int):
        def __repr__(self) -> str:
            raise AssertionError("shown")

    class Tokens(list[int]):
        def __repr__(self) -> str:
            raise AssertionError("shown")

    params = SamplingParams(max_tokens=1, stop_token_ids=Tokens([Token(5)]))
    assert len(llm.generate([Tokens([Token(1), Token(2)])], params, use_tqdm=False)[0].outputs[0].token_ids) == 1


@pytest.mark.parametrize("params", [{"temperature": 0}, [{"temperature": 0}], 5, [FEW, FEW]])
def test_wrong_parameters_are_refused_by_name(llm: LLM, params: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^params must be "):
        llm.generate([[1]], params, use_tqdm=False)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """`enginectl` with these words, in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "enginectl", *words], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_device_that_the_build_does_not_have_exits_with_3(tiny: Callable[[str], TinyModel]) -> None:
    model = str(tiny("llama-tied").path)
    for command in (["plan", model], ["complete", model, "1", "--skip-tokenizer"]):
        done = run(*command, "--device", "cuda")
        assert done.returncode == 3, done.stderr
        assert "use device: cpu" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_number_that_is_no_token_id_exits_with_2(tiny: Callable[[str], TinyModel]) -> None:
    done = run("complete", str(tiny("llama-tied").path), "99999999999", "--skip-tokenizer")
    assert done.returncode == 2, done.stderr
    assert "prompt must hold token ids in [0, " in done.stderr
    assert "Traceback" not in done.stderr
