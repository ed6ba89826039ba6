"""GPT-NeoX 20B and Pythia."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import transformers
from e2e.tiny_gguf import Arrays, Converter, head_dim
from e2e.tiny_models import DROPPED, Directory, Family
from gguf import MODEL_ARCH


def old_style(config: dict[str, Any]) -> None:
    """Rope as pythia's files say it."""
    rope = config.pop("rope_parameters")
    config["rotary_pct"] = rope["partial_rotary_factor"]
    config["rotary_emb_base"] = rope["rope_theta"]


class NeoxConverter(Converter):
    """The rows of q, k and v, which lie together for each head, become three stacks."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_rope_dimension_count(int(config.rope_parameters["partial_rotary_factor"] * head_dim(config)))
        writer.add_parallel_residual(config.use_parallel_residual)

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        if "query_key_value" in name:
            heads = data.reshape(config.num_attention_heads, 3, head_dim(config), *data.shape[1:])
            data = np.ascontiguousarray(heads.swapaxes(0, 1)).reshape(data.shape)
        yield name, data


FAMILIES = [
    Family(
        transformers.GPTNeoXConfig,
        transformers.GPTNeoXForCausalLM,
        sizes={
            "num_key_value_heads": DROPPED,
            "head_dim": DROPPED,
            "rms_norm_eps": DROPPED,
            "layer_norm_eps": 1e-5,
            "hidden_act": "gelu",
        },
        directories={
            "neox": Directory(edit=old_style),
            "neox-sequential": Directory({"use_parallel_residual": False}, max_shard_size="60KB"),
            "neox-gelu-fast": Directory(
                {
                    "hidden_act": "gelu_fast",
                    "attention_bias": False,
                    "rope_parameters": {
                        "rope_type": "default",
                        "rope_theta": 500.0,
                        "partial_rotary_factor": 1.0,
                    },
                }
            ),
            "neox-odd-sizes": Directory(
                {
                    "vocab_size": 331,
                    "hidden_size": 90,
                    "intermediate_size": 77,
                    "num_attention_heads": 5,
                    "num_hidden_layers": 3,
                    "tie_word_embeddings": True,
                }
            ),
        },
        ggufs={"neox": {}, "neox-sequential": {"use_parallel_residual": False}},
        converter=NeoxConverter(MODEL_ARCH.GPTNEOX),
        equations=["neox"],
    )
]
