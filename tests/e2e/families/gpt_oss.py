"""gpt-oss, plain and with the experts in 4 bits as it was released."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from e2e.families.moe import EAGER, ODD_SIZES, ExpertsConverter, popped
from e2e.tiny_gguf import Arrays
from e2e.tiny_models import Directory, Family
from gguf import MODEL_ARCH, GGMLQuantizationType


class GptOssConverter(ExpertsConverter):
    """Experts are stored [in, out] with alternating gate and up; quantised files have them in mxfp4."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_sliding_window(config.sliding_window)
        writer.add_expert_feed_forward_length(config.intermediate_size)

    def kind(self, name: str, fmt: GGMLQuantizationType) -> GGMLQuantizationType:
        if name.endswith("_bias"):
            return GGMLQuantizationType.F32
        if ".experts." in name and fmt != GGMLQuantizationType.F32:
            return GGMLQuantizationType.MXFP4
        return super().kind(name, fmt)

    def is_transposed(self, name: str) -> bool:
        return ".experts." in name and not name.endswith("_bias")

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        prefix, _, part = name.partition(".experts.")
        suffix = "bias" if part.endswith("_bias") else "weight"
        if part.startswith("gate_up_proj"):
            yield f"{prefix}.experts.gate_proj.{suffix}", np.ascontiguousarray(data[:, ::2])
            yield f"{prefix}.experts.up_proj.{suffix}", np.ascontiguousarray(data[:, 1::2])
        elif part.startswith("down_proj"):
            yield f"{prefix}.experts.down_proj.{suffix}", data
        else:
            yield (f"{name}.weight" if name.endswith("sinks") else name), data


YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 64,
}
_GPT_OSS_SIZES: Mapping[str, Any] = {
    **EAGER,
    "intermediate_size": 96,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 18,
    "rope_parameters": YARN,
}


def released_rope(config: dict[str, Any]) -> None:
    """As the released files have it, from before transformers 5, which also say more than is read."""
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    config.pop("swiglu_alpha")
    config.update(initial_context_length=64, experts_per_token=config["num_experts_per_tok"])


class GptOssFamily(Family):
    """With sinks that take their share."""

    def make(self, config: Mapping[str, Any], seed: int = 1) -> Any:
        model = super().make(config, seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("sinks"):
                    weight.copy_(2 + 5 * weight)
        return model


GPT_OSS = GptOssFamily(
    transformers.GptOssConfig,
    transformers.GptOssForCausalLM,
    sizes=_GPT_OSS_SIZES,
    directories={
        "gpt-oss": Directory(edit=released_rope),
        "gpt-oss-top-1-odd-sizes": Directory(
            {**ODD_SIZES, "num_experts_per_tok": 1, "num_local_experts": 5}, max_shard_size="50KB"
        ),
        "gpt-oss-all-tied": Directory(
            {
                "num_local_experts": 3,
                "num_experts_per_tok": 3,
                "tie_word_embeddings": True,
                "num_hidden_layers": 3,
                "attention_bias": False,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            }
        ),
        "gpt-oss-plain-rope": Directory(
            {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "num_hidden_layers": 3},
            edit=popped("layer_types"),
        ),
    },
    ggufs={"gpt-oss": {"num_hidden_layers": 3}},
    converter=GptOssConverter(MODEL_ARCH.GPT_OSS),
    equations=["gpt-oss", "gpt-oss.q8_0"],
)


def mxfp4_blocks(weight: torch.Tensor) -> np.ndarray:
    """[experts, out, in / 32, 17] of [experts, in, out]: GGUF's exponent and half bytes of each block."""
    rows = np.ascontiguousarray(weight.float().numpy().swapaxes(-1, -2))
    return gguf.quants.quantize(rows, GGMLQuantizationType.MXFP4).reshape(*rows.shape[:2], -1, 17)


class Mxfp4Family(GptOssFamily):
    """Experts whose weights are 4-bit floats."""

    def make(self, config: Mapping[str, Any], seed: int = 1) -> Any:
        model = super().make(config, seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
                    blocks = mxfp4_blocks(weight)
                    stored = blocks.reshape(*blocks.shape[:2], -1)
                    values = gguf.quants.dequantize(stored, GGMLQuantizationType.MXFP4)
                    weight.copy_(torch.from_numpy(values.swapaxes(-1, -2).copy()))
        return model


def released_mxfp4(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Blocks and scales of their own, neighbouring values sharing a byte."""
    packed = dict(tensors)
    for name in tensors:
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            continue
        blocks = mxfp4_blocks(packed.pop(name))
        halves = np.concatenate([blocks[..., 1:] & 15, blocks[..., 1:] >> 4], axis=-1)  # in the order of the columns
        packed[f"{name}_blocks"] = torch.from_numpy(halves[..., ::2] | halves[..., 1::2] << 4)
        packed[f"{name}_scales"] = torch.from_numpy(blocks[..., 0].copy())
    return packed


def as_released(config: dict[str, Any]) -> None:
    """What the released config.json says."""
    released_rope(config)
    config["quantization_config"] = {
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
        "quant_method": "mxfp4",
    }


# Not among FAMILIES: kernels quantise the inputs of quantised experts, so bounds are others.
GPT_OSS_MXFP4 = Mxfp4Family(
    transformers.GptOssConfig,
    transformers.GptOssForCausalLM,
    sizes=_GPT_OSS_SIZES,
    directories={"gpt-oss-mxfp4": Directory(repack=released_mxfp4, edit=as_released)},
)

FAMILIES = [GPT_OSS]
