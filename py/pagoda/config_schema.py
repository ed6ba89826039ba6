"""What a configuration may contain: the sections, their rows, old names of keys, and the command-line flag of every
row.

Owns no values. `pagoda.config` builds one `Schema` from the engine's rows; `enginectl` makes its flags from it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence

from pagoda.field_rows import FieldRow

SECTIONS = ("model", "engine", "server", "sampling")
ALIASES: Mapping[str, Mapping[str, str]] = {
    "engine": {"gpu_memory_utilization": "memory_utilization", "speculative_config": "speculative"}
}
RESERVED_FLAGS = ("help", "config", "set", "json", "origin")
_FLAG_ORDER = ("model", "sampling", "engine", "server")


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSettings:
    """Section `model`: which model, and how it is presented."""

    name: str = dataclasses.field(
        default="smollm2-135m",
        metadata={"doc": "model to run: an alias, a directory in Hugging Face layout, a .gguf file, or a hub id"},
    )
    served_name: str | None = dataclasses.field(
        default=None, metadata={"doc": "name that clients use for the model; unset: the model's own name"}
    )
    chat_template: str | None = dataclasses.field(
        default=None, metadata={"doc": "file with a Jinja chat template that replaces the model's own"}
    )
    skip_tokenizer: bool = dataclasses.field(
        default=False, metadata={"doc": "load no tokenizer; prompts are then token ids"}
    )


class Schema:
    """The rows of all sections, by section and name.

    Invariants: 1. every row has exactly one flag; 2. no two rows share a flag; 3. an alias is never the name of a row.
    """

    def __init__(self, sections: Mapping[str, Sequence[FieldRow]]) -> None:
        self.rows = {section: {row.name: row for row in sections[section]} for section in SECTIONS}
        self.flags = self._name_flags()

    def canonical(self, section: str, key: object) -> str | None:
        """The row name that `key` means in `section`, or None."""
        name = ALIASES.get(section, {}).get(str(key), str(key))
        return name if name in self.rows[section] else None

    def aliases(self, section: str, name: str) -> list[str]:
        """Other names under which the row is accepted."""
        return [alias for alias, target in ALIASES.get(section, {}).items() if target == name]

    def unknown_key(self, section: str, key: object) -> str:
        """The text for a key that `section` does not have, with the nearest name when there is one."""
        nearest = self._nearest(section, key)
        return f"unknown key {section}.{_short(key)}" + (f"; did you mean {nearest}?" if nearest else "")

    def unknown_section(self, key: object) -> str:
        """The text for a top-level key that is no section; a row's name is sent to its section."""
        allowed = f"; the sections are {', '.join(SECTIONS)}"
        if near := difflib.get_close_matches(str(key)[:80], SECTIONS, n=1):
            return f"unknown section {_short(key)}; did you mean {near[0]}?"
        homes = [f"{section}.{key}" for section in SECTIONS if self.canonical(section, key)]
        return f"unknown section {_short(key)}" + (f"; did you mean {' or '.join(homes)}?" if homes else allowed)

    def _nearest(self, section: str, key: object) -> str | None:
        wanted = str(key)[:80].replace("-", "_").lower()
        elsewhere = [other for other in SECTIONS if other != section and self.canonical(other, wanted)]
        own = [*self.rows[section], *ALIASES.get(section, {})]
        if wanted not in own and elsewhere:
            return f"{elsewhere[0]}.{wanted}"
        near = difflib.get_close_matches(wanted, own, n=1)
        return f"{section}.{near[0]}" if near else None

    def _name_flags(self) -> dict[tuple[str, str], str]:
        taken = {*RESERVED_FLAGS}
        flags = {}
        for section in _FLAG_ORDER:
            for row in self.rows[section].values():
                flag = "model" if (section, row.name) == ("model", "name") else row.flag
                flag = f"{section}-{flag}" if flag in taken else flag
                taken.add(flag)
                flags[section, row.name] = f"--{flag}"
        return flags


def _short(key: object) -> str:
    text = str(key)
    return text if len(text) <= 60 else text[:57] + "..."
