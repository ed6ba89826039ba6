"""StableLM 3B and StableLM 2."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import transformers
from e2e.tiny_gguf import Arrays, Converter, head_dim
from e2e.tiny_models import DROPPED, Directory, Family
from gguf import MODEL_ARCH

SIDE_BY_SIDE = {"use_parallel_residual": True, "qk_layernorm": True}  # as StableLM 2 12B


def old_style(config: dict[str, Any]) -> None:
    """Files from before transformers 5; the share of a head that is rotated is left to the default."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    assert rope["partial_rotary_factor"] == 0.25


class StableLmConverter(Converter):
    """The norms of a layer's heads become one tensor."""

    def __init__(self) -> None:
        super().__init__(MODEL_ARCH.STABLELM)
        self.norms: dict[str, list[np.ndarray]] = {}

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_rope_dimension_count(int(config.rope_parameters["partial_rotary_factor"] * head_dim(config)))
        writer.add_parallel_residual(True)  # as real files have it, whatever the model
        self.norms = {}

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        if ".norms." not in name:
            yield name, data
            return
        base = name.split(".norms.")[0]
        seen = self.norms.setdefault(base, [])
        seen.append(data)
        if len(seen) == (config.num_attention_heads if "q_layernorm" in base else config.num_key_value_heads):
            yield f"{base}.weight", np.stack(seen)


FAMILIES = [
    Family(
        transformers.StableLmConfig,
        transformers.StableLmForCausalLM,
        sizes={"head_dim": DROPPED, "rms_norm_eps": DROPPED, "layer_norm_eps": 1e-5},
        directories={
            "stablelm": Directory({"num_key_value_heads": 4}),
            "stablelm-biases": Directory({"use_qkv_bias": True}, edit=old_style),
            "stablelm-parallel": Directory(SIDE_BY_SIDE, max_shard_size="60KB"),
            "stablelm-odd-sizes": Directory(
                {
                    "vocab_size": 331,
                    "hidden_size": 90,
                    "intermediate_size": 77,
                    "num_attention_heads": 5,
                    "num_key_value_heads": 1,
                    "num_hidden_layers": 3,
                    "qk_layernorm": True,
                    "tie_word_embeddings": True,
                }
            ),
        },
        ggufs={
            "stablelm": {"use_qkv_bias": True},
            "stablelm-parallel": SIDE_BY_SIDE,
        },
        converter=StableLmConverter(),
        equations=["stablelm-parallel"],
    )
]
