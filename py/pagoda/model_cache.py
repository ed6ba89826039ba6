"""The models on this machine that Pagoda fetched: what there is, and how to be rid of it.

Owns nothing; reads and removes what models.py (aliases) and the hub library (hub ids) have put into their caches.
Called by enginectl.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pagoda.models import ALIASES, ModelError, cache_path

__all__ = ["CachedModel", "cached_models", "remove"]


@dataclass(frozen=True, slots=True)
class CachedModel:
    """`name` is what commands take. `num_bytes` is what removing frees; 0 for an alias that is not fetched."""

    name: str
    kind: Literal["alias", "hub"]
    path: Path | None
    num_bytes: int
    license: str | None = None


def cached_models() -> list[CachedModel]:
    """Every alias, fetched or not, then the hub models that lie in the hub library's cache, by name."""
    aliases = [_alias(name) for name in sorted(ALIASES)]
    hub = [
        CachedModel(repository.repo_id, "hub", Path(repository.repo_path), repository.size_on_disk)
        for repository in _hub_repositories()
    ]
    return aliases + sorted(hub, key=lambda model: model.name)


def remove(name: str) -> CachedModel:
    """Removes a fetched model from its cache and returns what it was.

    Raises ModelError for a name that no cache holds: a path is the user's own file and is never removed.
    """
    found = next((model for model in cached_models() if model.name == name), None)
    if found is None and Path(name).expanduser().exists():
        raise ModelError(f"{name} is a file or directory of your own; only fetched models are removed")
    if found is None or found.path is None:
        held = ", ".join(model.name for model in cached_models() if model.path) or "none"
        raise ModelError(f"{name!r} is not in the cache; fetched models: {held}")
    try:
        shutil.rmtree(found.path)
    except OSError as error:
        raise ModelError(f"{found.path}: cannot be removed: {error.strerror or error}") from error
    return found


def _alias(name: str) -> CachedModel:
    file = cache_path(name)
    if not file.is_file():
        return CachedModel(name, "alias", None, 0, ALIASES[name].license)
    size = sum(path.stat().st_size for path in file.parent.iterdir() if path.is_file())
    return CachedModel(name, "alias", file.parent, size, ALIASES[name].license)


def _hub_repositories() -> list[Any]:
    """Models in the hub library's cache; nothing without the library or the cache."""
    try:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except ImportError:
        return []
    try:
        return [repository for repository in scan_cache_dir().repos if repository.repo_type == "model"]
    except CacheNotFound:
        return []
