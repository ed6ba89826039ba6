"""Granite 3, dense."""

from __future__ import annotations

from typing import Any

import gguf
import transformers
from e2e.tiny_gguf import LlamaConverter
from e2e.tiny_models import DROPPED, Directory, Family
from gguf import MODEL_ARCH

MULTIPLIERS = {
    "embedding_multiplier": 1.7,
    "attention_multiplier": 0.31,
    "residual_multiplier": 0.6,
    "logits_scaling": 3.0,
}


class GraniteConverter(LlamaConverter):
    """A llama with factors."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


GRANITE = Family(
    transformers.GraniteConfig,
    transformers.GraniteForCausalLM,
    sizes={"head_dim": DROPPED, **MULTIPLIERS},
    directories={
        "granite": Directory(),
        "granite-tied": Directory({"tie_word_embeddings": True, "embedding_multiplier": 12.0}),
        "granite-odd-sizes-biases": Directory(
            {
                "vocab_size": 333,
                "hidden_size": 54,
                "intermediate_size": 77,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "attention_bias": True,
                "mlp_bias": True,
            },
            max_shard_size="50KB",
        ),
        "granite-multipliers-of-one": Directory(dict.fromkeys(MULTIPLIERS, 1.0)),
    },
    ggufs={"granite": {}, "granite-biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}},
    converter=GraniteConverter(MODEL_ARCH.GRANITE),
    equations=["granite"],
)

FAMILIES = [GRANITE]
