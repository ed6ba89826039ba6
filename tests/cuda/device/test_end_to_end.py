"""The package as users have it, on a GPU.

The CPU's greedy tokens where the choice is clear, the same answers however requests are run, and a server that answers.
`make test-gpu` runs this; without a GPU all of it is skipped.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pagoda import LLM, RequestOutput, SamplingParams

PROMPTS = ["The capital of France is", "1, 2, 3, 4, 5,", "def main(argument):\n    return", "Water boils at"]
NUM_TOKENS = 12
# Activations are bf16 on the GPU and f32 on the CPU, which moves a logprob by some hundredths.
CLEAR_MARGIN = 0.3
GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=2)
SMALL: dict[str, Any] = {"num_kv_blocks": 64, "max_model_len": 128}
START_S = 120


def generate(model: Path, device: str, params: SamplingParams, **options: Any) -> list[RequestOutput]:
    with LLM(str(model), device=device, **{**SMALL, **options}) as llm:
        return llm.generate(PROMPTS, params, use_tqdm=False)


def margins(output: RequestOutput) -> list[float]:
    """At each position the distance of the best token's logprob to the second's."""
    rows = output.outputs[0].logprobs
    assert rows is not None
    best = [sorted((entry.logprob for entry in row.values()), reverse=True) for row in rows]
    return [row[0] - row[1] for row in best]


def test_greedy_tokens_are_the_cpus_as_long_as_the_choice_is_clear(model: Path, device: str) -> None:
    expected, got = generate(model, "cpu", GREEDY), generate(model, device, GREEDY)
    num_compared = 0
    for own, cpu in zip(got, expected, strict=True):
        for token, wanted, margin in zip(own.outputs[0].token_ids, cpu.outputs[0].token_ids, margins(cpu), strict=True):
            if token != wanted:
                assert margin < CLEAR_MARGIN, f"{own.outputs[0].text!r} instead of {cpu.outputs[0].text!r}"
                break  # from here on the contexts differ
            num_compared += 1
    assert num_compared >= len(PROMPTS) * NUM_TOKENS // 2


def test_a_batch_equals_each_alone(model: Path, device: str) -> None:
    params = SamplingParams(temperature=0.8, top_p=0.9, seed=3, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=1)
    with LLM(str(model), device=device, deterministic=True, **SMALL) as llm:
        alone = [llm.generate(prompt, params, use_tqdm=False)[0].outputs[0] for prompt in PROMPTS]
        together = [output.outputs[0] for output in llm.generate(PROMPTS, params, use_tqdm=False)]
    assert [choice.token_ids for choice in together] == [choice.token_ids for choice in alone]
    assert [choice.logprobs for choice in together] == [choice.logprobs for choice in alone]


@pytest.mark.parametrize("kv_cache_dtype", ["f16", "fp8"])
def test_other_types_of_kv_cache_make_text(kv_cache_dtype: str, model: Path, device: str) -> None:
    outputs = generate(model, device, GREEDY, kv_cache_dtype=kv_cache_dtype)
    assert all(len(output.outputs[0].token_ids) == NUM_TOKENS for output in outputs)


@contextmanager
def serving(model: Path, device: str, log: Path) -> Iterator[str]:
    """The address of a server in its own process, once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sizes = ["--num-kv-blocks", "64", "--max-model-len", "128"]
    command = [sys.executable, "-m", "enginectl", "serve", str(model), "--device", device, "--port", str(port), *sizes]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            deadline = time.monotonic() + START_S
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
                        break
                except OSError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def test_a_server_answers(model: Path, device: str, tmp_path: Path) -> None:
    with serving(model, device, tmp_path / "server.log") as url:
        asked = {"model": "any", "prompt": PROMPTS[0], "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as response:
            asked["model"] = json.load(response)["data"][0]["id"]
        request.data = json.dumps(asked).encode()
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
    assert answer["usage"]["completion_tokens"] == 8
    assert answer["choices"][0]["finish_reason"] == "length"
