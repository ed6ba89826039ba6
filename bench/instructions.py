"""Counts the instructions of a fixed decode and a fixed prefill under callgrind; compares them with committed counts.

    python bench/instructions.py build/tests/step_instructions [--update]

Counts do not depend on the machine's load, so the continuous integration can guard them; they depend on the compiler,
so they are compared only where its version is that of the committed counts (bench/instructions.json). The kernels are
those for AVX2: valgrind knows no AVX-512. Exit status 1 when a count grew by more than the tolerance.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

COMMITTED = Path(__file__).with_suffix(".json")
COUNTED = "pagoda::Runner::launch*"
TOLERANCE = 0.03
# name: format of the weights, tokens of the prompt, tokens made
CASES = {
    "decode bf16": ("bf16", 1, 17),
    "decode q4_0": ("q4_0", 1, 17),
    "decode q8_0": ("q8_0", 1, 17),
    "prefill bf16": ("bf16", 128, 1),
    "prefill q4_0": ("q4_0", 128, 1),
    "prefill q8_0": ("q8_0", 128, 1),
}


def main() -> int:
    """Counts, then compares or writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="built from bench/step_instructions.cc")
    parser.add_argument("--update", action="store_true", help="write the counts instead of comparing them")
    args = parser.parse_args()
    counts = {name: count(args.program, *case) for name, case in CASES.items()}
    found = {"compiler": compiler(), "counts": counts}
    if args.update:
        COMMITTED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    return compare(found, json.loads(COMMITTED.read_text(encoding="utf-8")))


def count(program: Path, weights: str, num_prompt: int, num_tokens: int) -> int:
    """Instructions inside the steps. Exits when the program fails or nothing was counted."""
    with tempfile.TemporaryDirectory() as folder:
        tool = ["valgrind", "--tool=callgrind", f"--toggle-collect={COUNTED}", f"--callgrind-out-file={folder}/out"]
        ended = subprocess.run(
            [*tool, program, weights, str(num_prompt), str(num_tokens)], capture_output=True, text=True, check=False
        )
    collected = re.search(r"Collected : (\d+)", ended.stderr)
    if ended.returncode or not collected or int(collected[1]) == 0:
        raise SystemExit(f"{program} under callgrind: status {ended.returncode}\n{ended.stderr[-2000:]}")
    return int(collected[1])


def compiler() -> str:
    """The first line of `c++ --version`."""
    return subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def compare(found: dict, committed: dict) -> int:
    """Prints every count beside the committed one; 1 when one grew too much."""
    update = "make instructions ARGS=--update"
    grown = []
    for name, number in found["counts"].items():
        before = committed["counts"].get(name)
        change = number / before - 1 if before else 0.0
        print(f"{name:<14}{number:>14,} instructions" + (f"{change:>+8.1%}" if before else "  not committed"))
        if not before or change > TOLERANCE:
            grown.append(name)
        elif change < -TOLERANCE:
            print(f"  fewer than committed: keep it with `{update}`")
    if found["compiler"] != committed["compiler"]:
        print(f"not compared: built with {found['compiler']}, committed with {committed['compiler']}")
        return 0
    if grown:
        print(f"{', '.join(grown)}: over {COMMITTED.name} by more than {TOLERANCE:.0%}. If that is meant: `{update}`")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
