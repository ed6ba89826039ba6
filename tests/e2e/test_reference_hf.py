"""Every architecture against transformers: prompt logprobs within 1e-4 in f32, the same greedy continuation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e2e.references import agrees, differences, greedy_tokens, loaded
from e2e.tiny_models import TinyModel, prompt_of
from e2e.tiny_table import DIRECTORIES, ISAS

PROMPT_LENGTH = 70
# Rounding alone makes 3e-5; with 1e-3 a model could pass with another epsilon, or with gelu's approximation for gelu.
EXACT_BOUND = 1e-4
BF16 = sorted(name for name, row in DIRECTORIES.items() if row.directories[name].dtype == torch.bfloat16)
EXACT = sorted(set(DIRECTORIES) - set(BF16))


@pytest.mark.parametrize("name", EXACT)
def test_a_model_gives_the_references_logprobs_and_greedy_tokens(name: str, tiny: Callable[[str], TinyModel]) -> None:
    model = tiny(name)
    prompt = prompt_of(PROMPT_LENGTH, seed=3, vocab=model.vocab_size)
    with loaded(model.path) as llm:
        assert differences(llm, model, prompt).max() < EXACT_BOUND
        assert agrees(model, prompt, greedy_tokens(llm, prompt, 32))


@pytest.mark.parametrize("name", BF16)
def test_a_bf16_model_stays_near_the_f32_reference(name: str, tiny: Callable[[str], TinyModel]) -> None:
    """The weights are exact; kernels may round activations to bf16."""
    model = tiny(name)
    with loaded(model.path) as llm:
        difference = differences(llm, model, prompt_of(PROMPT_LENGTH, seed=3))
    assert difference.mean() < 0.01
    assert difference.max() < 0.06


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "name", ["llama-odd-sizes", "qwen3", "mistral-window", "gemma2-odd-sizes-untied", "phi2-odd-sizes", "olmo2"]
)
def test_every_isa_gives_the_references_logprobs(name: str, isa: str, tiny: Callable[[str], TinyModel]) -> None:
    model = tiny(name)
    prompt = prompt_of(PROMPT_LENGTH, seed=4, vocab=model.vocab_size)
    with loaded(model.path, isa=isa) as llm:
        assert llm.describe()["isa"] == isa
        assert differences(llm, model, prompt).max() < EXACT_BOUND


def test_a_bf16_kv_cache_stays_near_the_reference(tiny: Callable[[str], TinyModel]) -> None:
    model = tiny("llama")
    with loaded(model.path, kv_cache_dtype="auto") as llm:
        difference = differences(llm, model, prompt_of(PROMPT_LENGTH, seed=3))
    assert 1e-5 < difference.mean() < 0.01
    assert difference.max() < 0.06
