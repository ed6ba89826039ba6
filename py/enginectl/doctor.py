"""Check this machine and this installation: versions, processor, memory, CUDA, cache, default model, network, one
token.

Exit code 0 when nothing failed, 2 otherwise. A warning is something that works but could be better.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from enginectl.console import size_text, styled
from enginectl.inspection import fault_text
from enginectl.ports import check_address
from enginectl.serve import device_text
from enginectl.session import open_client
from pagoda.config import SamplingParams, find_cuda_library, load_config, scan_weights, system_info
from pagoda.models import ALIASES, cache_path, resolve

DEPENDENCIES = ("aiohttp", "jinja2", "pyyaml", "tokenizers", "tqdm")
CPU_FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512dq",
    "avx512_vnni",
    "avx512_bf16",
)
LOW_MEMORY_BYTES = 1 << 30
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `status` is ok, warning or failed."""

    check: str
    status: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl doctor`."""
    parser.add_argument("--json", action="store_true", default=False, help="print the findings as one JSON object")
    parser.add_argument(
        "--check-weights", metavar="MODEL", default=None, help="read all weights of MODEL for NaN and infinity instead"
    )


def run(args: argparse.Namespace) -> int:
    """Runs every check; one that raises counts as failed and the others still run."""
    findings = []
    checks = CHECKS if args.check_weights is None else {"weights": lambda: check_weights(args.check_weights)}
    for name, check in checks.items():
        for finding in _guarded(name, check):
            findings.append(finding)
            if not args.json:
                status = styled(f"{finding.status:<8}", _STYLES[finding.status], sys.stdout)
                print(f"{status} {finding.check:<10} {finding.text}", flush=True)
    if args.json:
        print(json.dumps({"findings": [dataclasses.asdict(finding) for finding in findings]}))
    return 2 if any(finding.status == "failed" for finding in findings) else 0


def _guarded(name: str, check: Callable[[], Iterator[tuple[str, str]]]) -> Iterator[Finding]:
    try:
        for status, text in check():
            yield Finding(name, status, text)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        yield Finding(name, "failed", str(error) or type(error).__name__)


def check_versions() -> Iterator[tuple[str, str]]:
    """Pagoda, Python and the packages it needs."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        yield "ok", f"pagoda-engine {importlib.metadata.version('pagoda-engine')}"
    yield "ok", f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in DEPENDENCIES:
        try:
            yield "ok", f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield "failed", f"{package} is not installed"


def check_processor() -> Iterator[tuple[str, str]]:
    """The processor, what it can do, and the kernels that the engine chooses for it."""
    info = system_info()
    flags = _cpu_flags()
    features = [feature for feature in CPU_FEATURES if feature in flags]
    yield "ok", info["name"]
    yield "ok", f"features: {' '.join(features) or 'none of ' + ' '.join(CPU_FEATURES)}"
    status = "warning" if info["isa"] == "portable" else "ok"
    yield status, f"kernels: {info['isa']}" + ("; without AVX2 inference is slow" if status == "warning" else "")
    yield "ok", f"threads: {info['num_threads']} of {len(os.sched_getaffinity(0))} logical processors that may be used"


def check_memory() -> Iterator[tuple[str, str]]:
    """Main memory."""
    info = system_info()
    total, available = info["total_bytes"], info["available_bytes"]
    low = available < LOW_MEMORY_BYTES
    hint = "; little is left for models and the KV cache" if low else ""
    yield "warning" if low else "ok", f"{size_text(available)} available of {size_text(total)}{hint}"


def check_cuda() -> Iterator[tuple[str, str]]:
    """Whether this build has CUDA kernels, and whether there is a GPU and cuBLASLt to run them."""
    info = system_info()
    built = info["cuda_built"]
    version = Path("/proc/driver/nvidia/version")
    driver = version.read_text().splitlines()[0].strip() if version.exists() else None
    if built and info["cuda_unavailable"]:
        yield "warning", f"built, but it cannot be used here: {info['cuda_unavailable']}; the CPU serves"
    elif built:
        yield "ok", f"built; {driver}"
        try:
            yield "ok", find_cuda_library()
        except RuntimeError as error:
            yield "warning", str(error)
    else:
        yield (
            "ok",
            "not built" + (f", although a driver is loaded: {driver}" if driver else "; no NVIDIA driver is loaded"),
        )


def check_cache() -> Iterator[tuple[str, str]]:
    """The directory that models are fetched into."""
    directory = cache_path(next(iter(ALIASES))).parents[1]
    existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield "failed", f"{directory} cannot be written"
        return
    yield "ok", f"{directory}, {size_text(shutil.disk_usage(existing).free)} free"


def check_model() -> Iterator[tuple[str, str]]:
    """The default model's file and checksum."""
    for alias, row in ALIASES.items():
        path = cache_path(alias)
        if not path.is_file():
            yield "warning", f"{alias} is not fetched yet; run: enginectl pull {alias}"
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == row.gguf_sha256:
            yield "ok", f"{alias}: {path}, checksum as expected"
        else:
            yield "failed", f"{alias}: {path} has SHA-256 {found}, expected {row.gguf_sha256}; delete it and pull again"


def check_network() -> Iterator[tuple[str, str]]:
    """Whether a server can listen on the loopback address, and whether the default port is free."""
    check_address("127.0.0.1", 0)
    yield "ok", "127.0.0.1 can be listened on"
    port = load_config().server.port
    try:
        check_address("127.0.0.1", port)
        yield "ok", f"port {port} is free"
    except OSError as error:
        yield "warning", error.strerror or str(error)


def check_generation() -> Iterator[tuple[str, str]]:
    """One token from the default model, when it is there."""
    config = load_config()
    if config.model.name not in ALIASES or not cache_path(config.model.name).is_file():
        yield "warning", f"not tried: {config.model.name} is not fetched yet"
        return
    start = time.monotonic()
    with open_client(config) as client, asyncio.Runner() as runner:
        ready = time.monotonic()

        async def first_token() -> list[int]:
            params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
            prompt = client.encode("The capital of France is")
            return [token async for event in client.generate(prompt, params) for token in event.token_ids]

        tokens = runner.run(first_token())
        device = device_text(client.describe())
    if len(tokens) == 1:
        yield "ok", f"one token on {device}: loaded in {ready - start:.2f} s, made in {time.monotonic() - ready:.2f} s"
    else:
        yield "failed", f"expected one token, got {len(tokens)}"


def check_weights(model: str) -> Iterator[tuple[str, str]]:
    """Every number of a model's weights."""
    scan = scan_weights(resolve(model).path)
    for fault in scan["faults"]:
        yield "warning" if fault["all_zero"] else "failed", fault_text(fault)
    yield "ok", f"{scan['num_tensors']:,} tensors, {size_text(scan['bytes'])} read"


def _cpu_flags() -> list[str]:
    """The first processor's flags in /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


CHECKS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "version": check_versions,
    "processor": check_processor,
    "memory": check_memory,
    "cuda": check_cuda,
    "cache": check_cache,
    "model": check_model,
    "network": check_network,
    "generation": check_generation,
}
