"""Writes a reference model as a GGUF file, the way llama.cpp's converter does, with the `gguf` package.

Tensor names are the package's own. What a family's files have of their own (metadata, order of rows, split and fused
tensors, norms with another offset) is its Converter, in e2e/families.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType

FORMATS = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
    "q4_1": GGMLQuantizationType.Q4_1,
    "q5_0": GGMLQuantizationType.Q5_0,
    "q5_1": GGMLQuantizationType.Q5_1,
}

Arrays = Iterable[tuple[str, np.ndarray]]


class Converter:
    """A family that is converted like most. Subclasses override what differs; names are those of the state dict."""

    arch: gguf.MODEL_ARCH

    def __init__(self, arch: gguf.MODEL_ARCH) -> None:
        self.arch = arch

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        """What the converter writes for every text model."""
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(getattr(config, "num_key_value_heads", config.num_attention_heads))
        if getattr(config, "head_dim", None) is not None:
            writer.add_key_length(config.head_dim)
            writer.add_value_length(config.head_dim)
        if hasattr(config, "rms_norm_eps"):
            writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        if hasattr(config, "layer_norm_eps"):
            writer.add_layer_norm_eps(config.layer_norm_eps)
        add_rope(writer, config)

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        """The stored tensors that a parameter becomes. `data` is [..., rows, columns], with columns quantised already:
        rows may change places, never columns. Vectors are floats."""
        yield name, data

    def is_transposed(self, name: str) -> bool:
        """True for matrices [..., in, out] (Conv1D), which files have as [..., out, in]."""
        return False

    def kind(self, name: str, fmt: GGMLQuantizationType) -> GGMLQuantizationType:
        """How a parameter of more than one dimension is stored in a file of `fmt`."""
        return GGMLQuantizationType.F32 if name.endswith("norm.weight") else fmt

    def quantise(self, values: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
        """The rows of a matrix, or of several, as stored."""
        return np.asarray(gguf.quants.quantize(values, kind))

    def gguf_name(self, part: str, names: gguf.TensorNameMap) -> str:
        """The name of a stored tensor: of `names`, which must know it."""
        found = names.get_name(part, try_suffixes=(".weight", ".bias"))
        assert found is not None, f"the gguf package knows no {part} in {self.arch}"
        return found

    def extra_tensors(self, config: Any) -> Arrays:
        """Tensors by their GGUF names that are made from the configuration."""
        rope = config.rope_parameters
        if rope.get("rope_type") == "llama3":
            yield "rope_freqs.weight", llama3_factors(config)


class LlamaConverter(Converter):
    """The rows of q and k in the interleaved order that files of this architecture have."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim(config))

    def tensors(self, name: str, data: np.ndarray, config: Any) -> Arrays:
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        yield name, data if heads is None else interleaved_rows(data, heads)


def head_dim(config: Any) -> int:
    """As configurations have it, or as it follows."""
    own = getattr(config, "head_dim", None)
    return int(own if own is not None else config.hidden_size // config.num_attention_heads)


def interleaved_rows(data: np.ndarray, heads: int) -> np.ndarray:
    """Rows of rotary pairs (i, i + half) of each head as neighbours."""
    rows = data.shape[0]
    shape = (heads, 2, rows // heads // 2, *data.shape[1:])
    return np.ascontiguousarray(data.reshape(shape).swapaxes(1, 2).reshape(data.shape))


def add_rope(writer: gguf.GGUFWriter, config: Any) -> None:
    """Base and scaling; of models with two ropes, of both."""
    every = getattr(config, "rope_parameters", None)
    if every is None:
        return
    rope = every.get("full_attention", every)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "attention_factor" in rope:
            writer.add_rope_scaling_yarn_attn_factor(rope["attention_factor"])
        if "beta_fast" in rope:
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        if "beta_slow" in rope:
            writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    elif kind == "longrope":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
    if "sliding_attention" in every:
        writer.add_rope_freq_base_swa(every["sliding_attention"]["rope_theta"])


def llama3_factors(config: Any) -> np.ndarray:
    """What the converter writes for Llama 3.1: by how much each pair's frequency is divided."""
    rope, dim = config.rope_parameters, head_dim(config)
    factors = []
    for frequency in 1.0 / rope["rope_theta"] ** (np.arange(0, dim, 2) / dim):
        wavelength = 2 * np.pi / frequency
        turns = rope["original_max_position_embeddings"] / wavelength
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def write_gguf(reference: Any, dequantised: Any, converter: Converter, path: Path, fmt: str) -> None:
    """Writes the file and gives the weights that it holds to `dequantised`, a copy of `reference`."""
    config = reference.config.get_text_config()
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[converter.arch])
    converter.metadata(writer, config)
    if isinstance(config.eos_token_id, int):
        writer.add_eos_token_id(config.eos_token_id)
    for gguf_name, values in converter.extra_tensors(config):
        writer.add_tensor(gguf_name, values)
    names = gguf.get_tensor_name_map(converter.arch, config.num_hidden_layers)
    state = dequantised.state_dict()
    for name, weight in reference.state_dict().items():
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        stored, kind = weight.numpy(), GGMLQuantizationType.F32
        if weight.dim() > 1:
            kind = converter.kind(name, FORMATS[fmt])
            transposed = converter.is_transposed(name)
            stored = converter.quantise(np.ascontiguousarray(stored.swapaxes(-1, -2)) if transposed else stored, kind)
            values = np.array(gguf.quants.dequantize(stored, kind), dtype=np.float32)
            state[name].copy_(torch.from_numpy(values.swapaxes(-1, -2) if transposed else values))
        for part, data in converter.tensors(name, stored, config):
            writer.add_tensor(converter.gguf_name(part, names), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
