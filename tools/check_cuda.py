"""Looks at the machine code of the CUDA kernels: `python tools/check_cuda.py BUILD_FOLDER [--optional]`.

Each family of kernels must hold the instructions it is written around (tensor cores, asynchronous copies, 16-byte
loads), for every architecture it was built for, and no kernel may use local memory: an array that did not fit in
registers costs more than the rest of its kernel. From sm_90 on each must wait for the kernels in front of it. Needs
cuobjdump and nvdisasm: the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm, or the CUDA toolkit. Without them
the status is 2, or 0 with --optional. Called by `make build-cuda`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("cuobjdump", "nvdisasm")
HOPPER = "sm_90a"
LOAD_128, STORE_128 = "LDG.128", "STG.128"
# What a name means as a pattern, where it is not its own: 16-byte loads and stores, whatever their hints.
PATTERNS = {LOAD_128: r"LDG\.E\.(\w+\.)*128", STORE_128: r"STG\.E\.(\w+\.)*128"}
# griddepcontrol.wait; griddepcontrol.launch_dependents is PREEXIT, fence.proxy.async is FENCE.VIEW.ASYNC.
WAIT = "ACQBULK"
LOCAL_MEMORY = re.compile(r"(LDL|STL)\b")

_ARCHITECTURE = re.compile(r"^arch = (\w+)")
_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel as compiled for one architecture. `name` is mangled."""

    name: str
    architecture: str
    opcodes: frozenset[str]

    def holds(self, instruction: str) -> bool:
        """Whether one of its instructions is of this name, with whatever behind it."""
        pattern = PATTERNS.get(instruction, re.escape(instruction))
        return any(re.match(pattern, opcode) for opcode in self.opcodes)


@dataclass(frozen=True, slots=True)
class Family:
    """Kernels whose mangled name contains `kernel`, and what their code must hold."""

    name: str
    kernel: str
    instructions: tuple[str, ...]
    every: bool = True
    """All of them must hold the instructions; otherwise one, because others are for rows that are not aligned."""
    architecture: str | None = None
    """Where the family exists only for one."""


FAMILIES = (
    Family("decode attention", r"decode_attention_kernel", ("HMMA", "LDSM", "LDGSTS")),
    Family("prefill attention", r"prefill_attention_kernel", ("HMMA", "LDSM", "LDGSTS")),
    Family(
        "prefill attention, Hopper",
        r"hopper_prefill_kernel",
        ("HGMMA", "UTMALDG", "SYNCS", "FENCE.VIEW.ASYNC", WAIT, "PREEXIT"),
        architecture=HOPPER,
    ),
    Family("linear", r"linear_kernel", ("HMMA", "LDGSTS")),
    Family("norm", r"norm_kernel", (LOAD_128, STORE_128), every=False),
    Family("rope and KV store", r"rope_\w*kernel", (LOAD_128, STORE_128), every=False),
    Family("embedding", r"embed_\w*kernel", (LOAD_128, STORE_128), every=False),
    Family("gated activation", r"gated_\w*kernel", (LOAD_128, STORE_128), every=False),
    Family("quantised rows", r"quantise_rows_kernel", (LOAD_128,)),
    Family("copy of blocks", r"copy_blocks_kernel", (LOAD_128, STORE_128)),
    Family("sampler's scan", r"scan_kernel", (LOAD_128,), every=False),
)


def parse(listing: str) -> list[Kernel]:
    """The kernels in what `cuobjdump -sass` prints."""
    kernels: list[Kernel] = []
    architecture, name, opcodes = "", "", set[str]()

    def close() -> None:
        if name:
            kernels.append(Kernel(name, architecture, frozenset(opcodes)))

    for line in listing.splitlines():
        if found := _INSTRUCTION.match(line):
            opcodes.add(found.group(1))
        elif found := _FUNCTION.match(line):
            close()
            name, opcodes = found.group(1), set()
        elif found := _ARCHITECTURE.match(line):
            close()
            architecture, name, opcodes = found.group(1), "", set()
    close()
    return kernels


def check_family(family: Family, kernels: Iterable[Kernel]) -> tuple[str, list[str]]:
    """A line about the family, and what is wrong with it."""
    own = [kernel for kernel in kernels if re.search(family.kernel, kernel.name)]
    if not own:
        return "", [f"{family.name}: no kernel's name matches {family.kernel}"]
    problems = []
    architectures = sorted({kernel.architecture for kernel in own})
    if family.architecture is not None and architectures != [family.architecture]:
        problems.append(
            f"{family.name}: is for {family.architecture} only, but was built for {', '.join(architectures)}"
        )
    for architecture in architectures:
        there = [kernel for kernel in own if kernel.architecture == architecture]
        for instruction in family.instructions:
            holding = sum(kernel.holds(instruction) for kernel in there)
            if holding < (len(there) if family.every else 1):
                problems.append(f"{family.name}, {architecture}: {holding} of {len(there)} kernels hold {instruction}")
    holds = " ".join(family.instructions)
    return f"{family.name}: {len(own)} kernels for {' '.join(architectures)} hold {holds}", problems


def local_memory(kernels: Iterable[Kernel]) -> list[str]:
    """A line for each kernel that uses local memory."""
    return [
        f"{kernel.name} for {kernel.architecture} uses local memory"
        for kernel in kernels
        if any(LOCAL_MEMORY.match(opcode) for opcode in kernel.opcodes)
    ]


def without_wait(kernels: Iterable[Kernel]) -> list[str]:
    """A line for each kernel that can start early and never waits for the kernels in front of it."""
    return [
        f"{kernel.name} for {kernel.architecture} does not wait for the kernels in front of it"
        for kernel in kernels
        if int(re.sub(r"\D", "", kernel.architecture) or 0) >= 90 and not kernel.holds(WAIT)
    ]


def find_tools() -> str | None:
    """The search path with which both tools are found, or None."""
    folders = [
        os.environ.get("PATH", ""),
        str(Path(sysconfig.get_path("purelib")) / "nvidia/cu13/bin"),
        "/usr/local/cuda/bin",
    ]
    path = os.pathsep.join(folders)
    return path if all(shutil.which(tool, path=path) for tool in TOOLS) else None


def disassemble(objects: list[Path], path: str) -> list[Kernel]:
    """The kernels of all objects. Throws CalledProcessError."""
    cuobjdump = shutil.which(TOOLS[0], path=path) or TOOLS[0]

    def one(path_of_object: Path) -> list[Kernel]:
        run = subprocess.run(
            [cuobjdump, "-sass", str(path_of_object)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
        )
        return parse(run.stdout)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return [kernel for kernels in pool.map(one, objects) for kernel in kernels]


def main(arguments: list[str] | None = None) -> int:
    """Prints a line for each family, and every problem; 1 if there is one."""
    parser = argparse.ArgumentParser(description="checks the machine code of the CUDA kernels")
    parser.add_argument("build", type=Path, help="a build folder made with -DPAGODA_CUDA=ON")
    parser.add_argument("--optional", action="store_true", help="succeed without the disassembler")
    options = parser.parse_args(arguments)
    path = find_tools()
    if path is None:
        print("the kernels' code was not looked at: install nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm")
        return 0 if options.optional else 2
    objects = sorted((options.build / "cuda").rglob("*.cu.o"))
    if not objects:
        print(f"{options.build}/cuda holds no objects of kernels; build it with -DPAGODA_CUDA=ON")
        return 1
    kernels = disassemble(objects, path)
    problems = local_memory(kernels) + without_wait(kernels)
    for family in FAMILIES:
        line, found = check_family(family, kernels)
        problems += found
        if not found:
            print(line)
    for problem in problems:
        print(f"wrong: {problem}")
    if not problems:
        print(f"{len(kernels)} kernels in {len(objects)} objects, none uses local memory, all wait")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
