"""Gemma 1, 2 and 3, and the text part of Gemma 3's image models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
import transformers
from e2e.tiny_gguf import Arrays, Converter
from e2e.tiny_models import Directory, Family
from gguf import MODEL_ARCH

TIED = {"tie_word_embeddings": True}
ODD_SIZES = {
    "vocab_size": 331,
    "hidden_size": 60,
    "intermediate_size": 77,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 22,
    "num_hidden_layers": 3,
}


class GemmaConverter(Converter):
    """Norms have the one added that the model adds to its weights; the head is never written."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        yield name, data + np.float32(1) if name.endswith("norm.weight") else data


class Gemma2Converter(GemmaConverter):
    """With the caps and the window, but neither its pattern nor the scale of q."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)


class Gemma3Converter(GemmaConverter):
    """Older converters do not write the base of windowed layers, which is 10000."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        rope = config.rope_parameters["full_attention"]
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope["rope_type"] == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])
        local = config.rope_parameters["sliding_attention"]["rope_theta"]
        if local != 10000:
            writer.add_rope_freq_base_swa(local)
        if config.final_logit_softcapping:
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)


GEMMA = Family(
    transformers.GemmaConfig,
    transformers.GemmaForCausalLM,
    sizes=TIED,
    directories={
        "gemma": Directory(edit=lambda config: config.pop("tie_word_embeddings")),
        "gemma-odd-sizes-untied": Directory({**ODD_SIZES, "tie_word_embeddings": False}, max_shard_size="50KB"),
        "gemma-mqa-wide-legacy-gelu": Directory(
            {"num_key_value_heads": 1, "num_attention_heads": 2, "head_dim": 256},
            edit=lambda config: (config.update(hidden_act="gelu"), config.pop("head_dim")),
        ),
    },
    ggufs={"gemma": {"head_dim": 32}},
    converter=GemmaConverter(MODEL_ARCH.GEMMA),
    equations=["gemma"],
)

GEMMA2 = Family(
    transformers.Gemma2Config,
    transformers.Gemma2ForCausalLM,
    sizes={
        **TIED,
        "num_hidden_layers": 3,
        "sliding_window": 20,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
    },
    directories={
        "gemma2": Directory(),
        "gemma2-old": Directory(edit=lambda config: (config.pop("layer_types"), config.pop("tie_word_embeddings"))),
        "gemma2-odd-sizes-untied": Directory(
            {**ODD_SIZES, "tie_word_embeddings": False, "query_pre_attn_scalar": 10}, max_shard_size="50KB"
        ),
        "gemma2-no-caps": Directory(
            {"attn_logit_softcapping": None, "final_logit_softcapping": None, "query_pre_attn_scalar": 9}
        ),
        "gemma2-default-caps": Directory(
            {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256},
            edit=lambda config: [
                config.pop(key)
                for key in ("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar")
            ],
        ),
    },
    ggufs={"gemma2": {}, "gemma2-27b": {"num_hidden_layers": 46, "hidden_size": 32, "query_pre_attn_scalar": 8}},
    converter=Gemma2Converter(MODEL_ARCH.GEMMA2),
    equations=["gemma2", "gemma2.q8_0"],
)

TWO_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
OTHER_LOCAL = {**TWO_ROPES, "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
_GEMMA3_SIZES = {
    **TIED,
    "num_hidden_layers": 3,
    "sliding_window": 20,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}


def old_gemma3(config: dict[str, Any]) -> None:
    """As Gemma 3 was published: scaling of the global layers outside, a period of windows, no word of what is usual."""
    ropes = config.pop("rope_parameters")
    config["rope_theta"] = ropes["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
    config["rope_scaling"] = {"rope_type": "linear", "factor": ropes["full_attention"]["factor"]}
    config["sliding_window_pattern"] = 2
    for key in ("layer_types", "tie_word_embeddings"):
        config.pop(key)


GEMMA3 = Family(
    transformers.Gemma3TextConfig,
    transformers.Gemma3ForCausalLM,
    sizes=_GEMMA3_SIZES,
    directories={
        "gemma3": Directory(),
        "gemma3-two-ropes": Directory({"rope_parameters": OTHER_LOCAL}),
        "gemma3-old": Directory({"rope_parameters": OTHER_LOCAL}, edit=old_gemma3),
        "gemma3-seven-layers": Directory(
            {"num_hidden_layers": 7, "layer_types": None, "hidden_size": 32},
            edit=lambda config: config.pop("layer_types"),
        ),
        "gemma3-odd-sizes-untied": Directory(
            {**ODD_SIZES, "tie_word_embeddings": False, "query_pre_attn_scalar": 10, "final_logit_softcapping": 4.0},
            max_shard_size="50KB",
        ),
    },
    ggufs={
        "gemma3": {"num_hidden_layers": 7, "layer_types": None, "hidden_size": 32, "rope_parameters": TWO_ROPES},
        "gemma3-local-base": {
            "num_hidden_layers": 7,
            "layer_types": None,
            "hidden_size": 32,
            "rope_parameters": OTHER_LOCAL,
            "final_logit_softcapping": 4.0,
        },
    },
    converter=Gemma3Converter(MODEL_ARCH.GEMMA3),
    equations=["gemma3-two-ropes"],
)

VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
    "model_type": "siglip_vision_model",
}


def image_config(attn_implementation: str, **text: Any) -> Any:
    """The text model's configuration inside of an image model's."""
    return transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**text),
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=7,
        tie_word_embeddings=text["tie_word_embeddings"],
        boi_token_index=5,
        eoi_token_index=6,
        eos_token_id=text["eos_token_id"],
        attn_implementation=attn_implementation,
    )


def published_image_model(config: dict[str, Any]) -> None:
    """What the published files have of their text part: little that is as usual."""
    text: Mapping[str, Any] = config["text_config"]
    kept = ("hidden_size", "intermediate_size", "model_type", "num_hidden_layers", "rope_scaling", "sliding_window")
    config["text_config"] = {name: text[name] for name in kept if name in text} | {
        "vocab_size": text["vocab_size"],
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "query_pre_attn_scalar": text["query_pre_attn_scalar"],
        "max_position_embeddings": text["max_position_embeddings"],
    }


GEMMA3_IMAGE = Family(
    image_config,
    transformers.Gemma3ForConditionalGeneration,
    sizes=_GEMMA3_SIZES,
    directories={
        "gemma3-image": Directory(),
        "gemma3-image-nested-names": Directory(repack=lambda tensors, config: tensors),
        "gemma3-image-untied": Directory({"tie_word_embeddings": False}, max_shard_size="60KB"),
        "gemma3-image-published": Directory(
            {
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "num_hidden_layers": 6,
                "layer_types": None,
                "rms_norm_eps": 1e-6,
                "hidden_size": 32,
                "intermediate_size": 64,
                "rope_parameters": TWO_ROPES,
            },
            edit=published_image_model,
        ),
    },
)

FAMILIES = [GEMMA, GEMMA2, GEMMA3, GEMMA3_IMAGE]
