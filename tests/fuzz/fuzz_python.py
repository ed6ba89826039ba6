"""Runs one target of python_targets.py under atheris: `python tests/fuzz/fuzz_python.py TARGET [libFuzzer's options]`.

Everything of pagoda, PyYAML and Jinja2 that is imported here is instrumented, so that the fuzzer sees what it reaches.
"""

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

with atheris.instrument_imports(include=["pagoda", "yaml", "jinja2", "python_targets"]):
    from python_targets import TARGETS, warm_up


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"the first argument must be one of {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]

    def run(data: bytes) -> None:
        target(data)

    warm_up()
    atheris.Setup(sys.argv, run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
