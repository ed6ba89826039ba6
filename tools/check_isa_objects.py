"""Checks that the per-ISA kernel objects define nothing that another object could share.

An inline function or template instance that a compiler leaves out of line is a weak symbol: of all copies the linker
keeps one, and if that is the one compiled for AVX-512, a machine without AVX-512 dies in ordinary code. Called by ctest
with the path of `nm` and the object files of pagoda_cpu, separated by semicolons.
"""

import subprocess
import sys
from pathlib import Path

ISA_SUFFIXES = ("_avx2.cc.o", "_avx2_vnni.cc.o", "_avx512.cc.o", "_amx.cc.o")
SHARED_TYPES = "WVuvw"


def shared_symbols(nm: str, path: str) -> list[str]:
    """Names of the weak and unique symbols that the object file at `path` defines."""
    listing = subprocess.run(
        [nm, "--demangle", "--defined-only", path], check=True, capture_output=True, text=True
    ).stdout
    rows = (line.split(maxsplit=2) for line in listing.splitlines())
    return [row[2] for row in rows if len(row) == 3 and row[1] in SHARED_TYPES]


def main() -> int:
    """Prints every shared symbol; 1 if there is one."""
    nm, objects = sys.argv[1], sys.argv[2].split(";")
    found = [
        f"{Path(path).name}: {name}"
        for path in objects
        if path.endswith(ISA_SUFFIXES)
        for name in shared_symbols(nm, path)
    ]
    for line in found:
        print(f"{line}: put it in an anonymous namespace, or do not use it in a per-ISA file")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
