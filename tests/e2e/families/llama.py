"""Llama, and what is a Llama by architecture; Mistral."""

from __future__ import annotations

import torch
import transformers
from e2e.tiny_gguf import LlamaConverter
from e2e.tiny_models import Directory, Family, old_style_rope
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
OLD_LINEAR = {"type": "linear", "factor": 4.0}
OLD_LLAMA3 = {name: value for name, value in LLAMA3_ROPE.items() if name != "rope_theta"}

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
        "llama-sharded": Directory(max_shard_size="60KB"),
        "llama-bf16": Directory(dtype=torch.bfloat16),
        "llama-f16": Directory(dtype=torch.float16),
    },
    ggufs={
        "llama": {},
        "llama-tied": {"tie_word_embeddings": True},
        "llama-rope-linear": {"rope_parameters": LINEAR_ROPE},
        "llama-rope-llama3": {"rope_parameters": LLAMA3_ROPE},
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
    },
    equations=["mistral-window"],
)

FAMILIES = [LLAMA, MISTRAL]
