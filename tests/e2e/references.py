"""How the reference tests look at an engine: load it for token-id prompts, ask what it says of a prompt, compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from e2e.tiny_models import TinyModel

from pagoda import LLM, SamplingParams


@contextmanager
def loaded(path: Path, **options: Any) -> Iterator[LLM]:
    """The model with an f32 KV cache and the finest inputs of quantised weights, without a tokenizer."""
    precise = {"kv_cache_dtype": "f32", "activation_dtype": "int16", "num_kv_blocks": 64}
    with LLM(str(path), skip_tokenizer=True, **{**precise, **options}) as llm:
        yield llm


def prompt_logprobs(llm: LLM, prompt: list[int]) -> torch.Tensor:
    """[len(prompt) - 1]: what the engine says of each prompt token after the first."""
    params = SamplingParams(prompt_logprobs=0, max_tokens=1, temperature=0)
    rows = llm.generate([prompt], params, use_tqdm=False)[0].prompt_logprobs
    assert rows is not None
    assert rows[0] is None
    return torch.tensor([row[token].logprob for row, token in zip(rows[1:], prompt[1:], strict=True)])


def chosen(logprobs: torch.Tensor, prompt: Sequence[int]) -> torch.Tensor:
    """[len(prompt) - 1]: of the reference's rows the values of the tokens that follow."""
    return logprobs[:-1].gather(1, torch.tensor(prompt[1:]).unsqueeze(1)).squeeze(1)


def differences(llm: LLM, model: TinyModel, prompt: list[int]) -> torch.Tensor:
    """[len(prompt) - 1]: absolute differences of engine and reference."""
    return (prompt_logprobs(llm, prompt) - chosen(model.logprobs(prompt), prompt)).abs()


def greedy_tokens(llm: LLM, prompt: list[int], num_tokens: int) -> list[int]:
    """The engine's most likely continuation, past any end of sequence."""
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    return llm.generate([prompt], params, use_tqdm=False)[0].outputs[0].token_ids


def agrees(model: TinyModel, prompt: list[int], tokens: list[int]) -> bool:
    """Whether `tokens` are the reference's own most likely continuation, whatever it says about the end.

    One pass over all of it: if every token is the most likely one after those before, the continuation is the same.
    """
    rows = model.logprobs([*prompt, *tokens])[len(prompt) - 1 : -1]
    return bool(rows.argmax(dim=-1).tolist() == tokens)
