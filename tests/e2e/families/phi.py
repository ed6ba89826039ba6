"""Phi-3, 3.5 and 4-mini; Phi-1, 1.5 and 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import transformers
from e2e.tiny_gguf import Arrays, Converter
from e2e.tiny_models import DROPPED, Directory, Family
from gguf import MODEL_ARCH


def longrope(pairs: int, **more: Any) -> dict[str, Any]:
    """Divisors unlike each other."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1 + 0.03 * pair for pair in range(pairs)],
        "long_factor": [1.5 + 0.7 * pair for pair in range(pairs)],
        **more,
    }


def old_longrope(config: dict[str, Any]) -> None:
    """As Phi-3.5 and Phi-4-mini have it: the share that is rotated and the original context stand outside."""
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["partial_rotary_factor"] = parameters.pop("partial_rotary_factor", 1.0)
    config["original_max_position_embeddings"] = parameters.pop("original_max_position_embeddings")
    config["rope_scaling"] = {"type": "su", **{name: parameters[name] for name in ("short_factor", "long_factor")}}


SHORT = {"max_position_embeddings": 256, "original_max_position_embeddings": 256}
LONG = {"max_position_embeddings": 256, "original_max_position_embeddings": 48}


def rotary_dims(config: Any) -> int:
    """As the converter counts them."""
    share = config.rope_parameters.get("partial_rotary_factor", 1.0)
    return int(share * config.hidden_size) // int(config.num_attention_heads)


class Phi3Converter(Converter):
    """Writes few of the common keys, factors of longrope as tensors."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        writer.add_context_length(config.max_position_embeddings)
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(rotary_dims(config))
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_sliding_window(config.sliding_window or 0)
        if config.rope_parameters["rope_type"] == "longrope":
            scale = config.max_position_embeddings / config.original_max_position_embeddings
            factor = np.sqrt(1 + np.log(scale) / np.log(config.original_max_position_embeddings)) if scale > 1 else 1.0
            writer.add_rope_scaling_attn_factors(float(factor))

    def extra_tensors(self, config: Any) -> Arrays:
        if config.rope_parameters["rope_type"] == "longrope":
            yield "rope_factors_long.weight", np.array(config.rope_parameters["long_factor"], dtype=np.float32)
            yield "rope_factors_short.weight", np.array(config.rope_parameters["short_factor"], dtype=np.float32)


PHI3 = Family(
    transformers.Phi3Config,
    transformers.Phi3ForCausalLM,
    sizes={"head_dim": DROPPED},
    directories={
        "phi3": Directory(),
        "phi3-window": Directory({"sliding_window": 21, "num_key_value_heads": 4, "num_hidden_layers": 3}),
        "phi3-odd-sizes": Directory(
            {
                "vocab_size": 333,
                "hidden_size": 54,
                "intermediate_size": 77,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
            },
            max_shard_size="50KB",
        ),
        "phi3-partial-tied": Directory(
            {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.75}}
        ),
        "phi3-longrope-short": Directory({**SHORT, "rope_parameters": longrope(8)}),
        "phi3-longrope-long": Directory({**LONG, "rope_parameters": longrope(8)}),
        "phi3-longrope-factors": Directory(
            {**LONG, "rope_parameters": longrope(8, factor=3.0, attention_factor=1.3)},
        ),
        "phi3-old-longrope-partial": Directory(
            {**LONG, "rope_parameters": longrope(6, partial_rotary_factor=0.75)}, edit=old_longrope
        ),
    },
    ggufs={
        "phi3": {"sliding_window": 21},
        "phi3-longrope": {**LONG, "rope_parameters": longrope(6, partial_rotary_factor=0.75)},
    },
    converter=Phi3Converter(MODEL_ARCH.PHI3),
    equations=["phi3-old-longrope-partial", "phi3.q8_0"],
)


class Phi2Converter(Converter):
    """Writes no base, and the width of the MLP whatever the configuration says."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_attention_heads)
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_rope_dimension_count(rotary_dims(config))


class FusedPhi2Converter(Phi2Converter):
    """Older files have q, k and v in one tensor."""

    def __init__(self, arch: MODEL_ARCH) -> None:
        super().__init__(arch)
        self._parts: list[np.ndarray] = []

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        _, _, layer, *_, part, kind = name.split(".") if name.startswith("model.layers.") else ("", "", "", "", "")
        if part not in ("q_proj", "k_proj", "v_proj"):
            yield name, data
            return
        self._parts.append(data)
        of_kind = [part for part in self._parts if part.ndim == data.ndim]
        if part == "v_proj":
            yield f"transformer.h.{layer}.mixer.Wqkv.{kind}", np.concatenate(of_kind)
            self._parts = [part for part in self._parts if part.ndim != data.ndim]


_PHI_SIZES: Mapping[str, Any] = {
    "rms_norm_eps": DROPPED,
    "head_dim": DROPPED,
    "num_key_value_heads": 4,
    "layer_norm_eps": 1e-5,
    "intermediate_size": 256,
}

PHI = Family(
    transformers.PhiConfig,
    transformers.PhiForCausalLM,
    sizes=_PHI_SIZES,
    directories={
        "phi2": Directory(),
        "phi2-odd-sizes": Directory(
            {
                "vocab_size": 333,
                "hidden_size": 60,
                "intermediate_size": 77,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.4},
            },
            max_shard_size="50KB",
        ),
        "phi2-tied-relu": Directory({"tie_word_embeddings": True, "hidden_act": "relu"}),
    },
    ggufs={"phi2": {}},
    converter=Phi2Converter(MODEL_ARCH.PHI2),
    equations=["phi2"],
)

PHI_FUSED = Family(
    transformers.PhiConfig,
    transformers.PhiForCausalLM,
    sizes=_PHI_SIZES,
    ggufs={"phi2-fused": {}},
    converter=FusedPhi2Converter(MODEL_ARCH.PHI2),
)

FAMILIES = [PHI3, PHI, PHI_FUSED]
