"""Rotary scalings whose frequencies depend on how far a sequence has come, against transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from e2e.families.llama import DYNAMIC_ROPE, LLAMA
from e2e.families.phi import PHI3, longrope
from e2e.references import agrees, chosen, differences, greedy_tokens, loaded, prompt_logprobs
from e2e.tiny_models import Directory, Edit, TinyModel, old_style_rope, prompt_of, save
from transformers import DynamicCache

ORIGINAL = 40
OLD_DYNAMIC = {"type": "dynamic", "factor": 4.0}


def step_by_step(reference: Any, tokens: list[int]) -> torch.Tensor:
    """[len(tokens), vocab]: the log probabilities of a reference that is given one token after the other."""
    cache, rows = DynamicCache(), []
    with torch.inference_mode():
        for position, token in enumerate(tokens):
            output = reference(
                torch.tensor([[token]]),
                position_ids=torch.tensor([[position]]),
                past_key_values=cache,
                use_cache=True,
            )
            rows.append(torch.log_softmax(output.logits[0, -1].float(), dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("edit", [None, old_style_rope(OLD_DYNAMIC)], ids=["new", "old"])
def test_dynamic_scaling_beyond_the_original_context_is_that_of_generation(edit: Edit | None, tmp_path: Path) -> None:
    config = {"rope_parameters": dict(DYNAMIC_ROPE), "max_position_embeddings": ORIGINAL}
    model = save(LLAMA.make(config), tmp_path / "dynamic", Directory(edit=edit))
    prompt = prompt_of(70, seed=3)
    with loaded(model.path) as llm:
        ours, tokens = prompt_logprobs(llm, prompt), greedy_tokens(llm, prompt, 32)
    rows = step_by_step(model.reference, [*prompt, *tokens])
    assert (ours - chosen(rows[: len(prompt)], prompt)).abs().max() < 1e-3
    assert rows[len(prompt) - 1 : -1].argmax(dim=-1).tolist() == tokens
    whole = model.logprobs(prompt)
    assert (chosen(whole, prompt) - chosen(rows[: len(prompt)], prompt)).abs().max() > 1e-2, "no difference to see"


def test_dynamic_scaling_stretches_the_context(tmp_path: Path) -> None:
    config = {"rope_parameters": dict(DYNAMIC_ROPE), "max_position_embeddings": ORIGINAL}
    model = save(LLAMA.make(config), tmp_path / "dynamic")
    with loaded(model.path) as llm:
        assert llm.describe()["max_model_len"] == 4 * ORIGINAL


@pytest.mark.parametrize(("max_model_len", "length"), [(48, 24), (256, 70)], ids=["short", "long"])
def test_longrope_is_chosen_by_the_longest_sequence_there_can_be(
    max_model_len: int, length: int, tiny: Callable[[str], TinyModel]
) -> None:
    model = tiny("phi3-longrope-long")
    prompt = prompt_of(length, seed=6)
    with loaded(model.path, max_model_len=max_model_len) as llm:
        assert differences(llm, model, prompt).max() < 1e-3
        assert agrees(model, prompt, greedy_tokens(llm, prompt, 16))


def test_longrope_keeps_its_divisors_while_a_sequence_grows(tmp_path: Path) -> None:
    """A long context begins with the divisors that it ends with, whatever its first tokens alone would get."""
    config = {"rope_parameters": longrope(8), "max_position_embeddings": 256, "original_max_position_embeddings": 48}
    model = save(PHI3.make(config), tmp_path / "phi3")
    prompt = prompt_of(70, seed=6)
    with loaded(model.path) as llm:
        whole, start = prompt_logprobs(llm, prompt), prompt_logprobs(llm, prompt[:20])
    assert torch.equal(whole[:19], start)
