"""Pagoda: a paged-attention serving engine for language models. See the README for a tour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pagoda.config import DeviceError, InternalError, InvalidArgument, Overloaded, SamplingParams
    from pagoda.generation import Logprob
    from pagoda.llm import LLM
    from pagoda.outputs import CompletionOutput, RequestOutput

__all__ = [
    "LLM",
    "CompletionOutput",
    "DeviceError",
    "InternalError",
    "InvalidArgument",
    "Logprob",
    "Overloaded",
    "RequestOutput",
    "SamplingParams",
]

_HOMES = {
    "LLM": "llm",
    "CompletionOutput": "outputs",
    "RequestOutput": "outputs",
    "Logprob": "generation",
    "SamplingParams": "config",
    "DeviceError": "config",
    "InternalError": "config",
    "InvalidArgument": "config",
    "Overloaded": "config",
}


def __getattr__(name: str) -> Any:
    """Loads the public names when they are first used, so that `import pagoda` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pagoda' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"pagoda.{_HOMES[name]}"), name)
