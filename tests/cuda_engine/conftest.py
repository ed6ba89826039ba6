"""The whole engine on the emulated kernels: `pagoda._core` is here the extension that `make test-cuda` builds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

EMULATED = Path(__file__).parents[2] / "build" / "tests" / "emulated"


def _load_core() -> None:
    found = sorted(EMULATED.glob("_core*.so"))
    if not found:
        pytest.exit(f"{EMULATED} has no extension module; `make test-cuda` builds it", returncode=2)
    spec = importlib.util.spec_from_file_location("pagoda._core", found[0])
    assert spec is not None
    assert spec.loader is not None
    sys.modules["pagoda._core"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pagoda._core"])


_load_core()

from e2e.conftest import talking, tiny, tiny_gguf  # noqa: E402

__all__ = ["talking", "tiny", "tiny_gguf"]
