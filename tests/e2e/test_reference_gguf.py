"""GGUF files of every family and format against transformers with the dequantised weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e2e.references import agrees, differences, greedy_tokens, loaded
from e2e.tiny_models import TinyModel, prompt_of
from e2e.tiny_table import GGUFS, ISAS

PROMPT = prompt_of(70, seed=5)
# Largest and mean difference of a logprob. f32 and f16 weights are used exactly; kernels may round activations to bf16
# for bf16 weights and to 15 bits for quantised ones.
EXACT, BF16, QUANTISED = (1e-4, 1e-5), (0.06, 0.01), (0.01, 0.001)
BOUNDS = {"f32": EXACT, "f16": EXACT, "bf16": BF16, "q8_0": QUANTISED, "q4_0": QUANTISED, "q4_1": QUANTISED}

MakeGguf = Callable[[str, str], TinyModel]


def assert_near(difference: torch.Tensor, fmt: str) -> None:
    assert (difference.max() < BOUNDS[fmt][0], difference.mean() < BOUNDS[fmt][1]) == (True, True)


@pytest.mark.parametrize("fmt", BOUNDS)
def test_every_format_stays_near_its_dequantised_reference(fmt: str, tiny_gguf: MakeGguf) -> None:
    model = tiny_gguf("llama", fmt)
    with loaded(model.path) as llm:
        assert_near(differences(llm, model, PROMPT), fmt)


@pytest.mark.parametrize("fmt", ["f32", "q8_0"])
@pytest.mark.parametrize("name", GGUFS)
def test_a_gguf_file_stays_near_its_dequantised_reference(name: str, fmt: str, tiny_gguf: MakeGguf) -> None:
    model = tiny_gguf(name, fmt)
    with loaded(model.path) as llm:
        assert_near(differences(llm, model, PROMPT), fmt)
        if fmt == "f32":
            assert agrees(model, PROMPT, greedy_tokens(llm, PROMPT, 32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fmt", ["q8_0", "q4_0", "q4_1"])
def test_quantised_weights_mean_the_same_on_every_isa(fmt: str, isa: str, tiny_gguf: MakeGguf) -> None:
    model = tiny_gguf("llama", fmt)
    with loaded(model.path, isa=isa) as llm:
        assert_near(differences(llm, model, PROMPT), fmt)
