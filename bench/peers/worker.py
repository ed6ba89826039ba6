"""Runs the cases on one engine, in the engine's own environment; run.py starts it.

Prints one JSON object per line: case, unit, value, lower_is_better, and `others`, the share of the machine's processors
that processes outside this one's tree used meanwhile. Standard library only, beside the engine itself.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cases import CASES, WARM_UP, measure, run

TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Loads the engine, makes one token, runs the cases and says how much memory it took."""
    args = parse()
    module = importlib.import_module(args.engine)
    before = used_ticks()
    engine = module.Engine(args.model, args.threads)
    try:
        rng = random.Random(time.time_ns())
        generate, vocab = engine.generate, args.vocab_size
        generate([[rng.randrange(vocab // 8, vocab // 2) for _ in range(32)]], 1)
        say(engine.start_case, "s", getattr(engine, "seconds", None) or seconds_since_start(), before, lower=True)
        run(WARM_UP, generate, rng, vocab)
        for case in CASES:
            if case.name in args.cases:
                before = used_ticks()
                say(case.name, case.unit, measure(case, generate, rng, vocab), before)
        if "online_8" in args.cases and hasattr(engine, "online"):
            before = used_ticks()
            for name, unit, value, lower in engine.online(8, args.online_seconds, rng, vocab):
                say(name, unit, value, before, lower)
        say("peak_rss", "MiB", peak_mib(engine.pid), used_ticks(), lower=True)
        for name, value in getattr(engine, "planned", {}).items():
            say(name, "MiB", value, used_ticks(), lower=True)
    finally:
        sys.stdout.flush()
        engine.close()
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", help="a module of bench/peers")
    parser.add_argument("--model", required=True, help="file or directory, in a form that the engine reads")
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--cases", type=lambda text: text.split(","), required=True, help="separated by commas")
    parser.add_argument("--online-seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def say(case: str, unit: str, value: float, before: tuple[float, int, int], lower: bool = False) -> None:
    """Prints a result."""
    after = used_ticks()
    wall = (after[0] - before[0]) * (os.cpu_count() or 1) * TICKS
    others = max(0.0, (after[1] - before[1]) - (after[2] - before[2])) / wall if wall > 10 else 0.0
    line = {"case": case, "unit": unit, "value": value, "lower_is_better": lower, "others": round(others, 3)}
    print(json.dumps(line), flush=True)


def seconds_since_start() -> float:
    """Of this process, the interpreter's own start counted."""
    started = float(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19]) / TICKS
    return float(Path("/proc/uptime").read_text().split()[0]) - started


def processes() -> dict[int, list[str]]:
    """The fields of /proc/PID/stat behind the name, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (OSError, IndexError):
                continue
    return found


def tree(root: int, known: dict[int, list[str]]) -> list[int]:
    """`root` and all processes under it."""
    found = [root]
    for pid in found:
        found += [child for child, stat in known.items() if int(stat[1]) == pid]
    return [pid for pid in found if pid in known]


def used_ticks() -> tuple[float, int, int]:
    """(now in seconds, processor ticks used by the whole machine, by this process's tree)."""
    cpu = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    known = processes()
    own = sum(int(value) for pid in tree(os.getpid(), known) for value in known[pid][11:15])
    return time.monotonic(), cpu[0] + cpu[1] + cpu[2] + cpu[5] + cpu[6], own


def peak_mib(root: int) -> float:
    """The sum of the peaks of resident memory of a process and those under it."""
    total = 0
    for pid in tree(root, processes()):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return total / 1024


class InProcess:
    """What engines that are libraries have in common."""

    start_case = "start_in_process"
    pid = os.getpid()

    def close(self) -> None:
        """Ends the process: some libraries hang at exit. Nothing is left to be written."""
        os._exit(0)


def same_lengths(prompts: list[list[int]]) -> None:
    """For engines that take rectangular batches only. Raises ValueError for others."""
    if len({len(prompt) for prompt in prompts}) != 1:
        raise ValueError("the prompts of a batch must have one length")


def result(values: Any) -> list[int]:
    """Lengths of lists."""
    return [len(value) for value in values]


if __name__ == "__main__":
    sys.exit(main())
