"""Weights in pickles (.bin, .pt, .pth), opened without running anything they hold: only `enginectl convert` reads them.

Owns the finding of a checkpoint's pickle files and the reading of them with torch's `weights_only` loader, which knows
tensors and nothing else. torch is imported only here. Called by conversion.py.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pagoda.models import PICKLES, ModelError, check_file

_INDEX = "pytorch_model.bin.index.json"
_SHARD = re.compile(r"pytorch_model-\d+-of-\d+\.bin")
_NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin", "scheduler.bin", "rng_state.pth")
_WRAPPERS = ("state_dict", "model")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_FAULT = re.compile(r"WeightsUnpickler error: ([^\n]+)")

TensorRow = tuple[str, str, list[int], int, int]  # name, safetensors' type, shape, address, bytes


@dataclass(slots=True)
class PickledWeights:
    """Tensors of one checkpoint. They stay where torch mapped them as long as this object lives."""

    tensors: dict[str, Any] = field(default_factory=dict)

    def rows(self) -> list[TensorRow]:
        """Every tensor with the address of its bytes, which lie row by row without gaps."""
        return [_row(name, tensor) for name, tensor in self.tensors.items()]

    def drop_aliases(self) -> None:
        """Leaves out a tensor that shares all its memory with an earlier one, as a tied head does."""
        seen: set[tuple[Any, ...]] = set()
        for name, tensor in list(self.tensors.items()):
            key = (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)
            if key in seen and tensor.numel():
                del self.tensors[name]
            seen.add(key)


def find_pickles(path: Path) -> list[Path]:
    """The pickle files of a checkpoint: `path` itself, or those of a directory; [] when it has none.

    Raises ModelError for a directory with several of which none is the model, and for an index that is not one.
    """
    if path.is_file():
        return [path] if path.suffix in PICKLES else []
    if (path / _INDEX).is_file():
        return _indexed(path / _INDEX)
    files = sorted(file for file in path.iterdir() if file.suffix in PICKLES and file.name not in _NOT_WEIGHTS)
    whole = [file for file in files if file.name == "pytorch_model.bin"]
    shards = [file for file in files if _SHARD.fullmatch(file.name)]
    chosen = whole or shards or files
    if len(chosen) > 1 and not shards:
        names = ", ".join(file.name for file in chosen)
        raise ModelError(f"{path}: has several pickle files and no {_INDEX}; name one of them: {names}")
    return chosen


def load_pickles(files: list[Path]) -> PickledWeights:
    """Opens the files. Raises ModelError naming the file and why it is refused; nothing in it was executed."""
    try:
        import torch
    except ImportError:
        raise ModelError(
            f"{files[0]}: pickle files are read with torch, which is not installed; pip install torch"
        ) from None
    weights = PickledWeights()
    for file in files:
        check_file(file)
        room = file.stat().st_size
        for name, tensor in _state(file, _load(torch, file)).items():
            if not isinstance(tensor, torch.Tensor):
                continue
            if name in weights.tensors:
                raise ModelError(f"{file}: the tensor {name} is in another file, too")
            _check_tensor(file, name, tensor)
            room -= 0 if tensor.is_contiguous() else tensor.numel() * tensor.element_size()
            if room < 0:  # one number can stand for as many as its strides say
                raise ModelError(
                    f"{file}: tensor {name} of shape {list(tensor.shape)} takes more bytes than the file has"
                )
            weights.tensors[name] = tensor.detach().resolve_neg().contiguous()
    if not weights.tensors:
        raise ModelError(f"{files[0]}: holds no tensors")
    return weights


def _indexed(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = sorted(index.parent / name for name in names)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index}: is no index of a sharded model: {error!r}") from error
    for file in files:
        if file.parent != index.parent or not file.is_file():
            raise ModelError(f"{index}: names {file.name}, which is not a file beside it")
    return files


def _load(torch: Any, file: Path) -> Any:
    # Only the newer format, a zip archive without compression, can be mapped.
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # damaged archives raise RuntimeError, EOFError, KeyError, ...
        if found := _GLOBAL.search(str(error)):
            raise ModelError(
                f"{file}: refused, because it asks for {found[1]}, which is no tensor; nothing of it was executed"
            ) from None
        fault = _FAULT.search(str(error))
        reason = fault[1] if fault else (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "weights_only" in reason:  # torch's advice to read the file without that
            reason = "it is none, or damaged"
        raise ModelError(f"{file}: cannot be read as a torch checkpoint: {reason}") from None


def _state(file: Path, content: Any) -> Mapping[str, Any]:
    """The mapping from names to tensors, which training scripts wrap in another one."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ModelError(f"{file}: expected tensors by name, found {type(content).__name__}")
    return content


def _check_tensor(file: Path, name: str, tensor: Any) -> None:
    if not name or name == "__metadata__" or not name.isprintable():
        raise ModelError(f"{file}: a tensor is named {name!r}, expected printable characters and not __metadata__")
    if tensor.is_quantized or str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        raise ModelError(f"{file}: tensor {name} is {tensor.layout} {tensor.dtype}, expected a dense tensor")
    if tensor.dtype not in _types():
        raise ModelError(f"{file}: tensor {name} has the type {tensor.dtype}, which safetensors files do not know")


def _types() -> dict[Any, str]:
    import torch

    return {
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float64: "F64",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2: "F8_E5M2",
    }


def _row(name: str, tensor: Any) -> TensorRow:
    size = tensor.numel() * tensor.element_size()
    return name, _types()[tensor.dtype], list(tensor.shape), tensor.data_ptr(), size
