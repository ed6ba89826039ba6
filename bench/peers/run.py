"""Measures our engine and others by turns on this machine, and prints the table.

    python bench/peers/run.py --setup llama.cpp,openvino      # installs and builds them under build/peers
    python bench/peers/run.py --peers llama.cpp,openvino --rounds 3 --out bench/results/local/cpu.json

A round runs every engine in every format once, each in a process and an environment of its own, and measures the
machine's limits. A value is left out when other processes used more than --max-others of the machine meanwhile. The
file is written after every engine; `enginectl bench report FILE` prints it again. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from cases import CASES, NAMES
from model_files import HALF_PRECISION, RANDOM, ModelFiles

from enginectl.bench import render
from enginectl.bench_results import MACHINE, BenchResults, Bound, Row

PLACE = ROOT / "build" / "peers"
OURS = {"pagoda": "pagoda_llm", "pagoda-http": "pagoda_http", "pagoda-mixed": "pagoda_mixed"}
PEERS = {
    "llama.cpp": "peer_llama_cpp",
    "openvino": "peer_openvino",
    "onnxruntime": "peer_onnxruntime",
    "vllm": "peer_vllm",
    "ctranslate2": "peer_ctranslate2",
    "transformers": "peer_transformers",
}
ALL_CASES = (*NAMES, "online_8")
WORKER_SECONDS = 900


@dataclass(frozen=True)
class Entry:
    """One engine with one format of the weights."""

    name: str
    module: ModuleType
    weights: str
    model: Path

    @property
    def python(self) -> Path:
        """Of the environment that the engine lives in."""
        return Path(sys.executable) if self.name in OURS else environment(self.name)


def main() -> int:
    """Sets up, or runs the rounds."""
    args = parse()
    if args.setup:
        for name in args.setup:
            set_up(name, importlib.import_module(PEERS[name]))
        return 0
    files = ModelFiles(args.model, PLACE / "models")
    entries = list(chosen(args, files))
    results = BenchResults.begin()
    for number in range(args.rounds):
        measure_machine(results, args.threads)
        for entry in entries[number % len(entries) :] + entries[: number % len(entries)]:
            print(f"round {number + 1}: {entry.name} {entry.weights}", file=sys.stderr, flush=True)
            measure_entry(results, entry, files, args)
            results.save(args.out)
    print(render([results], results.rows, markdown=args.markdown))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""

    def names(allowed: tuple[str, ...]) -> object:
        def split(text: str) -> list[str]:
            found = [name for name in text.split(",") if name]
            unknown = set(found) - set(allowed)
            if unknown:
                raise argparse.ArgumentTypeError(f"unknown {min(unknown)!r}; there are {', '.join(allowed)}")
            return found

        return split

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peers, engines = names(tuple(PEERS)), names(tuple(OURS))
    parser.add_argument("--setup", type=peers, help=f"install these: {', '.join(PEERS)}")
    parser.add_argument("--peers", type=peers, default=[], help="measure these")
    parser.add_argument("--ours", type=engines, default=["pagoda", "pagoda-http"], help=f"of {', '.join(OURS)}")
    parser.add_argument("--model", default="smollm2-135m", help=f"GGUF file, alias, or {RANDOM} (default %(default)s)")
    of_weights = "of the weights, of all engines or, as vllm:bf16, of one; unset: all of an engine"
    parser.add_argument("--formats", type=lambda text: text.split(","), help=of_weights)
    parser.add_argument("--cases", type=names(ALL_CASES), default=list(ALL_CASES), help=f"of {', '.join(ALL_CASES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--online-seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2, help="of every engine (default %(default)s)")
    parser.add_argument("--max-others", type=float, default=0.15, help="share of the machine (default %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "local" / "peers.json")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    known = {entry for name in [*args.ours, *args.peers] for entry in format_names(name)}
    if unknown := set(args.formats or ()) - known:
        parser.error(f"unknown format {min(unknown)!r}; of these engines there are {', '.join(sorted(known))}")
    missing = [name for name in args.peers if not (PLACE / name / "ready").exists()]
    if missing:
        parser.error(f"not set up: {', '.join(missing)}; run with --setup {','.join(missing)}")
    return args


def environment(name: str) -> Path:
    """The peer's Python."""
    return PLACE / name / "venv" / "bin" / "python"


def set_up(name: str, peer: ModuleType) -> None:
    """Installs the peer's packages into an environment of its own and builds what it needs. Can be repeated."""
    place = PLACE / name
    if not environment(name).exists():
        venv.create(place / "venv", with_pip=True)
    pip = [environment(name), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *peer.PACKAGES], check=True)
    if hasattr(peer, "setup"):
        peer.setup(place)
    (place / "ready").touch()


def format_names(name: str) -> set[str]:
    """What --formats may say of an engine."""
    formats = importlib.import_module({**OURS, **PEERS}[name]).FORMATS
    return {*formats, *(f"{name}:{weights}" for weights in formats)}


def chosen(args: argparse.Namespace, files: ModelFiles) -> Iterator[Entry]:
    """The engines and formats that the command line asks for, with their model files."""
    for name in [*args.ours, *args.peers]:
        module = importlib.import_module({**OURS, **PEERS}[name])
        for weights, kind in module.FORMATS.items():
            if args.formats is None or {weights, f"{name}:{weights}"} & set(args.formats):
                yield Entry(name, module, weights, files.get(kind, weights, module, environment(name)))


def measure_machine(results: BenchResults, threads: int) -> None:
    """Adds what the machine can do."""
    program = ROOT / "build" / "bench" / "machine"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        compiler = ["c++", "-std=c++20", "-O3", "-pthread", ROOT / "bench" / "machine.cc", "-o", program]
        subprocess.run(compiler, check=True)
    text = subprocess.run([program, str(threads)], capture_output=True, text=True, check=True).stdout
    for line in map(json.loads, text.splitlines()):
        results.add(Row(MACHINE, "", "", "", line["case"], line["unit"], [line["value"]]))


def measure_entry(results: BenchResults, entry: Entry, files: ModelFiles, args: argparse.Namespace) -> None:
    """Runs one engine once and adds its rows; says on stderr what went wrong."""
    command = [entry.python, HERE / "worker.py", entry.module.__name__, "--model", entry.model]
    command += ["--vocab-size", str(files.vocab_size), "--cases", ",".join(args.cases)]
    command += ["--online-seconds", str(args.online_seconds), "--threads", str(args.threads)]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or entry.name in OURS}
    log = PLACE / f"{entry.name}.log"
    try:
        with log.open("a", encoding="utf-8") as errors:
            pipes = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
            ended = subprocess.run(command, env=variables, timeout=WORKER_SECONDS, **pipes)
        text, code = ended.stdout, ended.returncode
    except subprocess.TimeoutExpired as late:
        text, code = (late.stdout or b"").decode(), f"none in {WORKER_SECONDS} s"
    if code:
        print(f"{entry.name} {entry.weights}: exit status {code}, see {log}", file=sys.stderr)
    for line in text.splitlines():
        if line.startswith('{"case"'):
            add_value(results, entry, files, json.loads(line), args.max_others)


def add_value(results: BenchResults, entry: Entry, files: ModelFiles, line: dict, max_others: float) -> None:
    """Adds a worker's line, unless others disturbed it."""
    where = f"{entry.name} {entry.weights} {line['case']}"
    if line["others"] > max_others:
        print(f"{where}: left out, others used {line['others']:.0%} of the machine", file=sys.stderr)
        return
    version = entry.module.VERSION or results.commit
    bound = limit(line["case"], entry, files)
    case, unit, lower = line["case"], line["unit"], line["lower_is_better"]
    row = Row(entry.module.NAME, version, files.name, entry.weights, case, unit, [line["value"]], lower, bound)
    results.add(row)


def limit(case: str, entry: Entry, files: ModelFiles) -> Bound | None:
    """What the machine limits a case by, where that is one thing."""
    known = {item.name: item for item in CASES}.get(case)
    if known is None:
        return None
    if known.is_prefill:
        peak = "bf16_peak" if entry.weights in HALF_PRECISION else "int8_peak"
        return Bound(peak, files.prefill_operations(known.own))
    if known.name == "decode" and entry.module.FORMATS[entry.weights] == "gguf":
        return Bound("read_bandwidth", files.decode_bytes(entry.weights, known.own + known.output // 2))
    return None


if __name__ == "__main__":
    sys.exit(main())
