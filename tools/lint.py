"""Runs the source rules over the tree: `python tools/lint.py [root]`. One line per finding, status 1 if any."""

import sys
from pathlib import Path

import lint_calls
import lint_floors
import lint_imports
import lint_size


def main() -> int:
    """Runs every lint on the tree given, or on the one this file lies in."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    lints = (lint_floors, lint_size, lint_calls, lint_imports)
    findings = [finding for lint in lints for finding in lint.check(root)]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
