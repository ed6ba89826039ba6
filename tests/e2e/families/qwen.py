"""Qwen2 (2.5) and Qwen3, dense."""

from __future__ import annotations

import torch
import transformers
from e2e.tiny_gguf import Converter
from e2e.tiny_models import Directory, Family
from gguf import MODEL_ARCH

WINDOWS = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1, "num_hidden_layers": 3}

ODD_SIZES = {
    "vocab_size": 331,
    "hidden_size": 90,
    "intermediate_size": 77,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 3,
}

QWEN2 = Family(
    transformers.Qwen2Config,
    transformers.Qwen2ForCausalLM,
    directories={
        "qwen2": Directory(edit=lambda config: config.pop("head_dim")),
        "qwen2-window": Directory(WINDOWS),
        "qwen2-old-window": Directory(WINDOWS, edit=lambda config: config.pop("layer_types")),
        "qwen2-tied-odd-sizes": Directory(
            {**ODD_SIZES, "head_dim": 10, "tie_word_embeddings": True},
            max_shard_size="60KB",
            edit=lambda config: config.pop("head_dim"),
        ),
    },
    ggufs={"qwen2": {}},
    converter=Converter(MODEL_ARCH.QWEN2),
    equations=["qwen2.q8_0"],
)

QWEN3 = Family(
    transformers.Qwen3Config,
    transformers.Qwen3ForCausalLM,
    sizes={"head_dim": 32},
    directories={
        "qwen3": Directory(),
        "qwen3-tied": Directory({"head_dim": 24, "tie_word_embeddings": True}),
        "qwen3-bf16": Directory({"head_dim": 64}, dtype=torch.bfloat16),
        "qwen3-odd-sizes": Directory({**ODD_SIZES, "head_dim": 18, "attention_bias": True}, max_shard_size="60KB"),
    },
    ggufs={"qwen3": {}},
    converter=Converter(MODEL_ARCH.QWEN3),
    equations=["qwen3-bf16"],
)

FAMILIES = [QWEN2, QWEN3]
