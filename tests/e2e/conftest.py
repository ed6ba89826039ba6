"""Fixtures of the end-to-end tests: tiny models by name, made once per run, and the embedded default model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from e2e.tiny_gguf import save_gguf
from e2e.tiny_models import TinyModel, make_reference, save
from e2e.tiny_table import DIRECTORIES, GGUF_FAMILIES
from text_tokenizers import byte_level, write_directory

from pagoda import models

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyModel]:
    """`tiny("llama-tied")` is that row of DIRECTORIES on disk."""
    root, made = tmp_path_factory.mktemp("tiny"), {}

    def get(name: str) -> TinyModel:
        if name not in made:
            family, config, saving = DIRECTORIES[name]
            made[name] = save(make_reference(family, **config), root / name, **saving)
        return made[name]

    return get


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], TinyModel]:
    """`tiny_gguf("qwen3", "q8_0")` is that row of GGUF_FAMILIES as a file in that format."""
    root, made = tmp_path_factory.mktemp("gguf"), {}

    def get(name: str, fmt: str) -> TinyModel:
        if (name, fmt) not in made:
            family, config = GGUF_FAMILIES[name]
            made[name, fmt] = save_gguf(make_reference(family, **config), root / f"{name}.{fmt}.gguf", fmt)
        return made[name, fmt]

    return get


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with a byte-level tokenizer and a chat template. It talks nonsense, always the same."""
    path = tmp_path_factory.mktemp("talking") / "tiny"
    save(make_reference("llama", vocab_size=byte_level().get_vocab_size()), path)
    (path / "generation_config.json").unlink(missing_ok=True)
    return write_directory(path)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The embedded default model's file, fetched as a user's first run does."""
    return models.resolve("smollm2-135m").path
