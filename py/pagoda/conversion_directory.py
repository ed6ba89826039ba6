"""The files beside the weights of a converted directory: config.json with what the conversion changed, the rest copied.

Called by conversion.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pagoda.models import ModelError

_COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "additional_chat_templates/*")
_INDEX = "model.safetensors.index.json"
_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_QUANTISATIONS = ("quantization_config", "compression_config")
_QUANTISATION_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


def read_config(directory: Path) -> dict[str, Any]:
    """config.json. Raises ModelError naming what is wrong with it."""
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError(f"{directory}: config.json is missing; it belongs beside the weights")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: must be a JSON object, got {type(content).__name__}")
    return content


def is_quantised(config: Mapping[str, Any]) -> bool:
    """Whether the weights beside this config.json are quantised by a Hugging Face method."""
    return any(config.get(key) is not None for key in _QUANTISATIONS)


def copy_files(source: Path, target: Path, weight_format: str) -> None:
    """Copies everything but weights, their indices and code; what describes a quantisation only with its weights."""
    left_out = ("config.json", *(_QUANTISATION_FILES if weight_format != "auto" else ()))
    for pattern in _COPIED:
        for file in sorted(source.glob(pattern)):
            if not file.is_file() or file.name.endswith(".index.json") or file.name in left_out:
                continue
            place = target / file.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place)


def foreign_entry(directory: Path) -> str:
    """Why `directory` is none that a conversion wrote: what is missing or does not belong there; "" if it is one."""
    entries = sorted(directory.iterdir())
    for wanted in ("config.json", "*.safetensors"):
        if not any(fnmatch(entry.name, wanted) for entry in entries):
            return f"it has no {wanted}"
    patterns = ("*.safetensors", *(pattern for pattern in _COPIED if "/" not in pattern))
    for entry in entries:
        is_known = any(fnmatch(entry.name, pattern) for pattern in patterns)
        if entry.is_dir() != (entry.name == "additional_chat_templates") or not (entry.is_dir() or is_known):
            return f"it holds {entry.name}"
    return ""


def write_config(
    target: Path, config: Mapping[str, Any], weight_format: str, plain_modules: Sequence[str] = ()
) -> None:
    """Writes config.json for weights that were converted to `weight_format`."""
    content = dict(config)
    if weight_format in _DTYPES:
        for key in _QUANTISATIONS:
            content.pop(key, None)
        content["torch_dtype" if "torch_dtype" in content else "dtype"] = _DTYPES[weight_format]
    elif weight_format != "auto":
        content["quantization_config"] = _quantisation(weight_format, plain_modules)
    _write_json(target / "config.json", content)


def write_index(target: Path, files: Iterable[tuple[str, str]], total_bytes: int) -> None:
    """The index of a model in several files: `files` has (tensor, file) for each tensor."""
    _write_json(target / _INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": dict(files)})


def _quantisation(weight_format: str, plain_modules: Sequence[str]) -> dict[str, Any]:
    """quantization_config of compressed-tensors, weights only."""
    weights: dict[str, Any] = {
        "num_bits": 4 if weight_format == "int4" else 8,
        "type": "float" if weight_format == "f8_e4m3" else "int",
        "symmetric": weight_format != "int4",
        "strategy": "channel" if weight_format == "f8_e4m3" else "group",
        "group_size": None if weight_format == "f8_e4m3" else 32,
        "dynamic": False,
        "observer": "minmax",
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized" if weight_format == "f8_e4m3" else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": None,
                "output_activations": None,
            }
        },
        "ignore": list(plain_modules),
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
