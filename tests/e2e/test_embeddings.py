"""Embeddings of tiny models: those of transformers, and the same bits however they are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from e2e.equations import engine
from e2e.references import loaded
from e2e.tiny_models import TinyModel, prompt_of

from pagoda import LLM, InvalidArgument, SamplingParams

BOUND = 2e-5  # of unit vectors, in f32
LENGTHS = [70, 1, 33, 16, 17, 90, 5, 48]
PROMPTS = [prompt_of(length, seed=number) for number, length in enumerate(LENGTHS)]


def reference(model: TinyModel, prompt: list[int], pooling: str) -> torch.Tensor:
    """[hidden size]: of the last hidden states after the final norm, pooled, length 1."""
    with torch.inference_mode():
        base = model.reference.model if hasattr(model.reference, "model") else model.reference.base_model
        states = base(torch.tensor([prompt])).last_hidden_state[0].float()
    pooled = states[-1] if pooling == "last" else states.mean(dim=0)
    return torch.nn.functional.normalize(pooled, dim=0)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gpt2", "phi2", "olmo2", "mixtral"])
def test_embeddings_are_those_of_transformers(name: str, pooling: str, tiny: Callable[[str], TinyModel]) -> None:
    model = tiny(name)
    prompts = [prompt_of(length, seed=length, vocab=model.vocab_size) for length in (70, 1, 20)]
    with loaded(model.path, max_num_batched_tokens=32) as llm:
        vectors = llm.embed(prompts, pooling, use_tqdm=False)
    for vector, prompt in zip(vectors, prompts, strict=True):
        assert len(vector) == model.reference.config.get_text_config().hidden_size
        assert (torch.tensor(vector) - reference(model, prompt, pooling)).abs().max() < BOUND


def embed(llm: LLM, prompts: list[list[int]], pooling: str) -> list[list[float]]:
    """Not scaled, so that every bit counts."""
    return llm.embed(prompts, pooling, normalize=False, use_tqdm=False)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("name", ["llama", "qwen3-bf16"])
def test_no_way_of_computing_changes_a_bit(name: str, pooling: str, tiny: Callable[[str], TinyModel]) -> None:
    path = tiny(name).path
    with engine(path) as llm:
        expected = [embed(llm, [prompt], pooling)[0] for prompt in PROMPTS]
    variants: list[dict[str, Any]] = [
        {},
        {"max_num_batched_tokens": 1},
        {"max_num_batched_tokens": 37, "num_threads": 2},
        {"prefix_cache": True},
        {"num_kv_blocks": 8, "max_model_len": 96, "max_num_batched_tokens": 20},
    ]
    for options in variants:
        with engine(path, **options) as llm:
            assert embed(llm, PROMPTS, pooling) == expected, options
            assert embed(llm, PROMPTS, pooling) == expected, options  # the prefix cache is warm where there is one


def test_embeddings_and_continuations_share_steps(tiny: Callable[[str], TinyModel]) -> None:
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    with engine(tiny("llama").path, prefix_cache=True) as llm:
        alone = [output.outputs[0].token_ids for output in llm.generate(PROMPTS, params, use_tqdm=False)]
        embed(llm, PROMPTS, "mean")
        assert [output.outputs[0].token_ids for output in llm.generate(PROMPTS, params, use_tqdm=False)] == alone
        assert llm.stats()["num_free_blocks"] == 256


def test_a_word_that_is_no_pooling_is_refused(tiny: Callable[[str], TinyModel]) -> None:
    with engine(tiny("llama").path) as llm, pytest.raises(InvalidArgument, match="pooling must be none, mean or last"):
        llm.embed([1, 2], "max", use_tqdm=False)
