"""Mixtures of experts, beyond what every model is asked: instruction sets, quantised experts, what is refused."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from e2e.families.gpt_oss import GPT_OSS_MXFP4
from e2e.families.moe import MIXTRAL_SIZES, QWEN3_MOE, MixtralConverter
from e2e.references import agrees, differences, greedy_tokens, loaded, prompt_logprobs
from e2e.tiny_models import Edit, Family, TinyModel, edit_json, prompt_of, save, save_gguf
from e2e.tiny_quantised import METHODS
from e2e.tiny_table import DIRECTORIES, GGUFS, ISAS
from gguf import MODEL_ARCH, GGMLQuantizationType
from safetensors.torch import load_file, save_file

from pagoda import LLM, InvalidArgument

Tiny = Callable[[str], TinyModel]
TinyGguf = Callable[[str, str], TinyModel]

PROMPT = prompt_of(70, seed=3)


def with_experts(table: dict[str, Family]) -> list[str]:
    """The names in a table whose configurations have routers."""
    counts = {"num_experts", "num_local_experts"}
    return [name for name, family in table.items() if counts & set(family.sizes) and "dense" not in name]


def margin(model: TinyModel, prompt: list[int]) -> float:
    """The least difference, over tokens and layers, of the logits of the last chosen expert and the next."""
    gaps = [float("inf")]

    def measure(router: Any, _: Any, output: Any) -> None:
        logits, chosen = output[0].sort(dim=-1, descending=True).values, router.top_k
        if chosen < logits.shape[-1]:
            gaps.append(float((logits[:, chosen - 1] - logits[:, chosen]).min()))

    routers = [module for module in model.reference.modules() if type(module).__name__.endswith("TopKRouter")]
    assert routers
    hooks = [router.register_forward_hook(measure) for router in routers]
    model.logprobs(prompt)
    for hook in hooks:
        hook.remove()
    return min(gaps)


# Else rounding would choose the experts, and nothing could be compared. Inputs of quantised weights are off by 3e-5.
CLEAR = 2e-4


@pytest.mark.parametrize("name", with_experts(DIRECTORIES))
def test_the_routers_of_tiny_directories_have_no_near_ties(name: str, tiny: Tiny) -> None:
    model = tiny(name)
    assert margin(model, prompt_of(70, seed=3, vocab=model.vocab_size)) > CLEAR


@pytest.mark.parametrize("fmt", ["f32", "q8_0"])
@pytest.mark.parametrize("name", with_experts(GGUFS))
def test_the_routers_of_tiny_files_have_no_near_ties(name: str, fmt: str, tiny_gguf: TinyGguf) -> None:
    assert margin(tiny_gguf(name, fmt), prompt_of(70, seed=5)) > CLEAR


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["qwen2-moe-mixed-odd-sizes", "gpt-oss"])
def test_every_isa_gives_the_references_logprobs(name: str, isa: str, tiny: Tiny) -> None:
    model = tiny(name)
    with loaded(model.path, isa=isa) as llm:
        assert differences(llm, model, prompt_of(70, seed=3, vocab=model.vocab_size)).max() < 1e-4


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """gpt-oss as it was released."""
    how = GPT_OSS_MXFP4.directories["gpt-oss-mxfp4"]
    return save(GPT_OSS_MXFP4.make(how.config), tmp_path_factory.mktemp("released") / "gpt-oss", how)


@pytest.mark.parametrize("isa", ISAS)
def test_a_release_in_mxfp4_gives_the_logprobs_and_greedy_tokens_of_its_weights(isa: str, released: TinyModel) -> None:
    with loaded(released.path, isa=isa) as llm:
        assert differences(llm, released, PROMPT).max() < 1e-3
        assert agrees(released, PROMPT, greedy_tokens(llm, PROMPT, 32))


@pytest.mark.parametrize("name", ["mixtral", "granite-moe-shared", "qwen2-moe"])
def test_experts_quantised_on_load_equal_those_of_a_file(name: str, tiny: Tiny, tiny_gguf: TinyGguf) -> None:
    results = []
    for path, fmt in (tiny(name).path, "q8_0"), (tiny_gguf(name, "q8_0").path, "auto"):
        with loaded(path, weight_format=fmt) as llm:
            results.append((prompt_logprobs(llm, PROMPT).tolist(), greedy_tokens(llm, PROMPT, 16)))
    assert results[0] == results[1]


def test_transposed_experts_are_quantised_on_load_along_their_inputs(tiny: Tiny) -> None:
    model = tiny("gpt-oss")
    rounded = copy.deepcopy(model.reference)
    with torch.no_grad():
        for name, weight in rounded.named_parameters():
            if weight.dim() == 1 or name.endswith(("_bias", "router.weight")):
                continue
            rows = weight.swapaxes(-1, -2) if ".experts." in name else weight
            stored = gguf.quants.quantize(rows.contiguous().numpy(), GGMLQuantizationType.Q8_0)
            rows.copy_(torch.from_numpy(gguf.quants.dequantize(stored, GGMLQuantizationType.Q8_0)))
    with loaded(model.path, weight_format="q8_0") as llm:
        assert differences(llm, TinyModel(model.path, rounded), PROMPT).max() < 0.01


def test_quantised_experts_of_a_file_mean_what_they_decode_to(tiny_gguf: TinyGguf) -> None:
    model = tiny_gguf("mixtral", "q4_0")
    with loaded(model.path) as llm:
        assert differences(llm, model, PROMPT).max() < 0.01


class Q4kConverter(MixtralConverter):
    """Experts of random blocks of q4_k, which the package only reads: scales of 6 bits, codes of 4, a minimum."""

    def kind(self, name: str, fmt: GGMLQuantizationType) -> GGMLQuantizationType:
        return GGMLQuantizationType.Q4_K if ".experts." in name else super().kind(name, fmt)

    def quantise(self, values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
        if kind != GGMLQuantizationType.Q4_K:
            return super().quantise(values, kind)
        blocks = np.random.default_rng(1).integers(0, 256, (*values.shape[:-1], values.shape[-1] // 256, 144), np.uint8)
        blocks[..., :4] = np.array([6e-4, 7.5 * 6e-4], np.float16).view(np.uint8)
        return blocks.reshape(*values.shape[:-1], -1)


def test_experts_in_superblocks_of_256(tmp_path: Path) -> None:
    sizes = {**MIXTRAL_SIZES, "hidden_size": 256, "intermediate_size": 256, "num_local_experts": 3}
    family = Family(transformers.MixtralConfig, transformers.MixtralForCausalLM, sizes=sizes)
    model = save_gguf(family.make({}), Q4kConverter(MODEL_ARCH.LLAMA), tmp_path / "mixtral.gguf", "f32")
    with loaded(model.path) as llm:
        assert differences(llm, model, PROMPT).max() < 0.01


def save_packed(reference: Any, path: Path, method: str) -> TinyModel:
    """Writes all linear layers but routers and ends packed, each expert's on their own."""
    reference.save_pretrained(path)
    values = copy.deepcopy(reference)
    state, tensors = values.state_dict(), load_file(path / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        packed, meant = METHODS[method].pack(tensors.pop(name))
        module = name.removesuffix(".weight")
        tensors.update({f"{module}.{suffix}": tensor.contiguous() for suffix, tensor in packed.items()})
        prefix, _, expert = module.partition(".experts.")
        if not expert:
            state[name].copy_(meant)
            continue
        number, part = expert.split(".")
        rows = state[f"{prefix}.experts.{'down_proj' if part == 'down_proj' else 'gate_up_proj'}"][int(number)]
        half = {"gate_proj": slice(0, len(meant)), "up_proj": slice(len(meant), None), "down_proj": slice(None)}[part]
        rows[half] = meant
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    edit_json(path / "config.json", lambda config: config.update(quantization_config=dict(METHODS[method].config)))
    return TinyModel(path, values)


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8-blocks", "w4a16"])
def test_a_checkpoint_with_experts_packed_by_a_method_gives_what_they_stand_for(method: str, tmp_path: Path) -> None:
    model = save_packed(QWEN3_MOE.make({}), tmp_path / "model", method)
    with loaded(model.path) as llm:
        assert differences(llm, model, PROMPT).max() < 1e-3
        assert agrees(model, PROMPT, greedy_tokens(llm, PROMPT, 16))


def set_to(**values: Any) -> Edit:
    return lambda config: config.update(values)


REFUSALS: dict[str, tuple[str, Edit, str]] = {
    "more experts chosen than there are": (
        "mixtral",
        set_to(num_experts_per_tok=7),
        "num_experts_per_tok must be in [1, 6], got 7",
    ),
    "a router of fewer experts": (
        "mixtral",
        set_to(num_local_experts=7),
        "block_sparse_moe.gate.weight has shape [6, 64], expected [7, 64]",
    ),
    "wider experts": (
        "mixtral",
        set_to(intermediate_size=64),
        "experts.0.w1.weight has shape [96, 64], expected [64, 64]",
    ),
    "a stack of wider experts": (
        "granite-moe",
        set_to(intermediate_size=64),
        "input_linear.weight has shape [5, 192, 64], expected [5, 128, 64]",
    ),
    "another swiglu": ("gpt-oss", set_to(swiglu_limit=9.0), "swiglu_limit 9 is not supported, only 7 is"),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_what_does_not_fit_is_refused_with_both_sides(fault: str, tiny: Tiny, tmp_path: Path) -> None:
    name, edit, expected = REFUSALS[fault]
    path = Path(shutil.copytree(tiny(name).path, tmp_path / name))
    edit_json(path / "config.json", edit)
    with pytest.raises(InvalidArgument, match=re.escape(expected)):
        LLM(str(path), skip_tokenizer=True, num_kv_blocks=8)


def test_a_release_in_mxfp4_with_wider_experts_is_refused_with_both_shapes(released: TinyModel, tmp_path: Path) -> None:
    path = Path(shutil.copytree(released.path, tmp_path / "model"))
    edit_json(path / "config.json", set_to(intermediate_size=64))
    expected = re.escape("gate_up_proj_blocks has shape [6, 192, 2, 16], expected [6, 128, 2, 16]")
    with pytest.raises(InvalidArgument, match=expected), loaded(path):
        pass


def test_a_release_in_mxfp4_cannot_be_quantised_again(released: TinyModel) -> None:
    with (
        pytest.raises(InvalidArgument, match=r"quantised already \(mxfp4"),
        loaded(released.path, weight_format="q8_0"),
    ):
        pass
