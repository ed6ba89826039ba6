"""Where configuration values come from: a YAML file, `--set` assignments, flags, and keyword values of the Python
API.

Each source becomes a list of `Entry`; faults are collected as texts that begin with the place (`config.yaml:14:
...`), so that all of them can be reported at once. Called by `pagoda.config`, which merges the entries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagoda.config_schema import SECTIONS, Schema
from pagoda.field_rows import FieldError

if TYPE_CHECKING:
    from pagoda.yaml_loader import Located, YamlError

FlagValue = str | Sequence[str] | bool


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One converted value. `where` begins an error text; `origin` is what `config show --origin` prints."""

    section: str
    name: str
    value: Any
    where: str
    origin: str


class SourceReader:
    """Reads sources against one schema, in order of rising precedence. `entries` and `faults` grow with each call."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.entries: list[Entry] = []
        self.faults: list[str] = []

    def read_file(self, path: Path) -> None:
        """Adds the values of a YAML file; an empty file adds none."""
        try:
            data = path.read_bytes()
        except OSError as error:
            self.faults.append(f"{path}: cannot read the configuration: {error.strerror}")
            return
        tree, errors = _load_yaml(data)
        self.faults += [f"{path}:{error.line}: {error}" for error in errors]
        if tree is None or tree.value is None:
            return
        if not isinstance(tree.value, dict):
            self.faults.append(f"{path}:{tree.line}: must be a map with the sections {', '.join(SECTIONS)}")
            return
        for section, body in tree.value.items():
            self._read_section(path, section, body)

    def read_sets(self, assignments: Sequence[str]) -> None:
        """Adds `--set section.key=value` assignments; the value is YAML. A later one wins over an earlier one."""
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            section, dot, key = path.strip().partition(".")
            where = f"--set {path}"
            if not (equals and dot and section and key):
                self.faults.append(f"--set {assignment[:80]}: must look like section.key=value")
            elif section not in SECTIONS:
                self.faults.append(f"{where}: {self._schema.unknown_section(section)}")
            else:
                tree, errors = _load_yaml(text)
                self.faults += [f"{where}: {error}" for error in errors]
                if not errors:
                    self._add(section, key, tree.plain() if tree is not None else "", where, "--set")

    def read_flags(self, flags: Mapping[tuple[str, str], FlagValue]) -> None:
        """Adds command-line flags, keyed by (section, row name); their values are still text."""
        for (section, name), text in flags.items():
            row, flag = self._schema.rows[section][name], self._schema.flags[section, name]
            try:
                self.entries.append(Entry(section, name, row.from_text(text), flag, flag))
            except FieldError as error:
                self.faults.append(f"{flag}: {section}.{name} {error}")

    def read_values(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds typed values given by a Python caller, by section and key."""
        for section, body in values.items():
            if section not in SECTIONS:
                self.faults.append(self._schema.unknown_section(section))
                continue
            for key, value in body.items():
                self._add(section, key, value, "", "argument")

    def _read_section(self, path: Path, section: Any, body: Located) -> None:
        place = f"{path}:{body.line}"
        if section not in SECTIONS:
            self.faults.append(f"{place}: {self._schema.unknown_section(section)}")
        elif isinstance(body.value, dict):
            seen: dict[str, Any] = {}
            for key, entry in body.value.items():
                name = self._schema.canonical(section, key)
                if name in seen:
                    both = f"{section}.{key} and {section}.{seen[name]}"
                    self.faults.append(f"{path}:{entry.line}: {both} are the same setting; give one")
                    continue
                if name is not None:
                    seen[name] = key
                self._add(section, key, entry.plain(), f"{path}:{entry.line}", f"{path}:{entry.line}")
        elif body.value is not None:
            self.faults.append(f"{place}: section {section} must be a map of keys and values")

    def _add(self, section: str, key: object, value: Any, where: str, origin: str) -> None:
        prefix = f"{where}: " if where else ""
        name = self._schema.canonical(section, key)
        if name is None:
            self.faults.append(prefix + self._schema.unknown_key(section, key))
            return
        try:
            converted = self._schema.rows[section][name].from_yaml(value)
        except FieldError as error:
            self.faults.append(f"{prefix}{section}.{key} {error}")
            return
        self.entries.append(Entry(section, name, converted, where, origin))


def _load_yaml(data: bytes | str) -> tuple[Located | None, list[YamlError]]:
    """As `yaml_loader.load_yaml`, which is imported when there is YAML to read: a start without is spared that."""
    from pagoda import yaml_loader

    return yaml_loader.load_yaml(data)
