"""Results that appear whole or not at all: written beside their place under a temporary name, renamed at the end.

Owns the rules for what may be replaced. Called by conversion.py.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pagoda.conversion_directory import foreign_entry
from pagoda.models import ModelError


@contextlib.contextmanager
def new_file(target: Path, force: bool) -> Iterator[Path]:
    """A path for a file that becomes `target` when the block ends well and is removed when it does not.

    Where `target` is a symbolic link, what it points to is written. Raises ModelError for a target that exists, unless
    `force`, and for a place where nothing can be written.
    """
    place = target.resolve()
    if place.is_dir():
        raise ModelError(f"{target}: is a directory; OUT.gguf is a file")
    if not force and place.exists():
        raise ModelError(f"{target}: exists already; --force replaces it")
    work = _work_path(target, place, "partial")
    try:
        yield work
        os.replace(work, place)
    finally:
        with contextlib.suppress(OSError):  # an error of the block says more
            work.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(target: Path, force: bool) -> Iterator[Path]:
    """The same for a directory. An empty directory counts as none, and `force` replaces only what was a model's."""
    place = target.resolve()
    if place.exists() and not place.is_dir():
        raise ModelError(f"{target}: is a file; OUT is a directory, or a file whose name ends in .gguf")
    replaces = place.is_dir() and any(place.iterdir())
    if replaces and not force:
        raise ModelError(f"{target}: exists already; --force replaces it")
    if replaces and (foreign := foreign_entry(place)):
        raise ModelError(f"{target}: is no converted model, because {foreign}, so --force does not replace it")
    if os.path.ismount(place) or Path.cwd().is_relative_to(place):
        reason = "a mount point" if os.path.ismount(place) else "the current directory, or holds it"
        raise ModelError(f"{target}: is {reason}, which cannot be replaced; name a directory to make in it")
    work = _work_path(target, place, "partial")
    try:
        work.mkdir()
    except OSError as error:
        raise ModelError(f"{work}: cannot be created: {error.strerror}") from error
    try:
        yield work
        if replaces:
            _exchange(work, place)
        else:
            os.replace(work, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _exchange(work: Path, place: Path) -> None:
    """Puts `work` in the place of what is there, which is removed."""
    old = _work_path(place, place, "old")
    os.replace(place, old)
    try:
        os.replace(work, place)
    except BaseException:  # a signal, too
        os.replace(old, place)
        raise
    shutil.rmtree(old)


def _work_path(target: Path, place: Path, suffix: str) -> Path:
    """A name beside `place` that no other conversion has, also none in another container or one that was killed."""
    if not place.parent.is_dir():
        raise ModelError(f"{target.parent}: is no directory, so {target.name} cannot be written there")
    return place.parent / f".{place.name}.{secrets.token_hex(4)}.{suffix}"
