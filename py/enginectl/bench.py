"""Print the table of benchmark results: medians, ranges, ratios to the best peer, shares of what the machine can do."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

from enginectl.bench_results import MACHINE, OURS, BenchResults, Row, load

HEAD = ["model", "case", "engine", "weights", "median", "min-max", "unit", "x best peer", "x same bits", "of limit"]
BITS = {"q4": "4", "int4": "4", "q8": "8", "int8": "8", "f8": "8", "bf16": "16", "f16": "16", "f32": "32"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl bench`."""
    parser.add_argument("action", choices=["report"], help="report: print the table")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="results that the programs of bench/ wrote")
    parser.add_argument("--markdown", action="store_true", default=False, help="print a Markdown table")


def run(args: argparse.Namespace) -> int:
    """Prints the table of all files, which must be of one kind of machine."""
    results = [load(path) for path in args.files]
    machines = [(item.machine.cpu, item.machine.cores) for item in results]
    for path, machine in zip(args.files, machines, strict=True):
        if machine != machines[0]:
            raise ValueError(f"{path} is of {machine}, {args.files[0]} of {machines[0]}: not comparable")
    merged = BenchResults(results[0].machine, results[0].commit, results[0].date)
    for item in results:
        for row in item.rows:
            merged.add(row)
    print(render(results, merged.rows, args.markdown))
    return 0


def render(results: list[BenchResults], rows: list[Row], markdown: bool) -> str:
    """The head, what the machine can do, and the table."""
    machine = results[0].machine
    head = [f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB, {' '.join(machine.flags)}"]
    head += [f"commit {item.commit}, {item.date}" for item in results]
    limits = {row.case: row for row in rows if row.engine == MACHINE}
    head += [f"{row.case}: {_number(median(row.values))} {row.unit}" for row in limits.values()]
    measured = sorted(
        (row for row in rows if row.engine != MACHINE),
        key=lambda row: (row.model, _first(rows, row), row.engine not in OURS, row.engine, row.format),
    )
    table = [_cells(row, measured, limits) for row in measured]
    return "\n".join([*head, "", *_table([HEAD, *table], markdown)])


def _first(rows: list[Row], row: Row) -> int:
    """Cases come in the order of the files."""
    return next(index for index, other in enumerate(rows) if other.case == row.case)


def _cells(row: Row, rows: list[Row], limits: dict[str, Row]) -> list[str]:
    peers = [o for o in rows if (o.model, o.case, o.unit) == (row.model, row.case, row.unit) and o.engine not in OURS]
    same = [other for other in peers if bits(other.format) == bits(row.format)]
    return [
        row.model,
        row.case,
        f"{row.engine} {row.version}",
        row.format,
        _number(median(row.values)),
        f"{_number(min(row.values))}-{_number(max(row.values))} ({len(row.values)})",
        row.unit,
        _ratio(row, peers),
        _ratio(row, same),
        _share(row, limits),
    ]


def bits(weights: str) -> str:
    """How wide the weights of a format are; the name itself when that is unknown."""
    name = weights.lower().split()[0] if weights else ""
    return next((width for prefix, width in BITS.items() if name.startswith(prefix)), name)


def _ratio(row: Row, peers: list[Row]) -> str:
    """Our median against the best of the peers', above 1 when ours is better; only our rows have one."""
    if row.engine not in OURS or not peers:
        return ""
    medians = [median(peer.values) for peer in peers]
    own = median(row.values)
    above, below = (min(medians), own) if row.lower_is_better else (own, max(medians))
    return f"{above / below:.2f}" if below else ""


def _share(row: Row, limits: dict[str, Row]) -> str:
    """How much of the machine's limit the median uses."""
    if row.bound is None or row.bound.case not in limits:
        return ""
    limit = limits[row.bound.case]
    scale = {"GB/s": 1e9, "GOP/s": 1e9, "GFLOP/s": 1e9}.get(limit.unit, 1.0)
    return f"{median(row.values) * row.bound.per_unit / (median(limit.values) * scale):.0%}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _table(rows: list[list[str]], markdown: bool) -> list[str]:
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return [lines[0], "|" + "---|" * len(HEAD), *lines[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
