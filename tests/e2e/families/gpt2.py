"""GPT-2."""

from __future__ import annotations

from typing import Any

import gguf
import torch
import transformers
from e2e.tiny_gguf import Arrays, Converter
from e2e.tiny_models import DROPPED, VOCAB, Directory, Family
from gguf import MODEL_ARCH

TIED = {"tie_word_embeddings": True}


def without_prefix(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """As gpt2's own file has them, with the causal masks that it carries along."""
    named = {name.removeprefix("transformer."): weight for name, weight in tensors.items()}
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8).tril() for i in range(config.num_hidden_layers)}
    return named | masks


def say_little(config: dict[str, Any]) -> None:
    """gpt2's own file is older than most keys."""
    for key in ("tie_word_embeddings", "n_inner", "scale_attn_weights", "add_cross_attention"):
        config.pop(key)


class Gpt2Converter(Converter):
    """Conv1D matrices are turned round."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        writer.add_block_count(config.n_layer)
        writer.add_context_length(config.n_positions)
        writer.add_embedding_length(config.n_embd)
        writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)

    def extra_tensors(self, config: Any) -> Arrays:
        return ()

    def is_transposed(self, name: str) -> bool:
        return name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))


FAMILIES = [
    Family(
        transformers.GPT2Config,
        transformers.GPT2LMHeadModel,
        sizes={
            "intermediate_size": DROPPED,
            "num_key_value_heads": DROPPED,
            "head_dim": DROPPED,
            "rms_norm_eps": DROPPED,
            "layer_norm_epsilon": 1e-5,
        },
        directories={
            "gpt2": Directory(TIED, repack=without_prefix, edit=say_little),
            "gpt2-prefixed": Directory(TIED, max_shard_size="60KB"),
            "gpt2-f16": Directory(dtype=torch.float16),
            "gpt2-odd-sizes": Directory(
                {
                    "vocab_size": 331,
                    "hidden_size": 90,
                    "n_inner": 77,
                    "num_attention_heads": 9,
                    "num_hidden_layers": 3,
                    "max_position_embeddings": 131,
                    "scale_attn_weights": False,
                    "activation_function": "gelu",
                }
            ),
        },
        ggufs={"gpt2": {**TIED, "vocab_size": VOCAB}},
        converter=Gpt2Converter(MODEL_ARCH.GPT2),
        equations=["gpt2"],
    )
]
