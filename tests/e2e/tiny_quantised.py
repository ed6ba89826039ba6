"""Writes a reference model as quantised Hugging Face checkpoints, one for each method and packing.

AWQ, GPTQ and the FP8 methods are packed here with numpy from the layouts that AutoAWQ, AutoGPTQ and transformers
publish; compressed-tensors packs and dequantises its own. Used by test_reference_quantised.py.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from e2e.tiny_models import TinyModel, edit_json
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
Packer = Callable[[torch.Tensor], tuple[Tensors, torch.Tensor]]
"""From a matrix [out, in] to its tensors by suffix, and what they stand for in f32."""

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""Which of eight adjacent outputs stands in nibble 0, 1, ... of their word."""


@dataclass(frozen=True, slots=True)
class Method:
    """A quantisation: what config.json says of it and how a matrix is packed."""

    config: Mapping[str, Any]
    pack: Packer


@dataclass(frozen=True, slots=True)
class Integers:
    """A matrix as scale * (q - zero), q in [0, 2^bits), scales and zeros for every group of columns."""

    bits: int
    q: np.ndarray  # [out, in]
    zeros: np.ndarray  # [out, groups]
    scales: np.ndarray  # [out, groups], f32 numbers that f16 has
    group_of: np.ndarray  # [in]

    def values(self) -> torch.Tensor:
        """What the integers stand for."""
        differences = (self.q.astype(np.int64) - self.zeros[:, self.group_of]).astype(np.float32)
        return torch.from_numpy(self.scales[:, self.group_of] * differences)


def save_quantised(reference: Any, path: Path, method: Method) -> TinyModel:
    """Writes all linear layers but the head packed; the result's reference has what the packed weights stand for."""
    reference.save_pretrained(path)
    dequantised = copy.deepcopy(reference)
    state: Tensors = dequantised.state_dict()
    tensors: Tensors = {}
    for name, weight in reference.state_dict().items():
        module = name.removesuffix(".weight")
        if weight.dim() != 2 or module in ("model.embed_tokens", "lm_head"):
            tensors[name] = weight
            continue
        packed, values = method.pack(weight)
        tensors.update({f"{module}.{suffix}": tensor.contiguous() for suffix, tensor in packed.items()})
        state[name].copy_(values)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    edit_json(path / "config.json", lambda config: config.update(quantization_config=dict(method.config)))
    return TinyModel(path, dequantised)


def quantise(weight: torch.Tensor, bits: int, group: int, symmetric: bool, scrambled: bool = False) -> Integers:
    """Rounds to nearest within groups of `group` columns (-1: all), which are scattered if `scrambled`."""
    matrix = weight.numpy()
    columns = matrix.shape[1]
    group = columns if group == -1 else group
    group_of = np.arange(columns) // group
    if scrambled:
        group_of = np.random.default_rng(5).permutation(group_of)
    top = 2**bits - 1
    members = [matrix[:, group_of == g] for g in range(columns // group)]
    high = np.stack([np.maximum(part.max(1), 1e-3) for part in members], 1)
    low = np.stack([np.minimum(part.min(1), -1e-3) for part in members], 1)
    if symmetric:
        scales = np.maximum(high, -low) / (top // 2)
        zeros = np.full_like(scales, top // 2 + 1)
    else:
        scales = (high - low) / top
        zeros = np.clip(np.rint(-low / scales), 0, top)
    scales = scales.astype(np.float16).astype(np.float32)
    q = np.clip(np.rint(matrix / scales[:, group_of]) + zeros[:, group_of], 0, top)
    return Integers(bits, q.astype(np.uint32), zeros.astype(np.uint32), scales, group_of)


def fill_words(numbers: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Adjacent numbers along `axis` put into 32-bit words from the lowest bits on."""
    per_word = 32 // bits
    shape = list(numbers.shape)
    shape[axis : axis + 1] = [shape[axis] // per_word, per_word]
    shifts = (np.arange(per_word, dtype=np.uint32) * bits).reshape([-1] + [1] * (numbers.ndim - 1 - axis))
    return np.bitwise_or.reduce(numbers.reshape(shape) << shifts, axis=axis + 1)


def words_tensor(words: np.ndarray) -> torch.Tensor:
    """As the I32 tensors that checkpoints have."""
    return torch.from_numpy(np.ascontiguousarray(words).view(np.int32))


def pack_awq(integers: Integers) -> Tensors:
    """AutoAWQ's format gemm."""

    def words(numbers: np.ndarray) -> torch.Tensor:  # [out, n] to [n, out/8]
        eights = numbers.T.reshape(numbers.shape[1], -1, 8)[:, :, AWQ_ORDER]
        return words_tensor(fill_words(eights.reshape(numbers.shape[1], -1), 4, 1))

    return {
        "qweight": words(integers.q),
        "qzeros": words(integers.zeros),
        "scales": torch.from_numpy(integers.scales.T.astype(np.float16)),
    }


def pack_gptq(integers: Integers, version: int) -> Tensors:
    """AutoGPTQ's format, which keeps zeros less one, or the second version, which keeps them."""
    zeros = fill_words(integers.zeros.T, integers.bits, 1)
    if version == 1:
        zeros = zeros - np.uint32(0x11111111 if integers.bits == 4 else 0x01010101)
    return {
        "qweight": words_tensor(fill_words(integers.q.T, integers.bits, 0)),
        "qzeros": words_tensor(zeros),
        "scales": torch.from_numpy(integers.scales.T.astype(np.float16)),
        "g_idx": torch.from_numpy(integers.group_of.astype(np.int32)),
    }


def awq(group: int) -> Method:
    """AutoAWQ with zero points. Weights in groups that cut blocks of 32 are rounded to f16, as its own kernels do."""

    def pack(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        integers = quantise(weight, 4, group, symmetric=False)
        values = integers.values()
        return pack_awq(integers), values if group % 32 == 0 or group == -1 else values.half().float()

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return Method({**config, "modules_to_not_convert": None}, pack)


def gptq(bits: int, group: int, symmetric: bool = True, version: int = 1, ordered: bool = False) -> Method:
    """AutoGPTQ or GPTQModel; `ordered` is desc_act, whose reference kernels round weights to f16."""

    def pack(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        integers = quantise(weight, bits, group, symmetric, scrambled=ordered)
        values = integers.values()
        multiplied_out = ordered or (bits == 8 and not symmetric)
        return pack_gptq(integers, version), values.half().float() if multiplied_out else values

    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": ordered, "sym": symmetric}
    return Method({**config, "checkpoint_format": "gptq" if version == 1 else "gptq_v2"}, pack)


def fp8(blocks: tuple[int, int] | None) -> Method:
    """FP8 of DeepSeek and Qwen3 with blocks of scales, or with one scale per matrix."""

    def pack(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        if blocks is None:
            scale = (weight.abs().max() / 448).reshape(())
            values = (weight / scale).to(torch.float8_e4m3fn)
            return {"weight": values, "weight_scale": scale}, values.float() * scale
        scales, spread = block_scales(weight, blocks)
        values = (weight / spread).to(torch.float8_e4m3fn)
        return {"weight": values, "weight_scale_inv": scales}, values.float() * spread

    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
    return Method({**config, "weight_block_size": None if blocks is None else list(blocks)}, pack)


def fbgemm() -> Method:
    """fbgemm's FP8 with one scale per output."""

    def pack(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        scale = weight.abs().amax(1, keepdim=True) / 448
        values = (weight / scale).to(torch.float8_e4m3fn)
        return {"weight": values, "weight_scale": scale}, values.float() * scale

    return Method({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, pack)


def block_scales(weight: torch.Tensor, blocks: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale of every block, and spread over the matrix. Blocks at the edges are cut short."""
    rows, columns = ([i // size for i in range(n)] for n, size in zip(weight.shape, blocks, strict=True))
    scales = torch.zeros(rows[-1] + 1, columns[-1] + 1)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = weight[i * blocks[0] : (i + 1) * blocks[0], j * blocks[1] : (j + 1) * blocks[1]]
            scales[i, j] = part.abs().max() / 448
    return scales, scales[rows][:, columns]


def compressed(fmt: str, scale_dtype: torch.dtype = torch.bfloat16, **weights: Any) -> Method:
    """A format of the compressed-tensors package, packed and dequantised by the package."""
    args = QuantizationArgs(**weights)
    inputs = None
    if fmt in ("int-quantized", "float-quantized"):
        inputs = QuantizationArgs(num_bits=8, type=args.type, strategy="token", dynamic=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, input_activations=inputs)
    compressor = BaseCompressor.get_value_from_registry(fmt)

    def pack(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        scale, zero_point = calculate_qparams(*extremes(weight, args), args)
        scale = scale.to(scale_dtype).float()
        state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point}
        packed = compressor.compress(state, scheme)
        values = compressor.decompress(packed, scheme)["weight"]
        packed["weight_scale"] = packed["weight_scale"].to(scale_dtype)
        return packed, values

    config = QuantizationConfig(
        config_groups={"group_0": scheme}, format=fmt, ignore=["lm_head"], quantization_status="compressed"
    )
    return Method(json.loads(config.model_dump_json()), pack)


def extremes(weight: torch.Tensor, args: QuantizationArgs) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and largest value of everything that shares a scale, in the shape of the scales."""
    if args.strategy == "tensor":
        return weight.min().reshape(1), weight.max().reshape(1)
    if args.strategy == "block":
        scales, _ = block_scales(weight, tuple(args.block_structure))
        return -448 * scales, 448 * scales
    group = weight.shape[1] if args.strategy == "channel" else args.group_size
    parts = weight.reshape(weight.shape[0], -1, group)
    return parts.amin(-1), parts.amax(-1)


METHODS: dict[str, Method] = {
    "awq": awq(32),
    "awq-rows": awq(-1),
    "awq-groups-of-16": awq(16),
    "gptq": gptq(4, 32),
    "gptq-rows": gptq(4, -1),
    "gptq-asymmetric": gptq(4, 32, symmetric=False),
    "gptq-v2": gptq(4, 32, symmetric=False, version=2),
    "gptq-activation-order": gptq(4, 32, ordered=True),
    "gptq-8bit": gptq(8, 32),
    "gptq-8bit-asymmetric": gptq(8, 32, symmetric=False),
    "w4a16": compressed("pack-quantized", num_bits=4, strategy="group", group_size=32),
    "w4a16-asymmetric": compressed("pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False),
    "w4a16-rows": compressed("pack-quantized", torch.float16, num_bits=4, strategy="channel"),
    "w8a16": compressed("pack-quantized", num_bits=8, strategy="channel"),
    "w8a8": compressed("int-quantized", num_bits=8, strategy="channel"),
    "w8a8-asymmetric": compressed("int-quantized", num_bits=8, strategy="channel", symmetric=False),
    "w8a8-matrix": compressed("naive-quantized", num_bits=8, strategy="tensor"),
    "fp8-dynamic": compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
    "fp8-matrix": compressed("float-quantized", torch.float32, num_bits=8, type="float", strategy="tensor"),
    "fp8-compressed-blocks": compressed(
        "float-quantized", num_bits=8, type="float", strategy="block", block_structure=[48, 32]
    ),
    "fp8-blocks": fp8((48, 32)),
    "fp8-static": fp8(None),
    "fbgemm": fbgemm(),
}
