"""Quantised Hugging Face checkpoints of every method against transformers with the weights that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from e2e.families.llama import LLAMA
from e2e.families.qwen import QWEN2
from e2e.references import agrees, differences, greedy_tokens, loaded
from e2e.tiny_models import TinyModel, edit_json, prompt_of
from e2e.tiny_quantised import METHODS, awq, save_quantised
from e2e.tiny_table import ISAS

PROMPT = prompt_of(70, seed=6)
FAMILIES = {"llama": LLAMA, "qwen2": QWEN2}

Make = Callable[[str, str], TinyModel]


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`quantised("qwen2", "gptq")` is that family in that row of METHODS on disk."""
    root, made = tmp_path_factory.mktemp("quantised"), {}
    references = {name: family.make({}) for name, family in FAMILIES.items()}

    def get(family: str, method: str) -> TinyModel:
        if (family, method) not in made:
            made[family, method] = save_quantised(references[family], root / f"{family}-{method}", METHODS[method])
        return made[family, method]

    return get


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_checkpoint_gives_the_logprobs_and_greedy_tokens_of_its_weights(
    method: str, family: str, quantised: Make
) -> None:
    model = quantised(family, method)
    with loaded(model.path) as llm:
        assert differences(llm, model, PROMPT).max() < 1e-3
        assert agrees(model, PROMPT, greedy_tokens(llm, PROMPT, 32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("method", ["awq", "gptq", "w8a8", "fp8-blocks", "gptq-activation-order"])
def test_quantised_weights_mean_the_same_on_every_isa(method: str, isa: str, quantised: Make) -> None:
    model = quantised("llama", method)
    with loaded(model.path, isa=isa) as llm:
        assert differences(llm, model, PROMPT).max() < 1e-3


def test_the_awq_layout_is_the_one_that_compressed_tensors_converts() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    method = awq(32)
    tensors, values = method.pack(weight)
    converter = AutoAWQConverter.from_autoawq_config(dict(method.config))
    converted = converter.process({f"a.{suffix}": tensor for suffix, tensor in tensors.items()})
    args = QuantizationArgs(num_bits=4, strategy="group", group_size=32, symmetric=False)
    state = {name.removeprefix("a."): tensor for name, tensor in converted.items()}
    state["weight_scale"] = state["weight_scale"].float()
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    decompressed = BaseCompressor.get_value_from_registry("pack-quantized").decompress(state, scheme)
    assert torch.equal(decompressed["weight"], values)


def test_a_method_that_is_not_supported_is_named(tmp_path: Path) -> None:
    path = save_quantised(FAMILIES["llama"].make({}), tmp_path / "model", awq(32)).path
    edit_json(path / "config.json", lambda config: config["quantization_config"].update(quant_method="hqq"))
    with pytest.raises(ValueError, match="quant_method 'hqq' is not supported; supported are awq, gptq"), loaded(path):
        pass


def test_a_missing_scale_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    path = save_quantised(FAMILIES["llama"].make({}), tmp_path / "model", awq(32)).path
    edit_json(path / "config.json", lambda config: config["quantization_config"].update(group_size=64))
    expected = r"q_proj\.scales has shape \[2, 64\], expected \[1, 64\]"
    with pytest.raises(ValueError, match=expected), loaded(path):
        pass
