"""InternLM 2 and 2.5. transformers has no code for them: the reference is a Llama of the same weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from e2e.tiny_gguf import LlamaConverter, head_dim
from e2e.tiny_models import Directory, Edit, Family
from gguf import MODEL_ARCH

NAMES = {
    "model.embed_tokens": "model.tok_embeddings",
    "lm_head": "output",
    "self_attn.o_proj": "attention.wo",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}


def repack(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """q, k and v in one tensor: for each KV head its q heads, its k head, its v head."""
    kv_heads, made = config.num_key_value_heads, {}
    for name, weight in tensors.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            parts = [tensors[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            groups = [part.reshape(kv_heads, -1, head_dim(config), *part.shape[1:]) for part in parts]
            fused = torch.cat(groups, dim=1)
            made[name.replace("self_attn.q_proj", "attention.wqkv")] = fused.reshape(-1, *weight.shape[1:])
            continue
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        made[name] = weight
    return made


def edited(scaling: dict[str, Any] | None) -> Edit:
    """config.json as InternLM has it."""

    def edit(config: dict[str, Any]) -> None:
        config["architectures"] = ["InternLM2ForCausalLM"]
        config["bias"] = config.pop("attention_bias")
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["rope_scaling"] = scaling
        for key in ("mlp_bias", "head_dim", "model_type"):
            config.pop(key)

    return edit


ODD_SIZES = {
    "vocab_size": 331,
    "hidden_size": 90,
    "intermediate_size": 77,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 10,
    "num_hidden_layers": 3,
}

FAMILIES = [
    Family(
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        sizes={"attention_bias": False},
        directories={
            "internlm2": Directory(repack=repack, edit=edited({"type": "dynamic", "factor": 2.0})),
            "internlm2-biases": Directory(
                {"attention_bias": True, "tie_word_embeddings": True}, repack=repack, edit=edited(None)
            ),
            "internlm2-odd-sizes": Directory(ODD_SIZES, max_shard_size="60KB", repack=repack, edit=edited(None)),
        },
        ggufs={"internlm2": {}, "internlm2-biases": {"attention_bias": True}},
        converter=LlamaConverter(MODEL_ARCH.INTERNLM2),
        equations=["internlm2"],
    )
]
