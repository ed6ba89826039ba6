"""What the lints share: walking the tree and findings. Every lint is a function `check(root) -> list[Finding]`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SKIPPED_FOLDERS = {".git", ".venv", "__pycache__", "build", "dist", "node_modules"}
CPP_SUFFIXES = {".cc", ".h", ".cu", ".cuh"}


@dataclass(frozen=True, order=True)
class Finding:
    """One broken rule. `path` is relative to the tree's root."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def files(root: Path, folders: list[str], suffixes: set[str]) -> Iterator[tuple[str, Path]]:
    """(relative path, path) of all files with one of `suffixes` in `folders` of `root`, in sorted order."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*")):
            relative = path.relative_to(root)
            if path.suffix in suffixes and path.is_file() and not SKIPPED_FOLDERS.intersection(relative.parts):
                yield relative.as_posix(), path


def line_of(text: str, offset: int) -> int:
    """1-based line of a character offset."""
    return text.count("\n", 0, offset) + 1
