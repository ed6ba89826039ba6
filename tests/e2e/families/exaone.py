"""EXAONE 3 and 3.5 (transformers has no code for them: the reference is a Llama of the same weights) and EXAONE 4."""

from __future__ import annotations

from typing import Any

import gguf
import torch
import transformers
from e2e.families.llama import LLAMA3_ROPE, OLD_LLAMA3
from e2e.tiny_gguf import Converter, head_dim
from e2e.tiny_models import Directory, Edit, Family
from gguf import MODEL_ARCH

NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.layers": "transformer.h",
    "model.norm": "transformer.ln_f",
    "self_attn.q_proj": "attn.attention.q_proj",
    "self_attn.k_proj": "attn.attention.k_proj",
    "self_attn.v_proj": "attn.attention.v_proj",
    "self_attn.o_proj": "attn.attention.out_proj",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "mlp.gate_proj": "mlp.c_fc_0",
    "mlp.up_proj": "mlp.c_fc_1",
    "mlp.down_proj": "mlp.c_proj",
}
ODD_SIZES = {
    "vocab_size": 331,
    "hidden_size": 90,
    "intermediate_size": 77,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 10,
    "num_hidden_layers": 3,
}
WINDOWS = {"sliding_window": 20, "num_hidden_layers": 4}
NO_WINDOWS = {"sliding_window": None, "layer_types": ["full_attention"] * 2}


def renamed(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Tensors by EXAONE's names."""
    made = {}
    for name, weight in tensors.items():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        made[name] = weight
    return made


def edited(scaling: dict[str, Any] | None) -> Edit:
    """config.json as EXAONE 3.5 has it."""

    def edit(config: dict[str, Any]) -> None:
        config["architectures"] = ["ExaoneForCausalLM"]
        config["num_layers"] = config.pop("num_hidden_layers")
        config["layer_norm_epsilon"] = config.pop("rms_norm_eps")
        config["activation_function"] = config.pop("hidden_act")
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["rope_scaling"] = scaling
        for key in ("attention_bias", "mlp_bias", "model_type"):
            config.pop(key)

    return edit


def letters(config: dict[str, Any]) -> None:
    """Windows as EXAONE 4's first files said them."""
    config.pop("layer_types")
    config["sliding_window_pattern"] = "LLLG"


class ExaoneConverter(Converter):
    """Rows stay as they are."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_rope_dimension_count(head_dim(config))


class Exaone4Converter(Converter):
    """Which layers have windows is a list."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_vocab_size(config.vocab_size)
        if config.sliding_window is not None:
            writer.add_sliding_window(config.sliding_window)
            writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])


EXAONE = Family(
    transformers.LlamaConfig,
    transformers.LlamaForCausalLM,
    directories={
        "exaone": Directory({"rope_parameters": LLAMA3_ROPE}, repack=renamed, edit=edited(OLD_LLAMA3)),
        "exaone-tied": Directory({"tie_word_embeddings": True}, repack=renamed, edit=edited(None)),
        "exaone-odd-sizes": Directory(ODD_SIZES, max_shard_size="60KB", repack=renamed, edit=edited(None)),
    },
    ggufs={"exaone": {"rope_parameters": LLAMA3_ROPE}},
    converter=ExaoneConverter(MODEL_ARCH.EXAONE),
)

EXAONE4 = Family(
    transformers.Exaone4Config,
    transformers.Exaone4ForCausalLM,
    directories={
        "exaone4": Directory({**NO_WINDOWS, "tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE}),
        "exaone4-windows": Directory({**WINDOWS, "rope_parameters": LLAMA3_ROPE}, max_shard_size="60KB"),
        "exaone4-letters": Directory(WINDOWS, edit=letters),
        "exaone4-odd-sizes": Directory(
            {
                **ODD_SIZES,
                "head_dim": 14,
                "sliding_window": 7,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            }
        ),
    },
    ggufs={
        "exaone4": {**NO_WINDOWS, "tie_word_embeddings": True},
        "exaone4-windows": {**WINDOWS, "rope_parameters": LLAMA3_ROPE},
    },
    converter=Exaone4Converter(MODEL_ARCH.EXAONE4),
    equations=["exaone4-windows"],
)

FAMILIES = [EXAONE, EXAONE4]
