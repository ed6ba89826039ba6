"""The same request gives bitwise the same tokens and logprobs, however it is run: every structure of a family.

test_equations_tiny.py says it of few models in every way; this of many in the ways that differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from e2e.equations import THOROUGH, Result, alone, engine, mixed_params, together
from e2e.tiny_models import TinyModel, prompt_of
from e2e.tiny_table import EQUATIONS

LENGTHS = [70, 1, 33, 17, 48, 64]
PROMPTS = [prompt_of(length, seed=number) for number, length in enumerate(LENGTHS)]
PARAMS = [mixed_params(number, max_tokens=20) for number in range(len(PROMPTS))]


class Setup:
    """A model with the results of requests that ran alone, whole and uncached on one thread."""

    def __init__(self, model: TinyModel) -> None:
        self.path = model.path
        with self.engine() as llm:
            self.expected: list[Result] = alone(llm, PROMPTS, PARAMS)

    def engine(self, **options: Any) -> Any:
        return engine(self.path, **options)


@pytest.fixture(scope="module", params=[name for name in EQUATIONS if name not in THOROUGH])
def setup(
    request: pytest.FixtureRequest,
    tiny: Callable[[str], TinyModel],
    tiny_gguf: Callable[[str, str], TinyModel],
) -> Setup:
    name = request.param
    return Setup(tiny_gguf(*name.split(".")) if "." in name else tiny(name))


def test_a_chunked_batch_on_two_threads_equals_alone(setup: Setup) -> None:
    with setup.engine(num_threads=2, max_num_batched_tokens=37) as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected


def test_a_prefix_cache_hit_equals_a_miss(setup: Setup) -> None:
    with setup.engine(prefix_cache=True) as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        hits = llm.stats()["prefix_cache_hits"]
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        assert llm.stats()["prefix_cache_hits"] > hits


def test_logits_of_all_rows_and_of_the_last_are_the_same(setup: Setup) -> None:
    """The last layer runs on the rows that need logits alone: with prompt logprobs on all."""
    params = [mixed_params(number, max_tokens=20, prompt_logprobs=0) for number in range(len(PROMPTS))]
    with setup.engine() as llm:
        assert alone(llm, PROMPTS, params) == setup.expected


def test_preempted_equals_not_preempted(setup: Setup) -> None:
    with setup.engine(block_size=4, num_kv_blocks=33, max_model_len=128) as llm:
        assert together(llm, PROMPTS, PARAMS) == setup.expected
        assert llm.stats()["num_preemptions"] > 0
