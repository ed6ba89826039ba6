"""With `deterministic` a request on the emulated GPU gets bitwise the same answer, however it is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cuda_engine.comparison import engine
from e2e.equations import Result, alone, mixed_params, together
from e2e.tiny_models import TinyModel, prompt_of

LENGTHS = [20, 1, 9, 16]
PROMPTS = [prompt_of(length, seed=number) for number, length in enumerate(LENGTHS)]
PARAMS = [mixed_params(number, max_tokens=6) for number in range(len(PROMPTS))]


class Setup:
    """A model with the results of requests that ran alone, whole and uncached."""

    def __init__(self, model: TinyModel) -> None:
        self.path = model.path
        with self.engine() as llm:
            self.expected: list[Result] = alone(llm, PROMPTS, PARAMS)

    def engine(self, **options: Any) -> Any:
        return engine(self.path, "cuda-emu", deterministic=True, **options)


@pytest.fixture(scope="module", params=["llama", "gemma2", "qwen3-moe", "llama.q4_1"])
def setup(
    request: pytest.FixtureRequest,
    tiny: Callable[[str], TinyModel],
    tiny_gguf: Callable[[str, str], TinyModel],
) -> Setup:
    name = request.param
    return Setup(tiny_gguf(*name.split(".")) if "." in name else tiny(name))


def test_a_batch_equals_each_alone(setup: Setup) -> None:
    with setup.engine() as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected


def test_chunks_equal_the_whole(setup: Setup) -> None:
    with setup.engine(max_num_batched_tokens=7) as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected


def test_a_prefix_cache_hit_equals_a_miss(setup: Setup) -> None:
    with setup.engine(prefix_cache=True, block_size=4) as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        hits = llm.stats()["prefix_cache_hits"]
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        assert llm.stats()["prefix_cache_hits"] > hits


@pytest.mark.parametrize("mode", ["recompute", "swap"])
def test_preempted_equals_not_preempted(setup: Setup, mode: str) -> None:
    with setup.engine(block_size=4, num_kv_blocks=8, swap_space=0.001, watermark=0, preemption_mode=mode) as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        assert llm.stats()[f"num_preemptions_{mode}"] > 0
