"""`BenchResults`: one run of the benchmarks as a file: the machine, the commit, and a row per engine, format and case.

Written by the programs of bench/, read by `enginectl bench report`. The dataclasses are the schema: `load` refuses what
they do not have. A row holds the value of every round; nothing is averaged in a file.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SCHEMA = 1
MACHINE = "machine"  # the engine of rows that say what the machine can do
OURS = ("pagoda", "pagoda-bf16", "pagoda-mixed", "pagoda-http")  # as a library, the same with other inputs, as a server


@dataclass(frozen=True)
class Machine:
    """Where a run was made."""

    cpu: str
    cores: int  # that the run could use
    flags: list[str]  # of the instruction sets that matter here
    memory_bytes: int

    @classmethod
    def here(cls) -> Machine:
        """This machine, as Linux describes it."""
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        pairs = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        flags = [flag for flag in pairs.get("flags", "").split() if flag.startswith(("avx", "amx", "fma", "f16c"))]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(pairs.get("model name", platform.machine()), len(os.sched_getaffinity(0)), flags, memory)


@dataclass(frozen=True)
class Bound:
    """What limits a row: each unit of its value takes `per_unit` bytes or operations of the machine's row `case`."""

    case: str
    per_unit: float


@dataclass(frozen=True)
class Row:
    """What one engine reached in one case."""

    engine: str
    version: str
    model: str
    format: str  # of the weights: q4_1, bf16, ...
    case: str
    unit: str
    values: list[float]  # one per round
    lower_is_better: bool = False
    bound: Bound | None = None

    def check(self) -> None:
        """Raises ValueError for what no measurement gives."""
        where = f"row {self.engine}, {self.format}, {self.case}"
        if not self.values:
            raise ValueError(f"{where}: no values")
        bad = [value for value in self.values if isinstance(value, bool) or not math.isfinite(value) or value < 0]
        if bad:
            raise ValueError(f"{where}: values must be finite and not negative, got {bad[0]}")
        if self.bound and not self.bound.per_unit > 0:
            raise ValueError(f"{where}: bound.per_unit must be above 0, got {self.bound.per_unit}")


@dataclass
class BenchResults:
    """One run."""

    machine: Machine
    commit: str
    date: str  # UTC, ISO 8601
    schema: int = SCHEMA
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def begin(cls) -> BenchResults:
        """An empty run, made here and now, of the working directory's commit (`-dirty` when files differ from it)."""
        return cls(Machine.here(), _commit(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def add(self, row: Row) -> None:
        """Appends a row, or its values to the row of the same engine, version, model, format and case."""
        row.check()
        for known in self.rows:
            if _key(known) == _key(row):
                known.values.extend(row.values)
                return
        self.rows.append(row)

    def save(self, path: Path) -> None:
        """Writes the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> BenchResults:
    """Reads and checks a file. Raises OSError, or ValueError that names the file and what is wrong with it."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(given, dict) and given.get("schema") != SCHEMA:
            raise ValueError(f"schema must be {SCHEMA}, got {given.get('schema')!r}")
        results: BenchResults = _built(BenchResults, given, "file")
        results.machine = _built(Machine, given["machine"], "machine")
        results.rows = [_row(row, f"rows[{index}]") for index, row in enumerate(given.get("rows", []))]
        for row in results.rows:
            row.check()
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return results


def _row(given: Any, where: str) -> Row:
    bound = given.get("bound") if isinstance(given, dict) else None
    row: Row = _built(Row, given, where)
    object.__setattr__(row, "bound", None if bound is None else _built(Bound, bound, f"{where}.bound"))
    return row


_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "Machine": dict,
    "Bound | None": (dict, type(None)),
    "list[str]": list,
    "list[float]": list,
    "list[Row]": list,
}
_ITEMS: dict[str, type | tuple[type, ...]] = {"list[str]": str, "list[float]": (int, float)}


def _built(kind: Any, given: Any, where: str) -> Any:
    """A dataclass from JSON, with exactly its fields and their types; nested dataclasses stay dictionaries."""
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be an object, got {type(given).__name__}")
    known = {item.name: item for item in fields(kind)}
    unknown = given.keys() - known.keys()
    if unknown:
        raise ValueError(f"{where} has an unknown field {min(unknown)!r}; it may have {', '.join(known)}")
    for name, value in given.items():
        kind_name = str(known[name].type)
        expected, items = _TYPES[kind_name], _ITEMS.get(kind_name)
        listed = value if isinstance(value, list) else []
        if not isinstance(value, expected) or (items and not all(isinstance(item, items) for item in listed)):
            raise ValueError(f"{where}.{name} must be {kind_name}, got {value!r}")
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{kind.__name__}.__init__() ')}") from None


def _key(row: Row) -> tuple[str, ...]:
    return row.engine, row.version, row.model, row.format, row.case, row.unit


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
