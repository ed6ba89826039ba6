"""The table of faults in docs/faults.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASE = re.compile(r"^\| ([A-Z]\d\d) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def existing() -> set[str]:
    """All tests: functions of pytest by name, C++ tests as Suite.name."""
    names: set[str] = set()
    for folder in ("py", "e2e"):
        for path in (ROOT / "tests" / folder).glob("test_*.py"):
            names.update(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))
    for path in (ROOT / "tests/cpp").glob("*_test.cc"):
        found = re.findall(r"^TEST(?:_[FP])?\((\w+), (\w+)\)", path.read_text(encoding="utf-8"), re.MULTILINE)
        names.update(f"{suite}.{name}" for suite, name in found)
    return names


def test_every_test_that_the_table_of_faults_names_exists() -> None:
    text = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    cases = CASE.findall(text)
    assert len(cases) == len(re.findall(r"^\| [A-Z]\d", text, re.MULTILINE)) > 50, "a line is no case"
    assert len({case for case, _ in cases}) == len(cases)
    tests = existing()
    for case, names in cases:
        told = re.findall(r"`([^`]+)`", names)
        assert told, case
        assert set(told) <= tests, (case, set(told) - tests)
