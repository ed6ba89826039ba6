"""The equations of test_equations_tiny.py on the embedded default model, with shared prompt beginnings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from e2e.equations import Result, alone, engine, mixed_params, together
from e2e.tiny_table import ISAS

MAX_TOKENS = 6


class Setup:
    """The model on one ISA and KV type, its prompts, and what every variant must reproduce."""

    def __init__(self, path: Path, isa: str, kv: str) -> None:
        num_prompts = 16 if isa == ISAS[-1] else 6
        self.path = path
        self.options: dict[str, Any] = {"isa": isa, "kv_cache_dtype": kv, "max_model_len": 512, "num_kv_blocks": 128}
        self.params = [mixed_params(number, MAX_TOKENS) for number in range(num_prompts)]
        with self.engine(skip_tokenizer=False) as llm:
            encode = llm.get_tokenizer().encode
            shared = "You are a helpful assistant. Answer briefly. "
            texts = [
                shared + f"What is {number} times {number + 1}?" + " Please!" * number for number in range(num_prompts)
            ]
            self.prompts = [encode(text) for text in texts]
            self.expected: list[Result] = alone(llm, self.prompts, self.params)

    def engine(self, **options: Any) -> Any:
        return engine(self.path, **{**self.options, **options})


CASES = [*[(isa, "bf16") for isa in ISAS], (ISAS[-1], "int8"), (ISAS[-1], "f32")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def setup(request: pytest.FixtureRequest, smollm2: Path) -> Setup:
    return Setup(smollm2, *request.param)


def test_a_batch_on_two_threads_equals_alone(setup: Setup) -> None:
    with setup.engine(num_threads=2) as llm:
        assert together(llm, setup.prompts, setup.params) == setup.expected


def test_chunked_cached_and_preempted_equals_alone(setup: Setup) -> None:
    tight = {"block_size": 4, "num_kv_blocks": 20, "max_model_len": 80}
    with setup.engine(**tight, max_num_batched_tokens=19, prefix_cache=True, num_threads=2) as llm:
        assert together(llm, setup.prompts, setup.params) == setup.expected
        stats = llm.stats()
    assert stats["num_preemptions"] > 0
    assert stats["prefix_cache_hits"] > 0
