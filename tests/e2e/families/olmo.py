"""OLMo 1: norms without weights."""

from __future__ import annotations

from typing import Any

import gguf
import transformers
from e2e.tiny_gguf import LlamaConverter
from e2e.tiny_models import DROPPED, Directory, Family
from gguf import MODEL_ARCH


class OlmoConverter(LlamaConverter):
    """The epsilon is not in the configuration."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_layer_norm_eps(1e-5)


FAMILIES = [
    Family(
        transformers.OlmoConfig,
        transformers.OlmoForCausalLM,
        sizes={"head_dim": DROPPED, "rms_norm_eps": DROPPED},
        directories={
            "olmo": Directory(),
            "olmo-biases": Directory({"attention_bias": True, "tie_word_embeddings": True}, max_shard_size="60KB"),
            "olmo-odd-sizes": Directory(
                {
                    "vocab_size": 331,
                    "hidden_size": 90,
                    "intermediate_size": 77,
                    "num_attention_heads": 9,
                    "num_key_value_heads": 3,
                    "num_hidden_layers": 3,
                }
            ),
        },
        ggufs={"olmo": {}},
        converter=OlmoConverter(MODEL_ARCH.OLMO),
    )
]
