"""`enginectl bench report`, on made-up numbers that nobody measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginectl.__main__ import main
from enginectl.bench import bits
from enginectl.bench_results import BenchResults, Bound, Machine, Row, load


def row(engine: str, fmt: str, case: str, values: list[float], unit: str = "tok/s", **more: Any) -> Row:
    return Row(engine, "test", "made-up", fmt, case, unit, values, **more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Test data, not a measurement."""
    results = BenchResults(Machine("Testium 9", 2, ["avx2"], 8 << 30), "test", "2000-01-01T00:00:00Z")
    results.add(row("machine", "", "read", [40.0, 20.0, 60.0], "GB/s"))
    results.add(row("pagoda", "q4_1", "decode", [300.0], bound=Bound("read", 100e6)))
    results.add(row("pagoda", "q4_1", "decode", [100.0, 200.0], bound=Bound("read", 100e6)))
    results.add(row("alpha", "Q8_0", "decode", [400.0]))
    results.add(row("beta", "Q4_0", "decode", [125.0]))
    results.add(row("pagoda", "q4_1", "start", [0.5], "s", lower_is_better=True))
    results.add(row("alpha", "Q8_0", "start", [2.0], "s", lower_is_better=True))
    results.add(row("beta", "Q4_0", "start", [1.0], "s", lower_is_better=True))
    path = tmp_path / "made-up.json"
    results.save(path)
    return path


def cells(out: str, case: str, engine: str) -> list[str]:
    lines = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in out.splitlines() if line.startswith("| ")
    ]
    return next(line for line in lines if line[1] == case and line[2].startswith(engine))


def test_a_report_has_medians_ranges_ratios_and_shares(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "report", "--markdown", str(file)]) == 0
    out = capsys.readouterr().out
    assert "Testium 9, 2 cores" in out
    assert "read: 40.0 GB/s" in out
    ours = cells(out, "decode", "pagoda")
    assert ours[4:] == ["200", "100-300 (3)", "tok/s", "0.50", "1.60", "50%"]
    start = cells(out, "start", "pagoda")
    assert start[7:9] == ["2.00", "2.00"]
    assert out.index("pagoda test | q4_1 | 200") < out.index("alpha test | Q8_0 | 400")


def test_a_file_comes_back_as_it_was_saved(file: Path, tmp_path: Path) -> None:
    results = load(file)
    results.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text(encoding="utf-8") == file.read_text(encoding="utf-8")


def test_files_of_one_machine_are_one_table(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "report", "--markdown", str(file), str(file)]) == 0
    assert cells(capsys.readouterr().out, "decode", "pagoda")[5] == "100-300 (6)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema must be 1, got 2"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"rows": [{"engine": "x"}]}, "rows[0]: missing"),
        ({"rows": {}}, "file.rows must be list[Row]"),
        ({"machine": []}, "file.machine must be Machine"),
    ],
)
def test_what_is_no_result_file_is_refused(
    change: dict[str, Any], message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    assert main(["bench", "report", str(file)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert file.name in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": []}, "no values"),
        ({"values": [-1.0]}, "not negative, got -1"),
        ({"values": ["fast"]}, "rows[0].values must be list[float]"),
        ({"bound": {"case": "read", "per_unit": 0}}, "per_unit must be above 0"),
        ({"bound": {"case": "read"}}, "rows[0].bound: missing"),
        ({"unit": 3}, "rows[0].unit must be str, got 3"),
    ],
)
def test_a_row_that_nobody_can_have_measured_is_refused(
    change: dict[str, Any], message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content["rows"] = [{**content["rows"][0], **change}]
    file.write_text(json.dumps(content), encoding="utf-8")
    assert main(["bench", "report", str(file)]) == 2
    assert message in capsys.readouterr().err


def test_results_of_another_machine_do_not_mix(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content["machine"]["cpu"] = "Testium 10"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content), encoding="utf-8")
    assert main(["bench", "report", str(file), str(other)]) == 2
    assert "not comparable" in capsys.readouterr().err


def test_widths_of_formats() -> None:
    assert [bits(name) for name in ("q4_1", "Q4_0", "int4", "Q8_0", "int8", "bf16", "F16", "")] == [
        "4", "4", "4", "8", "8", "16", "16", "",
    ]  # fmt: skip


def test_this_machine_describes_itself() -> None:
    machine = Machine.here()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 20
