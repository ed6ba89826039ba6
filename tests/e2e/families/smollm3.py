"""SmolLM3."""

from __future__ import annotations

import transformers
from e2e.tiny_gguf import LlamaConverter
from e2e.tiny_models import DROPPED, Directory, Family
from gguf import MODEL_ARCH

SMOLLM3 = Family(
    transformers.SmolLM3Config,
    transformers.SmolLM3ForCausalLM,
    sizes={"head_dim": DROPPED, "num_hidden_layers": 5, "hidden_size": 48, "tie_word_embeddings": True},
    directories={
        "smollm3": Directory(
            edit=lambda config: [config.pop(key) for key in ("no_rope_layers", "tie_word_embeddings", "layer_types")]
        ),
        "smollm3-list-untied": Directory(
            {"num_hidden_layers": 3, "no_rope_layers": [0, 1, 0], "tie_word_embeddings": False}, max_shard_size="50KB"
        ),
        "smollm3-odd-sizes-biases": Directory(
            {
                "vocab_size": 333,
                "hidden_size": 54,
                "intermediate_size": 77,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "num_hidden_layers": 3,
                "no_rope_layer_interval": 2,
                "attention_bias": True,
                "mlp_bias": True,
            }
        ),
        "smollm3-window": Directory({"use_sliding_window": True, "sliding_window": 20}),
        "smollm3-old-window": Directory(
            {"use_sliding_window": True, "sliding_window": 20}, edit=lambda config: config.pop("layer_types")
        ),
    },
    ggufs={"smollm3": {"hidden_size": 64}},
    converter=LlamaConverter(MODEL_ARCH.SMOLLM3),
    equations=["smollm3"],
)

FAMILIES = [SMOLLM3]
