"""The tiny models that the end-to-end tests run on, by name, and the instruction sets of this machine.

Every module in e2e/families has a list FAMILIES; this collects them.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

import e2e.families
from e2e.tiny_models import Family

from pagoda.config import system_info

FAMILIES: list[Family] = [
    family
    for module in sorted(pkgutil.iter_modules(e2e.families.__path__), key=lambda module: module.name)
    for family in import_module(f"e2e.families.{module.name}").FAMILIES
]

# name -> family; the configuration is family.directories[name] or family.ggufs[name]
DIRECTORIES: dict[str, Family] = {name: family for family in FAMILIES for name in family.directories}
GGUFS: dict[str, Family] = {name: family for family in FAMILIES for name in family.ggufs}
EQUATIONS: list[str] = [name for family in FAMILIES for name in family.equations]

assert len(DIRECTORIES) == sum(len(family.directories) for family in FAMILIES), "two families share a name"
assert len(GGUFS) == sum(len(family.ggufs) for family in FAMILIES), "two families share a name"

# Instruction sets from the simplest on, the machine's own last; one that has any but portable has avx2.
_OWN = system_info()["isa"]
ISAS = ["portable"] if _OWN == "portable" else list(dict.fromkeys(["portable", "avx2", _OWN]))
