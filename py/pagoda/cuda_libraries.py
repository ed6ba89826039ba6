"""Where pip puts NVIDIA's libraries: folders for the engine to look for cuBLASLt in.

Neither torch nor NVIDIA's packages are imported, which would take seconds and load libraries of their choice: only the
folders that they are known to use are looked for. Called by whoever makes an engine for a GPU; as a script it prints
the folders, separated by colons.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

__all__ = ["cuda_library_folders"]

# Below a folder of installed packages, the preferred one first: the packages of CUDA 13, of CUDA 12, and torch's copy.
_FOLDERS = ("nvidia/cu13/lib", "nvidia/cublas/lib", "torch/lib")


def _package_folders() -> list[str]:
    """Where Python imports from, then where pip installs to."""
    return [*sys.path, *(sysconfig.get_path(name) for name in ("platlib", "purelib"))]


def cuda_library_folders(package_folders: Iterable[str] | None = None) -> list[str]:
    """The folders with CUDA's libraries that exist below `package_folders` (default: this Python's), each once.

    The earlier one is to be preferred. Folders relative to the working directory are left out: a library found there
    may be anybody's.
    """
    roots = [Path(folder) for folder in (_package_folders() if package_folders is None else package_folders)]
    found = [root / folder for folder in _FOLDERS for root in roots if root.is_absolute() and _is_folder(root / folder)]
    return list(dict.fromkeys(str(folder) for folder in found))


def _is_folder(path: Path) -> bool:
    """False also for what may not be looked at, and for paths that are no paths (sys.path can hold anything)."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    print(":".join(cuda_library_folders()))
