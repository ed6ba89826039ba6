"""Writes a reference model as a GGUF file, the way llama.cpp's converter does, with the `gguf` package."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from e2e.tiny_models import TinyModel
from gguf import GGMLQuantizationType

FORMATS = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
    "q4_1": GGMLQuantizationType.Q4_1,
}

_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def save_gguf(reference: Any, path: Path, fmt: str) -> TinyModel:
    """Writes matrices in `fmt`, vectors in f32; the result's reference has the dequantised weights."""
    config = reference.config
    writer = gguf.GGUFWriter(path, config.model_type)
    _add_sizes(writer, config)
    dequantised = copy.deepcopy(reference)
    state = dequantised.state_dict()
    tied = config.tie_word_embeddings
    for name, weight in reference.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        stored = weight.numpy()
        if weight.dim() == 1:
            writer.add_tensor(
                _gguf_name(name), stored if config.model_type != "llama" else _permuted(stored, name, config)
            )
            continue
        data = gguf.quants.quantize(stored, FORMATS[fmt])
        state[name].copy_(torch.from_numpy(np.array(gguf.quants.dequantize(data, FORMATS[fmt]), dtype=np.float32)))
        if config.model_type == "llama":  # blocks lie along rows, so whole rows can change places
            data = _permuted(data, name, config)
        writer.add_tensor(_gguf_name(name), data, raw_dtype=FORMATS[fmt])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TinyModel(path, dequantised)


def _add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_eos_token_id(config.eos_token_id)
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(config))


def _llama3_factors(config: Any) -> np.ndarray:
    """What the converter writes for Llama 3.1: by how much each pair's frequency is divided."""
    rope, dim = config.rope_parameters, config.head_dim
    factors = []
    for frequency in 1.0 / rope["rope_theta"] ** (np.arange(0, dim, 2) / dim):
        wavelength = 2 * np.pi / frequency
        turns = rope["original_max_position_embeddings"] / wavelength
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def _gguf_name(name: str) -> str:
    base, kind = name.rsplit(".", 1)
    if base in _TOP:
        return f"{_TOP[base]}.{kind}"
    _, _, layer, part = base.split(".", 3)
    return f"blk.{layer}.{_LAYER[part]}.{kind}"


def _permuted(data: np.ndarray, name: str, config: Any) -> np.ndarray:
    """Rows of q and k in the interleaved order that llama files use."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return data
    rows = data.shape[0]
    shape = (heads, 2, rows // heads // 2, *data.shape[1:])
    return np.ascontiguousarray(data.reshape(shape).swapaxes(1, 2).reshape(data.shape))
