"""The tiny models that the end-to-end tests run on, by name, and the instruction sets of this machine."""

from __future__ import annotations

from typing import Any

import torch
from e2e.tiny_models import old_style_rope

from pagoda.config import system_info

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

# name -> (family, configuration, how it is saved)
DIRECTORIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {}, {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}, {}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}, {}),
    "llama-odd-sizes": (
        "llama",
        {
            "vocab_size": 331,
            "hidden_size": 90,
            "intermediate_size": 77,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 10,
            "num_hidden_layers": 3,
        },
        {},
    ),
    "llama-mha": ("llama", {"num_key_value_heads": 4}, {}),
    "llama-mqa": ("llama", {"num_key_value_heads": 1, "num_attention_heads": 8, "hidden_size": 128}, {}),
    "llama-wide-heads": ("llama", {"head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1}, {}),
    "llama-head-dim-128": ("llama", {"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 2}, {}),
    "llama-head-dim-96": ("llama", {"head_dim": 96, "num_attention_heads": 4, "num_key_value_heads": 1}, {}),
    "llama-head-dim-80": ("llama", {"head_dim": 80, "num_attention_heads": 2, "num_key_value_heads": 1}, {}),
    "llama-head-dim-64": ("llama", {"head_dim": 64, "num_attention_heads": 2, "num_key_value_heads": 1}, {}),
    "llama-gelu": ("llama", {"hidden_act": "gelu_pytorch_tanh"}, {}),
    "llama-rope-llama3": ("llama", {"rope_parameters": LLAMA3_ROPE}, {}),
    "llama-rope-linear": ("llama", {"rope_parameters": LINEAR_ROPE}, {}),
    "llama-rope-theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, {}),
    "llama-old-rope-theta": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"edit": old_style_rope(None)},
    ),
    "llama-old-rope-linear": ("llama", {"rope_parameters": LINEAR_ROPE}, {"edit": old_style_rope(OLD_LINEAR)}),
    "llama-old-rope-llama3": ("llama", {"rope_parameters": LLAMA3_ROPE}, {"edit": old_style_rope(OLD_LLAMA3)}),
    "llama-sharded": ("llama", {}, {"max_shard_size": "60KB"}),
    "mistral": ("mistral", {"sliding_window": None}, {}),
    "mistral-window": ("mistral", {"sliding_window": 24}, {}),
    "qwen2": ("qwen2", {}, {"edit": lambda config: config.pop("head_dim")}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1, "num_hidden_layers": 3},
        {},
    ),
    "qwen2-old-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1, "num_hidden_layers": 3},
        {"edit": lambda config: config.pop("layer_types")},
    ),
    "qwen3": ("qwen3", {"head_dim": 32}, {}),
    "qwen3-tied": ("qwen3", {"head_dim": 24, "tie_word_embeddings": True}, {}),
    "llama-bf16": ("llama", {}, {"dtype": torch.bfloat16}),
    "llama-f16": ("llama", {}, {"dtype": torch.float16}),
    "qwen3-bf16": ("qwen3", {"head_dim": 64}, {"dtype": torch.bfloat16}),
}

# name -> (family, configuration); every one can be had in every format
GGUF_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-rope-linear": ("llama", {"rope_parameters": LINEAR_ROPE}),
    "llama-rope-llama3": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
}


# Instruction sets from the simplest on; a machine that has one has those before it.
_ISAS = ["portable", "avx2", "avx512"]
ISAS = _ISAS[: _ISAS.index(system_info()["isa"]) + 1]
