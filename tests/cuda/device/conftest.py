"""The installed package on a GPU.

`--device cuda-emu -k tiny` tries these tests out on the emulated GPU, where `pagoda._core` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from random_llama import write_random_llama

from pagoda import models
from pagoda.config import system_info


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", help="the engine's option `device`: cuda, cuda:N or cuda-emu")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device's name; skips where this build has no kernels or finds no GPU."""
    name = str(request.config.getoption("--device"))
    info = system_info()
    if name != "cuda-emu" and not info["cuda_built"]:
        pytest.skip("this build has no CUDA kernels; build it where nvcc is, with PAGODA_CUDA=ON")
    if name != "cuda-emu" and info["cuda_unavailable"]:
        pytest.skip(info["cuda_unavailable"])
    return name


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a tokenizer. It talks nonsense, always the same."""
    return write_random_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session", params=["tiny", "smollm2"])
def model(request: pytest.FixtureRequest, tiny: Path) -> Path:
    """A random model, and the default model where its file lies in the cache: nothing is downloaded."""
    if request.param == "tiny":
        return tiny
    cached: Callable[[str], Path] = models.cache_path
    path = cached("smollm2-135m")
    if not path.is_file():
        pytest.skip(f"{path} is not there; `python -m enginectl pull` fetches it")
    return path
