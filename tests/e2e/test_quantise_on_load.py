"""`weight_format`: plain checkpoints quantised as they are loaded give what the quantised file gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from e2e.references import greedy_tokens, loaded, prompt_logprobs
from e2e.tiny_models import TinyModel, prompt_of

from pagoda import _core
from pagoda.config import inspect_model

PROMPT = prompt_of(60, seed=3)
BELOW_8_BITS = ("q5_1", "q5_0", "q4_1", "q4_0", "int4")


def said(path: Path, **options: Any) -> tuple[torch.Tensor, list[int]]:
    with loaded(path, **options) as llm:
        return prompt_logprobs(llm, PROMPT), greedy_tokens(llm, PROMPT, 16)


@pytest.mark.parametrize("fmt", ["q8_0", "bf16", "f16"])
def test_a_directory_quantised_on_load_equals_the_file_in_that_format(
    tiny: Callable[[str], TinyModel], tiny_gguf: Callable[[str, str], TinyModel], fmt: str
) -> None:
    logprobs, tokens = said(tiny("qwen2").path, weight_format=fmt)
    expected, expected_tokens = said(tiny_gguf("qwen2", fmt).path)
    assert torch.equal(logprobs, expected)
    assert tokens == expected_tokens


@pytest.mark.parametrize(
    "fmt", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "int8", "int4", "f8_e4m3", "bf16", "f16", "f32"]
)
def test_every_format_computes_with_the_weights_it_decodes_to(tiny: Callable[[str], TinyModel], fmt: str) -> None:
    model = tiny("llama")
    ends = "q8_0" if fmt in ("q5_1", "q5_0", "q4_1", "q4_0", "int4") else fmt
    with torch.no_grad():
        import copy

        reference = copy.deepcopy(model.reference)
        for name, weight in reference.named_parameters():
            if weight.dim() == 2:
                kind = ends if "embed_tokens" in name or "lm_head" in name else fmt
                stored = _core.quantise(kind, weight.numpy(), weight.shape[1])
                rounded = torch.frombuffer(
                    bytearray(_core.dequantise(kind, stored, weight.shape[1])), dtype=torch.float32
                )
                weight.copy_(rounded.view(weight.shape))
    logprobs, _ = said(model.path, weight_format=fmt)
    expected = TinyModel(model.path, reference).logprobs(PROMPT)[:-1].gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0]
    limit = 0.06 if fmt == "bf16" else 0.01
    assert (logprobs - expected).abs().max() < limit


def test_columns_that_a_format_cannot_hold_keep_their_own(tiny: Callable[[str], TinyModel]) -> None:
    formats = {row["name"]: row["formats"] for row in inspect_model(tiny("llama-odd-sizes").path, "q8_0")["matrices"]}
    assert set(formats.values()) == {"f32"}, "90 and 77 columns are no multiple of 32"


@pytest.mark.parametrize(
    ("name", "fmt", "text"),
    [
        ("q4_k", None, "weight_format must be auto or one of f32"),
        ("q8_0", "q4_0", "is for checkpoints of plain floats, but tensor"),
        ("spiral", None, "got 'spiral'"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    tiny: Callable[[str], TinyModel], tiny_gguf: Callable[[str, str], TinyModel], name: str, fmt: str | None, text: str
) -> None:
    path = tiny_gguf("llama", fmt).path if fmt else tiny("llama").path
    with pytest.raises(ValueError, match=text), loaded(path, weight_format=name):
        pass
