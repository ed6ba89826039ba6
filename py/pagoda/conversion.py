"""Conversion of checkpoints: a Hugging Face directory, a GGUF file or pickles to a GGUF file or a directory.

Owns what leads to what and the order of the steps. The weights stream through C++ (`write_gguf`, `write_directory` in
config.py); what is written appears under its name only when all of it is there. Called by `enginectl convert`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pagoda.config import InvalidArgument, inspect_model, scan_weights, write_directory, write_gguf
from pagoda.conversion_directory import copy_files, is_quantised, read_config, write_config, write_index
from pagoda.conversion_output import new_directory, new_file
from pagoda.conversion_pickles import PickledWeights, find_pickles, load_pickles
from pagoda.conversion_tokenizer import GgufEntry, gguf_tokenizer_entries
from pagoda.models import PICKLES, ModelError, resolve

__all__ = ["MAX_SHARD_BYTES", "Conversion", "convert"]

MAX_SHARD_BYTES = 4 << 30
_SHOWN = 5
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written. `notes` are sentences about what the result has not, or has otherwise, than the source."""

    path: Path
    num_bytes: int  # of all tensors
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Source:
    """A checkpoint to convert. `path` is the directory, also of pickles, or the .gguf file."""

    kind: Literal["dir", "gguf"]
    path: Path
    name: str
    pickles: PickledWeights | None = None

    @property
    def rows(self) -> list[Any] | None:
        return None if self.pickles is None else self.pickles.rows()


def convert(
    source: str,
    target: Path,
    weight_format: str = "auto",
    force: bool = False,
    with_tokenizer: bool = True,
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Conversion:
    """Writes `source` (a path, alias or hub id) as `target`: a GGUF file if its name ends in .gguf, else a directory.

    A result in another format is read back once: `notes` tell of NaN and infinity in it. `progress(done, total)` hears
    of bytes; an exception that it raises ends the conversion. However it ends, there is either the whole result or
    nothing new. Raises ModelError, InvalidArgument or TokenizerError saying what does not
    fit, OSError when a file cannot be read or written.
    """
    _check_name(target)
    opened = _open(source)
    _keep_apart(opened.path, target)
    if target.suffix != ".gguf" and opened.kind == "gguf":
        raise ModelError(
            f"{opened.path}: a GGUF file can be converted to another OUT.gguf, not to a directory: {target} has no "
            "such name"
        )
    reads_back = weight_format != "auto"  # what is copied is what it was
    writing = _half(progress, 0) if reads_back else progress
    if target.suffix == ".gguf":
        done = _to_gguf(opened, target, weight_format, force, with_tokenizer, writing)
    else:
        done = _to_directory(opened, target, weight_format, force, writing, max_shard_bytes)
    return replace(done, notes=(*done.notes, *_faults(target, _half(progress, 1)))) if reads_back else done


def _half(progress: Progress | None, which: int) -> Progress | None:
    """Writing and reading back are halves of one progress."""
    return progress and (lambda done, total: progress((which * total + done) // 2, total))


def _faults(target: Path, progress: Progress | None) -> list[str]:
    """Sentences about tensors of the result that no model can use."""
    rows = scan_weights(target, progress)["faults"]
    bad = [row for row in rows if row["num_nan"] or row["num_inf"]]
    reason = "either the source has them or its values are too large for the format"
    notes = [
        f"{row['tensor']} has {row['num_nan']} NaN, {row['num_inf']} infinite values; {reason}" for row in bad[:_SHOWN]
    ]
    return [*notes, f"{len(bad) - _SHOWN} more tensors have such values"] if len(bad) > _SHOWN else notes


def _open(source: str) -> _Source:
    path = Path(source).expanduser()
    is_plain = path.is_dir() and any(path.glob("*.safetensors"))
    files = find_pickles(path) if path.exists() and not is_plain else []
    if not files:
        found = resolve(source)
        return _Source(found.kind, found.path, found.name)
    directory = path if path.is_dir() else path.parent
    read_config(directory)
    return _Source("dir", directory, directory.resolve().name, load_pickles(files))


def _check_name(target: Path) -> None:
    """A directory called model.safetensors would surprise, and nothing opens a file called MODEL.GGUF."""
    if target.suffix != ".gguf" and target.suffix.lower() in (".gguf", ".safetensors", *PICKLES):
        raise ModelError(f"{target}: OUT must be a file whose name ends in .gguf, or a directory, got *{target.suffix}")


def _keep_apart(source: Path, target: Path) -> None:
    """A result in the place of its source, above or inside it, would be read while it is written."""
    origin, place = source.resolve(), target.resolve()
    read = [origin, *(file.resolve() for file in _parts(source))]
    inside = target.suffix != ".gguf" and place.is_relative_to(origin)
    if inside or any(file.is_relative_to(place) for file in read):
        raise ModelError(f"{target}: is, holds or lies in the source {source}; choose another place")


def _parts(source: Path) -> list[Path]:
    """The files of a directory, or all of a GGUF file that was split."""
    if source.is_dir():
        return list(source.iterdir())
    found = _SHARD.fullmatch(source.name)
    if not found:
        return []
    others = ((file, _SHARD.fullmatch(file.name)) for file in source.parent.iterdir())
    return [file for file, other in others if other and other.groups() == found.groups()]


def _to_gguf(
    source: _Source, target: Path, weight_format: str, force: bool, with_tokenizer: bool, progress: Progress | None
) -> Conversion:
    entries: list[GgufEntry] = []
    notes: list[str] = []
    with new_file(target, force) as work:
        if source.kind == "dir":
            entries.append(("general.name", "string", source.name))
            if with_tokenizer:
                found, notes = gguf_tokenizer_entries(source.path, _vocab_size(source))
                entries += found
        done = write_gguf(source.path, source.rows, weight_format, entries, work, progress)
    return Conversion(target, done["bytes"], (*notes, *done["notes"]))


def _to_directory(
    source: _Source, target: Path, weight_format: str, force: bool, progress: Progress | None, max_shard_bytes: int
) -> Conversion:
    config = read_config(source.path)
    text = config.get("text_config")
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings") if isinstance(text, dict) else None)
    if source.pickles is not None and tied is not False:
        source.pickles.drop_aliases()
    with new_directory(target, force) as work:
        done = write_directory(
            source.path, source.rows, weight_format, is_quantised(config), work, max_shard_bytes, progress
        )
        copy_files(source.path, work, weight_format)
        write_config(work, config, weight_format, done["plain_modules"])
        if done["num_files"] > 1:
            write_index(work, done["files"], done["bytes"])
    refusal = _refusal(target)
    return Conversion(target, done["bytes"], (f"Pagoda cannot run the result: {refusal}",) if refusal else ())


def _refusal(directory: Path) -> str:
    """Why the engine does not take what was written, as the engine need not know what is copied; "" if it does."""
    try:
        return str(inspect_model(directory)["refusal"])
    except InvalidArgument as error:
        return str(error)


def _vocab_size(source: _Source) -> int:
    """Rows of the embedding, 0 where config.json does not say; no more than any tensor has, whatever it says."""
    config = read_config(source.path)
    text = config.get("text_config")
    size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    if source.pickles is not None:
        shapes = [tuple(tensor.shape) for tensor in source.pickles.tensors.values() if tensor.numel()]
    else:
        shapes = [tuple(row["shape"]) for row in inspect_model(source.path)["tensors"] if row["bytes"]]
    return min(size, max((shape[0] for shape in shapes if shape), default=0)) if isinstance(size, int) else 0
