"""Fixtures of the end-to-end tests: tiny models by name, made once per run, and the embedded default model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from e2e.families.llama import LLAMA
from e2e.tiny_models import TinyModel, save, save_gguf
from e2e.tiny_table import DIRECTORIES, GGUFS
from text_tokenizers import byte_level, write_directory

from pagoda import models

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyModel]:
    """`tiny("llama-tied")` is that row of DIRECTORIES on disk."""
    root, made = tmp_path_factory.mktemp("tiny"), {}

    def get(name: str) -> TinyModel:
        if name not in made:
            family = DIRECTORIES[name]
            how = family.directories[name]
            made[name] = save(family.make(how.config), root / name, how)
        return made[name]

    return get


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], TinyModel]:
    """`tiny_gguf("qwen3", "q8_0")` is that row of GGUFS as a file in that format."""
    root, made = tmp_path_factory.mktemp("gguf"), {}

    def get(name: str, fmt: str) -> TinyModel:
        if (name, fmt) not in made:
            family = GGUFS[name]
            assert family.converter is not None
            reference = family.make(family.ggufs[name])
            made[name, fmt] = save_gguf(reference, family.converter, root / f"{name}.{fmt}.gguf", fmt)
        return made[name, fmt]

    return get


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with a byte-level tokenizer and a chat template. It talks nonsense, always the same."""
    path = tmp_path_factory.mktemp("talking") / "tiny"
    save(LLAMA.make({"vocab_size": byte_level().get_vocab_size()}), path)
    (path / "generation_config.json").unlink(missing_ok=True)
    return write_directory(path)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The embedded default model's file, fetched as a user's first run does."""
    return models.resolve("smollm2-135m").path
