"""Pagoda's configuration: the sections `model`, `engine`, `server` and `sampling` from a YAML file, `--set` and
flags.

Owns the merge (flag > --set > file > default; no environment variables) and the result, an immutable `Config` that
knows where each value came from. Also the Python face of the engine's option and error types. Used by the server,
`LLM` and `enginectl`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import stat
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagoda import _core
from pagoda._core import (
    ENGINE_FIELDS,
    SAMPLING_FIELDS,
    STATS_FIELDS,
    DeviceError,
    EngineOptions,
    InternalError,
    InvalidArgument,
    Overloaded,
    SamplingParams,
)
from pagoda.config_schema import SECTIONS, ModelSettings, Schema
from pagoda.config_sources import Entry, FlagValue, SourceReader
from pagoda.cuda_libraries import cuda_library_folders
from pagoda.field_rows import FieldRow, rows_from_core, rows_from_dataclass

if TYPE_CHECKING:
    from pagoda.server.settings import ServerSettings

__all__ = [
    "ENGINE_FIELDS",
    "SAMPLING_FIELDS",
    "STATS_FIELDS",
    "Config",
    "ConfigError",
    "DeviceError",
    "EngineOptions",
    "InternalError",
    "InvalidArgument",
    "ModelSettings",
    "Overloaded",
    "SamplingParams",
    "Setting",
    "config_schema",
    "find_cuda_library",
    "inspect_model",
    "load_config",
    "plan_memory",
    "scan_weights",
    "system_info",
    "write_directory",
    "write_gguf",
]


class ConfigError(ValueError):
    """The configuration is wrong. `errors` has one text for every fault that was found; `str()` joins them by line."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One value in use. `origin` is `default`, `FILE:LINE`, `--set`, `argument` or the flag; a secret's `value` is
    never printed.
    """

    section: str
    row: FieldRow
    value: Any
    origin: str


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration.

    `sampling` holds only what was given: an unset parameter falls back to the model's generation_config.json.
    `origin` maps `section.key` to where the value came from; a key that is not in it has its default.
    """

    model: ModelSettings
    engine: EngineOptions
    server: ServerSettings
    sampling: Mapping[str, Any]
    origin: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def settings(self) -> list[Setting]:
        """Every value in use, by section in file order; of `sampling` only those that were given."""
        found = []
        for section, rows in config_schema().rows.items():
            for name, row in rows.items():
                if section == "sampling" and name not in self.sampling:
                    continue
                value = self.sampling[name] if section == "sampling" else getattr(getattr(self, section), name)
                found.append(Setting(section, row, value, self.origin.get(f"{section}.{name}", "default")))
        return found


def plan_memory(path: str | Path, options: EngineOptions) -> dict[str, Any]:
    """How the model at `path` would use memory; reads headers only.

    Keys: total_bytes, available_bytes, budget_bytes, weights_bytes, workspace_bytes, kv_bytes_per_block,
    kv_cache_bytes, num_blocks, block_size, swap_space_bytes, num_swap_blocks, max_model_len, max_concurrency. Raises
    InvalidArgument when the model cannot be read or does not fit.
    """
    return dict(_core.plan_memory(str(path), options))


def inspect_model(path: str | Path, weight_format: str = "auto") -> dict[str, Any]:
    """What the checkpoint at `path` holds and what the engine makes of it; reads headers only.

    Keys: architecture, refusal (why it cannot be run, "" if it can), quantisation, warnings, tensors (name, type,
    shape, bytes); without a refusal also facts, matrices (layer, name, rows, cols, formats, bytes), num_parameters,
    num_active_parameters, packed_bytes, max_context. Raises InvalidArgument when its files cannot be read, and for a
    `weight_format` that is none.
    """
    return dict(_core.inspect_model(str(path), weight_format))


def scan_weights(path: str | Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Reads all weights at `path`, looking for NaN, infinity and matrices of nothing but zeros.

    Keys: faults (tensor, num_nan, num_inf, first, all_zero), num_tensors, num_skipped (integers), bytes.
    `progress(done, total)` hears of bytes. Raises InvalidArgument when the files cannot be read.
    """
    return dict(_core.scan_weights(str(path), 0, progress))


def write_gguf(
    path: Path,
    tensors: Sequence[tuple[str, str, list[int], int, int]] | None,
    weight_format: str,
    metadata: Sequence[tuple[str, str, Any]],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes the checkpoint at `path` as the GGUF file `out`, which must not exist yet.

    `tensors`: (name, type, shape, address, bytes) of weights in memory that take the place of the directory's own.
    `metadata`: (key, type, value) beside the model's sizes. Keys of the result: bytes, num_tensors, main_format,
    notes (sentences about what the file has otherwise). Raises InvalidArgument for what GGUF cannot express and for a
    file that cannot be written.
    """
    return dict(_core.write_gguf(str(path), tensors, weight_format, metadata, str(out), progress))


def write_directory(
    path: Path,
    tensors: Sequence[tuple[str, str, list[int], int, int]] | None,
    weight_format: str,
    is_quantised: bool,
    out: Path,
    max_file_bytes: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes the weights at `path`, or `tensors` as above, as safetensors files into the directory `out`.

    `is_quantised`: config.json has a quantization_config. Keys of the result: files ((tensor, file) pairs), num_files,
    bytes, plain_modules (names that quantization_config is to ignore). Raises InvalidArgument.
    """
    return dict(
        _core.write_directory(str(path), tensors, weight_format, is_quantised, str(out), max_file_bytes, progress)
    )


def system_info() -> dict[str, Any]:
    """What the engine would use of this machine.

    Keys: name (of the processor), isa, num_threads, total_bytes, available_bytes, cuda_built (whether this build has
    CUDA kernels), cuda_unavailable (why they cannot be used here, empty if they can).
    """
    cuda = _core.cuda_info()
    return {**_core.cpu_info(), "cuda_built": cuda["built"], "cuda_unavailable": cuda["unavailable"]}


def find_cuda_library() -> str:
    """Path and version of the library that multiplies matrices on the GPU, in words.

    Raises DeviceError with what to install if it is not there.
    """
    return _core.find_cuda_library(cuda_library_folders())


@functools.cache
def config_schema() -> Schema:
    """The rows of all sections."""
    from pagoda.server.settings import ServerSettings

    return Schema(
        {
            "model": rows_from_dataclass(ModelSettings),
            "engine": rows_from_core(ENGINE_FIELDS),
            "server": rows_from_dataclass(ServerSettings),
            "sampling": rows_from_core(SAMPLING_FIELDS),
        }
    )


def load_config(
    file: str | Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[tuple[str, str], FlagValue] | None = None,
    values: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """Reads and merges all sources; later ones win: default, `file`, `values`, `sets`, `flags`.

    `sets` are `section.key=yaml` texts, `flags` map (section, row name) to command-line text, `values` are typed
    values of a Python caller by section and key. Raises ConfigError with every fault of every source.
    """
    from pagoda.server.settings import ServerSettings

    reader = SourceReader(config_schema())
    if file is not None:
        reader.read_file(Path(file))
    reader.read_values(values or {})
    reader.read_sets(sets)
    reader.read_flags(flags or {})
    given: dict[str, dict[str, Entry]] = {section: {} for section in SECTIONS}
    for entry in reader.entries:
        given[entry.section][entry.name] = entry
    faults = list(reader.faults)
    model = _build(ModelSettings, given["model"], faults)
    engine = _build(EngineOptions, given["engine"], faults)
    server = _build(ServerSettings, given["server"], faults)
    _build(SamplingParams, given["sampling"], faults)
    _check_template(given["model"].get("chat_template"), faults)
    if faults:
        raise ConfigError(faults)
    origin = {f"{entry.section}.{entry.name}": entry.origin for entries in given.values() for entry in entries.values()}
    return Config(
        model=model,
        engine=engine,
        server=server,
        sampling=types.MappingProxyType({name: entry.value for name, entry in given["sampling"].items()}),
        origin=types.MappingProxyType(origin),
        warnings=_readable_secrets(Path(file), reader.entries) if file is not None else (),
    )


def _build(owner: Callable[..., Any], given: Mapping[str, Entry], faults: list[str]) -> Any:
    """Constructs and validates a section's owner; what it refuses becomes faults at the places of the values.

    The engine's owners name only their first problem, so each value is tried alone as well.
    """
    try:
        made = owner(**{name: entry.value for name, entry in given.items()})
        if hasattr(made, "validate"):
            made.validate()
        return made
    except ValueError as error:
        problems = str(error).splitlines()
    for name, entry in given.items():
        try:
            owner(**{name: entry.value})
        except ValueError as error:
            problems += [text for text in str(error).splitlines() if text not in problems]
    section = next(iter(given.values())).section
    for text in problems:
        place = given.get(re.split(r"[\s.]", text, maxsplit=1)[0])
        faults.append(f"{section}: {text}" if place is None else _at(place, f"{section}.{text}"))
    return None


def _check_template(entry: Entry | None, faults: list[str]) -> None:
    if entry is not None and entry.value is not None and not Path(entry.value).is_file():
        faults.append(_at(entry, f"model.chat_template must be a file, got '{entry.value}'"))


def _at(entry: Entry, text: str) -> str:
    return f"{entry.where}: {text}" if entry.where else text


def _readable_secrets(file: Path, entries: Sequence[Entry]) -> tuple[str, ...]:
    rows = config_schema().rows
    from_file = [entry for entry in entries if entry.where.startswith(f"{file}:")]
    secrets = [f"{entry.section}.{entry.name}" for entry in from_file if rows[entry.section][entry.name].secret]
    if secrets and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return (f"{file} holds {secrets[0]} and can be read by other users; run: chmod 600 {file}",)
    return ()
