"""Llama, and what is a Llama by architecture; Mistral."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from e2e.tiny_gguf import LlamaConverter
from e2e.tiny_models import DROPPED, Directory, Family, old_style_rope
from gguf import MODEL_ARCH

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
YARN_OPTIONS = {**YARN_ROPE, "attention_factor": 1.3, "beta_fast": 6.0, "beta_slow": 2.0}
OLD_LINEAR = {"type": "linear", "factor": 4.0}
OLD_LLAMA3 = {name: value for name, value in LLAMA3_ROPE.items() if name != "rope_theta"}

OLD_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

ODD_SIZES = {
    "vocab_size": 331,
    "hidden_size": 90,
    "intermediate_size": 77,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 10,
    "num_hidden_layers": 3,
}

LLAMA = Family(
    transformers.LlamaConfig,
    transformers.LlamaForCausalLM,
    directories={
        "llama": Directory(),
        "llama-tied": Directory({"tie_word_embeddings": True}),
        "llama-biases": Directory({"attention_bias": True, "mlp_bias": True}),
        "llama-odd-sizes": Directory(ODD_SIZES),
        "llama-mha": Directory({"num_key_value_heads": 4}),
        "llama-mqa": Directory({"num_key_value_heads": 1, "num_attention_heads": 8, "hidden_size": 128}),
        "llama-wide-heads": Directory({"head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1}),
        "llama-head-dim-128": Directory({"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 2}),
        "llama-head-dim-96": Directory({"head_dim": 96, "num_attention_heads": 4, "num_key_value_heads": 1}),
        "llama-head-dim-80": Directory({"head_dim": 80, "num_attention_heads": 2, "num_key_value_heads": 1}),
        "llama-head-dim-64": Directory({"head_dim": 64, "num_attention_heads": 2, "num_key_value_heads": 1}),
        "llama-gelu": Directory({"hidden_act": "gelu_pytorch_tanh"}),
        "llama-rope-llama3": Directory({"rope_parameters": LLAMA3_ROPE}),
        "llama-rope-linear": Directory({"rope_parameters": LINEAR_ROPE}),
        "llama-rope-theta": Directory({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        "llama-old-rope-theta": Directory(
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, edit=old_style_rope(None)
        ),
        "llama-old-rope-linear": Directory({"rope_parameters": LINEAR_ROPE}, edit=old_style_rope(OLD_LINEAR)),
        "llama-old-rope-llama3": Directory({"rope_parameters": LLAMA3_ROPE}, edit=old_style_rope(OLD_LLAMA3)),
        "llama-rope-dynamic": Directory({"rope_parameters": DYNAMIC_ROPE}),
        "llama-rope-yarn": Directory({"rope_parameters": YARN_ROPE}),
        "llama-rope-yarn-options": Directory({"rope_parameters": {**YARN_OPTIONS, "truncate": False}}),
        "llama-rope-yarn-mscale": Directory({"rope_parameters": {**YARN_ROPE, "mscale": 1.5, "mscale_all_dim": 0.7}}),
        "llama-rope-yarn-ratio": Directory(
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 3.0}}
        ),
        "llama-old-rope-yarn": Directory({"rope_parameters": YARN_ROPE}, edit=old_style_rope(OLD_YARN)),
        "llama-rope-longrope": Directory(
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "original_max_position_embeddings": 64,
                    "short_factor": [1.0 + 0.1 * pair for pair in range(8)],
                    "long_factor": [2.0 + 0.9 * pair for pair in range(8)],
                }
            }
        ),
        "yi": Directory({"num_key_value_heads": 1, "rope_parameters": {"rope_theta": 5000000.0}, "vocab_size": 336}),
        "falcon3": Directory({"head_dim": 64, "rope_parameters": {"rope_theta": 1000042.0}, "num_hidden_layers": 3}),
        "smollm2": Directory(
            {
                "hidden_size": 48,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "head_dim": DROPPED,
                "tie_word_embeddings": True,
                "rope_parameters": {"rope_theta": 100000.0},
            },
            edit=old_style_rope(None),
        ),
        "deepseek-llm": Directory({"num_key_value_heads": 4, "rope_parameters": LINEAR_ROPE, "vocab_size": 324}),
        "llama-sharded": Directory(max_shard_size="60KB"),
        "llama-bf16": Directory(dtype=torch.bfloat16),
        "llama-f16": Directory(dtype=torch.float16),
    },
    ggufs={
        "llama": {},
        "llama-tied": {"tie_word_embeddings": True},
        "llama-rope-linear": {"rope_parameters": LINEAR_ROPE},
        "llama-rope-llama3": {"rope_parameters": LLAMA3_ROPE},
        "llama-rope-yarn": {"rope_parameters": YARN_ROPE},
        "llama-rope-yarn-options": {"rope_parameters": YARN_OPTIONS},
        "llama-biases": {"attention_bias": True, "mlp_bias": True},
    },
    converter=LlamaConverter(MODEL_ARCH.LLAMA),
    equations=["llama", "llama.q4_1"],
)

MISTRAL = Family(
    transformers.MistralConfig,
    transformers.MistralForCausalLM,
    directories={
        "mistral": Directory({"sliding_window": None}),
        "mistral-window": Directory({"sliding_window": 24}),
        "mistral-tied-odd-sizes": Directory({**ODD_SIZES, "sliding_window": 17, "tie_word_embeddings": True}),
    },
    equations=["mistral-window"],
)

MINISTRAL = Family(
    transformers.MinistralConfig,
    transformers.MinistralForCausalLM,
    sizes={"sliding_window": 24, "num_hidden_layers": 3},
    directories={
        "ministral": Directory({"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
        "ministral-tied": Directory({"tie_word_embeddings": True}, edit=lambda config: config.pop("layer_types")),
        "ministral-odd-sizes": Directory({**ODD_SIZES, "sliding_window": 17}, max_shard_size="60KB"),
        "ministral-no-windows": Directory({"layer_types": ["full_attention"] * 3}, max_shard_size="60KB"),
    },
)

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "model_type": "pixtral",
}


def image_config(attn_implementation: str, **text: Any) -> Any:
    """The text model's configuration inside of an image model's."""
    return transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**text),
        vision_config=VISION,
        tie_word_embeddings=text["tie_word_embeddings"],
        attn_implementation=attn_implementation,
    )


MISTRAL3_IMAGE = Family(
    image_config,
    transformers.Mistral3ForConditionalGeneration,
    sizes={"sliding_window": None},
    directories={
        "mistral3-image": Directory(max_shard_size="60KB"),
        "mistral3-image-nested-names": Directory(repack=lambda tensors, config: tensors),
        "mistral3-image-tied-window": Directory({"tie_word_embeddings": True, "sliding_window": 24}),
    },
)

FAMILIES = [LLAMA, MISTRAL, MINISTRAL, MISTRAL3_IMAGE]
