"""Prints requirement lines of pyproject.toml, so that they are written down once.

`python tools/requirements.py build runtime test` gives the build backend's, the package's and the extra `test`'s, one a
line, as pip takes them.
"""

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(groups: list[str], pyproject: Path = PYPROJECT) -> list[str]:
    """Requirements of `build`, `runtime` and the names of extras, in order. SystemExit names an unknown group."""
    document = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    known: dict[str, list[str]] = {
        "build": document["build-system"]["requires"],
        "runtime": document["project"]["dependencies"],
        **document["project"].get("optional-dependencies", {}),
    }
    unknown = [group for group in groups if group not in known]
    if unknown:
        raise SystemExit(f"no such group: {', '.join(unknown)}; there are {', '.join(known)}")
    return [line for group in groups for line in known[group]]


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
