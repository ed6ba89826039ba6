"""Mixtures of experts: Mixtral, Qwen2-MoE, Qwen3-MoE, Granite-MoE and OLMoE."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import torch
import transformers
from e2e.families.granite import MULTIPLIERS, GraniteConverter
from e2e.tiny_gguf import Arrays, Converter, LlamaConverter
from e2e.tiny_models import DROPPED, Directory, Edit, Family
from gguf import MODEL_ARCH, GGMLQuantizationType

ODD_SIZES = {
    "vocab_size": 333,
    "hidden_size": 54,
    "intermediate_size": 77,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 6,
    "num_hidden_layers": 3,
}
EAGER = {"experts_implementation": "eager"}  # the others want sizes of a multiple of 4
QWEN_SIZES = {**EAGER, "moe_intermediate_size": 96, "num_experts": 5, "num_experts_per_tok": 2}


def as_computed(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Stored by the names that transformers has in memory, as `save_original_format=False` leaves them."""
    return tensors


def popped(*keys: str) -> Edit:
    """Leaves members of config.json out."""

    def edit(config: dict[str, Any]) -> None:
        for key in keys:
            config.pop(key)

    return edit


class ExpertsConverter(Converter):
    """Gate and up of all experts become a tensor each; routers are never quantised."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_expert_count(getattr(config, "num_experts", None) or config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)

    def kind(self, name: str, fmt: GGMLQuantizationType) -> GGMLQuantizationType:
        routes = name.endswith(("mlp.gate.weight", "router.weight", "shared_expert_gate.weight"))
        return GGMLQuantizationType.F32 if routes else super().kind(name, fmt)

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        layer, _, part = name.rpartition(".experts.")
        prefix = f"{layer.rpartition('.')[0]}.mlp.experts"
        if part == "gate_up_proj":
            rows = data.shape[1] // 2
            yield f"{prefix}.gate_proj.weight", np.ascontiguousarray(data[:, :rows])
            yield f"{prefix}.up_proj.weight", np.ascontiguousarray(data[:, rows:])
        elif part == "down_proj":
            yield f"{prefix}.down_proj.weight", data
        else:
            yield from super().tensors(name, data, config)


class MixtralConverter(ExpertsConverter, LlamaConverter):
    """A llama with experts."""


class NumberedConverter(MixtralConverter):
    """As files were written at first: each expert has its own tensors."""

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        for part, values in super().tensors(name, data, config):
            if ".experts." not in part:
                yield part, values
                continue
            layer, matrix = part.split(".")[2], part.split(".")[-2].removesuffix("_proj")
            for number, expert in enumerate(values):
                yield f"blk.{layer}.ffn_{matrix}.{number}.weight", expert

    def gguf_name(self, part: str, names: gguf.TensorNameMap) -> str:
        return part if part.startswith("blk.") else super().gguf_name(part, names)


MIXTRAL_SIZES = {**EAGER, "intermediate_size": 96, "num_local_experts": 6}

MIXTRAL = Family(
    transformers.MixtralConfig,
    transformers.MixtralForCausalLM,
    sizes=MIXTRAL_SIZES,
    directories={
        "mixtral": Directory(),
        "mixtral-top-1-window-tied": Directory(
            {"num_experts_per_tok": 1, "sliding_window": 21, "tie_word_embeddings": True}
        ),
        "mixtral-all-odd-sizes": Directory(
            {**ODD_SIZES, "num_local_experts": 3, "num_experts_per_tok": 3}, max_shard_size="50KB"
        ),
        "mixtral-as-computed": Directory({"head_dim": DROPPED}, repack=as_computed),
    },
    ggufs={"mixtral": {}, "mixtral-top-1-tied": {"num_experts_per_tok": 1, "tie_word_embeddings": True}},
    converter=MixtralConverter(MODEL_ARCH.LLAMA),
    equations=["mixtral-top-1-window-tied"],
)

MIXTRAL_NUMBERED = Family(
    transformers.MixtralConfig,
    transformers.MixtralForCausalLM,
    sizes=MIXTRAL_SIZES,
    ggufs={"mixtral-numbered": {}},
    converter=NumberedConverter(MODEL_ARCH.LLAMA),
)


class QwenConverter(ExpertsConverter):
    """With the sizes of experts beside that of an MLP."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        if hasattr(config, "shared_expert_intermediate_size"):
            writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


WINDOWS = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3, "num_hidden_layers": 4}

QWEN2_MOE = Family(
    transformers.Qwen2MoeConfig,
    transformers.Qwen2MoeForCausalLM,
    sizes={**QWEN_SIZES, "shared_expert_intermediate_size": 128},
    directories={
        "qwen2-moe": Directory({"head_dim": DROPPED}),
        "qwen2-moe-mixed-odd-sizes": Directory(
            {
                **ODD_SIZES,
                "num_hidden_layers": 5,
                "decoder_sparse_step": 2,
                "mlp_only_layers": [1],
                "moe_intermediate_size": 35,
                "shared_expert_intermediate_size": 43,
                "norm_topk_prob": True,
                "qkv_bias": False,
            },
            max_shard_size="50KB",
        ),
        "qwen2-moe-window-tied-all": Directory({**WINDOWS, "tie_word_embeddings": True, "num_experts_per_tok": 5}),
        "qwen2-moe-old-window": Directory({**WINDOWS, "num_experts_per_tok": 3}, edit=popped("layer_types")),
        "qwen2-moe-as-computed": Directory({"mlp_only_layers": [0]}, repack=as_computed),
    },
    ggufs={"qwen2-moe": {"head_dim": DROPPED}},
    converter=QwenConverter(MODEL_ARCH.QWEN2MOE),
    equations=["qwen2-moe-mixed-odd-sizes", "qwen2-moe.q8_0"],
)

QWEN3_MOE = Family(
    transformers.Qwen3MoeConfig,
    transformers.Qwen3MoeForCausalLM,
    sizes={**QWEN_SIZES, "head_dim": 32, "norm_topk_prob": True},
    directories={
        "qwen3-moe": Directory({"num_experts": 8, "num_experts_per_tok": 3}),
        "qwen3-moe-mixed-tied": Directory(
            {
                "num_hidden_layers": 4,
                "mlp_only_layers": [0, 2],
                "attention_bias": True,
                "norm_topk_prob": False,
                "tie_word_embeddings": True,
            }
        ),
        "qwen3-moe-top-1-odd-sizes": Directory(
            {
                **ODD_SIZES,
                "head_dim": 10,
                "moe_intermediate_size": 35,
                "num_experts_per_tok": 1,
                "use_sliding_window": True,
                "sliding_window": 19,
            },
            max_shard_size="50KB",
        ),
        "qwen3-moe-all": Directory({"num_experts": 3, "num_experts_per_tok": 3}),
        "qwen3-moe-bf16": Directory({"num_experts_per_tok": 5}, dtype=torch.bfloat16),
    },
    ggufs={"qwen3-moe": {}, "qwen3-moe-tied": {"tie_word_embeddings": True}},
    converter=QwenConverter(MODEL_ARCH.QWEN3MOE),
)


class GraniteMoeConverter(ExpertsConverter, GraniteConverter):
    """The expert that every token passes has its gate and up split too."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        if getattr(config, "shared_intermediate_size", 0):
            writer.add_expert_shared_feed_forward_length(config.shared_intermediate_size)

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        if name.endswith("shared_mlp.input_linear.weight"):
            prefix = name.replace("shared_mlp.input_linear.weight", "mlp.shared_expert")
            gate, up = np.split(data, 2)
            yield f"{prefix}.gate_proj.weight", gate
            yield f"{prefix}.up_proj.weight", up
        else:
            yield from super().tensors(name.replace("router.weight", "router.layer.weight"), data, config)


_GRANITE_SIZES = {**EAGER, "head_dim": DROPPED, **MULTIPLIERS, "intermediate_size": 96, "num_local_experts": 5}
_GRANITE_ODD_SIZES = {**ODD_SIZES, "head_dim": DROPPED, "attention_bias": True}

GRANITE_MOE = Family(
    transformers.GraniteMoeConfig,
    transformers.GraniteMoeForCausalLM,
    sizes=_GRANITE_SIZES,
    directories={
        "granite-moe": Directory(),
        "granite-moe-tied-all": Directory({"tie_word_embeddings": True, "num_experts_per_tok": 5}),
        "granite-moe-top-1-odd-sizes": Directory(
            {**_GRANITE_ODD_SIZES, "num_experts_per_tok": 1}, max_shard_size="50KB"
        ),
        "granite-moe-as-computed": Directory({"num_experts_per_tok": 3}, repack=as_computed),
    },
    ggufs={"granite-moe": {"tie_word_embeddings": True}},
    converter=GraniteMoeConverter(MODEL_ARCH.GRANITE_MOE),
)

GRANITE_MOE_SHARED = Family(
    transformers.GraniteMoeSharedConfig,
    transformers.GraniteMoeSharedForCausalLM,
    sizes={**_GRANITE_SIZES, "shared_intermediate_size": 64},
    directories={
        "granite-moe-shared": Directory(),
        "granite-moe-shared-odd-sizes": Directory({**_GRANITE_ODD_SIZES, "shared_intermediate_size": 21}),
        "granite-moe-shared-none": Directory({"shared_intermediate_size": 0, "tie_word_embeddings": True}),
        "granite-moe-shared-as-computed": Directory(repack=as_computed),
    },
    ggufs={"granite-moe-shared": {}},
    converter=GraniteMoeConverter(MODEL_ARCH.GRANITE_MOE),
)

HYBRID_SIZES = {
    "mamba_n_heads": 2,
    "layer_types": ["full_attention", "full_attention"],
    "position_embedding_type": "rope",
    "shared_intermediate_size": 64,
}


def as_attention(config: dict[str, Any]) -> None:
    """What the released files call such layers."""
    config["layer_types"] = ["attention"] * len(config["layer_types"])


GRANITE_HYBRID = Family(
    transformers.GraniteMoeHybridConfig,
    transformers.GraniteMoeHybridForCausalLM,
    sizes={**_GRANITE_SIZES, **HYBRID_SIZES},
    directories={
        "granite-hybrid-moe": Directory({"position_embedding_type": None}),
        "granite-hybrid-dense": Directory({"num_local_experts": 0, "num_experts_per_tok": 0}, edit=as_attention),
        "granite-hybrid-dense-odd-sizes": Directory(
            {
                **_GRANITE_ODD_SIZES,
                "layer_types": ["full_attention"] * 3,
                "num_local_experts": 0,
                "shared_intermediate_size": 35,
                "tie_word_embeddings": True,
            },
            max_shard_size="50KB",
        ),
    },
)

OLMOE = Family(
    transformers.OlmoeConfig,
    transformers.OlmoeForCausalLM,
    sizes={**EAGER, "head_dim": DROPPED, "intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 3},
    directories={
        "olmoe": Directory(),
        "olmoe-normalised-tied": Directory({"norm_topk_prob": True, "tie_word_embeddings": True}),
        "olmoe-top-1-odd-sizes": Directory(
            {**ODD_SIZES, "head_dim": DROPPED, "attention_bias": True, "num_experts_per_tok": 1}, max_shard_size="50KB"
        ),
        "olmoe-all": Directory({"num_experts": 4, "num_experts_per_tok": 4}),
        "olmoe-as-computed": Directory(repack=as_computed),
    },
    ggufs={"olmoe": {"num_experts": 6}},
    converter=ExpertsConverter(MODEL_ARCH.OLMOE),
)


FAMILIES = [
    MIXTRAL,
    MIXTRAL_NUMBERED,
    QWEN2_MOE,
    QWEN3_MOE,
    GRANITE_MOE,
    GRANITE_MOE_SHARED,
    GRANITE_HYBRID,
    OLMOE,
]
