"""Embeddings on the emulated GPU: near the CPU's, the same bits in chunks, in a batch and after a preemption."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from cuda_engine.comparison import GREEDY, engine
from e2e.tiny_models import TinyModel, prompt_of

LENGTHS = [21, 1, 16, 30]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two vectors of length 1."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("name", ["llama", "qwen3-bf16", "gpt2"])
def test_embeddings_are_near_those_of_the_cpu(name: str, pooling: str, tiny: Callable[[str], TinyModel]) -> None:
    model = tiny(name)
    prompts = [prompt_of(length, seed=length, vocab=model.vocab_size) for length in LENGTHS]
    with engine(model.path, "cpu") as llm:
        expected = llm.embed(prompts, pooling, use_tqdm=False)
    with engine(model.path, "cuda-emu") as llm:
        assert llm.describe()["device"] == "emulated GPU"
        vectors = llm.embed(prompts, pooling, use_tqdm=False)
    for got, wanted in zip(vectors, expected, strict=True):
        assert cosine(got, wanted) > 0.999


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_no_way_of_computing_changes_a_bit(pooling: str, tiny: Callable[[str], TinyModel]) -> None:
    model = tiny("llama")
    prompts = [prompt_of(length, seed=length, vocab=model.vocab_size) for length in LENGTHS]
    with engine(model.path, "cuda-emu", deterministic=True) as llm:
        expected = [llm.embed([prompt], pooling, normalize=False, use_tqdm=False)[0] for prompt in prompts]
    tight = {"max_num_batched_tokens": 16, "block_size": 4, "num_kv_blocks": 8, "prefix_cache": True}
    with engine(model.path, "cuda-emu", deterministic=True, **tight) as llm:
        for _ in range(2):
            assert llm.embed(prompts, pooling, normalize=False, use_tqdm=False) == expected
        tokens = llm.generate([prompts[0]], GREEDY, use_tqdm=False)[0].outputs[0].token_ids
    with engine(model.path, "cuda-emu", deterministic=True) as llm:
        assert llm.generate([prompts[0]], GREEDY, use_tqdm=False)[0].outputs[0].token_ids == tokens
