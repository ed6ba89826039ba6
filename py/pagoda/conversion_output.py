"""Results that appear whole or not at all: written beside their place under a temporary name, renamed at the end.

Owns the rules for what may be replaced. Called by conversion.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pagoda.models import ModelError


@contextlib.contextmanager
def new_file(target: Path, force: bool) -> Iterator[Path]:
    """A path for a file that becomes `target` when the block ends well and is removed when it does not.

    Raises ModelError for a target that exists, unless `force`, and for a place where nothing can be written.
    """
    if target.is_dir():
        raise ModelError(f"{target}: is a directory; OUT.gguf is a file")
    if not force and _exists(target):
        raise ModelError(f"{target}: exists already; --force replaces it")
    work = _work_path(target, "partial")
    try:
        yield work
        os.replace(work, target)
    finally:
        work.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(target: Path, force: bool) -> Iterator[Path]:
    """The same for a directory. An empty directory counts as none, and `force` replaces only what was a model's."""
    if _exists(target) and not target.is_dir():
        raise ModelError(f"{target}: is a file; OUT is a directory, or a file whose name ends in .gguf")
    replaces = target.is_dir() and any(target.iterdir())
    if replaces and not force:
        raise ModelError(f"{target}: exists already; --force replaces it")
    if replaces and not (target / "config.json").is_file():
        raise ModelError(f"{target}: is no model directory (it has no config.json), so --force does not replace it")
    work = _work_path(target, "partial")
    try:
        work.mkdir()
    except OSError as error:
        raise ModelError(f"{work}: cannot be created: {error.strerror}") from error
    try:
        yield work
        if replaces:
            _exchange(work, target)
        else:
            os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _exchange(work: Path, target: Path) -> None:
    """Puts `work` in the place of `target`, which is removed."""
    old = _work_path(target, "old")
    os.replace(target, old)
    try:
        os.replace(work, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old)


def _work_path(target: Path, suffix: str) -> Path:
    if not target.parent.is_dir():
        raise ModelError(f"{target.parent}: is no directory, so {target.name} cannot be written there")
    return target.parent / f".{target.name}.{os.getpid()}.{suffix}"


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()
