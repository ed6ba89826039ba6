"""The same request gives bitwise the same tokens and logprobs, however it is run. Tiny models, every ISA and KV type.

Every test compares with requests that ran alone, whole and uncached on one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e.equations import THOROUGH, Result, alone, engine, mixed_params, together
from e2e.tiny_models import TinyModel, prompt_of
from e2e.tiny_table import ISAS

from pagoda import LLM, SamplingParams

LENGTHS = [70, 1, 33, 16, 17, 48, 5, 90, 64, 31, 2, 80, 15, 49, 3, 37]
PROMPTS = [prompt_of(length, seed=number) for number, length in enumerate(LENGTHS)]
PARAMS = [mixed_params(number) for number in range(len(PROMPTS))]


class Setup:
    """One model, ISA and KV type, with the results that all variants must reproduce."""

    def __init__(self, path: Path, isa: str, kv: str) -> None:
        self.path = path
        self.options: dict[str, Any] = {"isa": isa, "kv_cache_dtype": kv}
        with self.engine() as llm:
            self.expected = alone(llm, PROMPTS, PARAMS)

    def engine(self, **options: Any) -> Any:
        return engine(self.path, **{**self.options, **options})


@pytest.fixture(
    scope="module",
    params=[
        *[(name, isa, kv) for name in THOROUGH for isa in ISAS for kv in ("bf16", "f32")],
        *[("mistral-window", isa, "int8") for isa in ISAS],
    ],
    ids="-".join,
)
def setup(
    request: pytest.FixtureRequest,
    tiny: Callable[[str], TinyModel],
    tiny_gguf: Callable[[str, str], TinyModel],
) -> Setup:
    name, isa, kv = request.param
    model = tiny_gguf(*name.split(".")) if "." in name else tiny(name)
    return Setup(model.path, isa, kv)


def test_chunked_prefill_equals_whole(setup: Setup) -> None:
    for budget in (1, 16, 37, 64):
        with setup.engine(max_num_batched_tokens=budget) as llm:
            assert alone(llm, PROMPTS[:4], PARAMS[:4]) == setup.expected[:4]


def test_a_batch_of_16_equals_alone(setup: Setup) -> None:
    with setup.engine() as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        backwards = together(llm, PROMPTS[::-1], PARAMS[::-1])
    assert backwards[::-1] == setup.expected


def test_a_chunked_batch_on_two_threads_equals_alone(setup: Setup) -> None:
    with setup.engine(num_threads=2, max_num_batched_tokens=37) as llm:
        assert llm.describe()["num_threads"] == 2
        assert together(llm, PROMPTS, PARAMS) == setup.expected


def test_a_prefix_cache_hit_equals_a_miss(setup: Setup) -> None:
    with setup.engine(prefix_cache=True) as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        hits = llm.stats()["prefix_cache_hits"]
        again = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
        assert llm.stats()["prefix_cache_hits"] > hits
        assert again[0].num_cached_tokens == 64
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        assert alone(llm, PROMPTS, PARAMS) == setup.expected


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_preempted_equals_not_preempted(prefix_cache: bool, setup: Setup) -> None:
    with setup.engine(num_kv_blocks=16, max_model_len=128, prefix_cache=prefix_cache) as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        assert llm.stats()["num_preemptions"] > 0


def test_other_block_sizes_change_nothing(setup: Setup) -> None:
    for block_size in (1, 8, 64):
        with setup.engine(block_size=block_size, num_kv_blocks=4096 // block_size) as llm:
            assert together(llm, PROMPTS[:6], PARAMS[:6]) == setup.expected[:6]


def four(llm: LLM, prompt: list[int], seed: int) -> Result:
    """Four choices of one request."""
    params = SamplingParams(temperature=1, seed=seed, n=4, max_tokens=24, ignore_eos=True, logprobs=5)
    return together(llm, [prompt], [params])[0]


def test_n_choices_are_different_reproducible_and_independent_of_the_batch(setup: Setup) -> None:
    with setup.engine(prefix_cache=True) as llm:
        first = four(llm, PROMPTS[0], seed=7)
        assert len({tuple(tokens) for tokens, _, _ in first}) == 4
        assert four(llm, PROMPTS[0], seed=7) == first
        assert four(llm, PROMPTS[0], seed=8) != first
        params = SamplingParams(temperature=1, seed=7, n=4, max_tokens=24, ignore_eos=True, logprobs=5)
        assert together(llm, [*PROMPTS, PROMPTS[0]], [*PARAMS, params])[-1] == first
    with setup.engine(max_num_batched_tokens=16) as llm:
        assert four(llm, PROMPTS[0], seed=7) == first


def test_prompt_logprobs_do_not_depend_on_chunks_or_the_batch(setup: Setup) -> None:
    params = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=3, ignore_eos=True)
    with setup.engine() as llm:
        whole = llm.generate(PROMPTS[7], params, use_tqdm=False)[0].prompt_logprobs
    assert whole is not None
    assert len(whole) == LENGTHS[7]
    with setup.engine(max_num_batched_tokens=37, prefix_cache=True) as llm:
        for _ in range(2):  # the second time the cache holds the prompt, and its logprobs are computed all the same
            outputs = llm.generate([*PROMPTS, PROMPTS[7]], [*PARAMS, params], use_tqdm=False)
            assert outputs[-1].prompt_logprobs == whole
