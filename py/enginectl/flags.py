"""Command-line flags made from the configuration's rows, and the `Config` that they lead to. Used by every command
that loads one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from enginectl.console import warn
from pagoda.config import Config, ConfigError, config_schema, load_config
from pagoda.config_sources import FlagValue
from pagoda.field_rows import FieldRow

_TITLES = {
    "model": "model",
    "sampling": "sampling (how tokens are chosen when nothing else is asked for)",
    "engine": "engine",
    "server": "server",
}
_PREFIX = "row:"


def add_config_flags(parser: argparse.ArgumentParser, sections: Sequence[str]) -> None:
    """Adds `--config`, `--set` and one flag for every row of `sections`."""
    common = parser.add_argument_group("configuration (a flag wins over --set, --set over the file)")
    common.add_argument("--config", metavar="FILE", help="YAML file with the sections model, engine, server, sampling")
    common.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE", help="set one value, written as YAML")
    schema = config_schema()
    for section in sections:
        group = parser.add_argument_group(_TITLES[section])
        for row in schema.rows[section].values():
            names = [schema.flags[section, row.name]]
            names += [f"--{alias.replace('_', '-')}" for alias in schema.aliases(section, row.name)]
            group.add_argument(*names, dest=f"{_PREFIX}{section}.{row.name}", help=row.help(), **_shape(row))


def read_config(args: argparse.Namespace, model: str | None = None) -> Config:
    """The configuration that the flags in `args` and the positional `model` describe. Prints its warnings; raises
    ConfigError.
    """
    flags: dict[tuple[str, str], FlagValue] = {}
    for key, value in vars(args).items():
        if key.startswith(_PREFIX):
            section, _, name = key.removeprefix(_PREFIX).partition(".")
            flags[section, name] = value
    if model is not None:
        named = flags.setdefault(("model", "name"), model)
        if named != model:
            raise ConfigError([f"the model is given twice: {model} and --model {named}"])
    config = load_config(getattr(args, "config", None), getattr(args, "set", ()), flags)
    for text in config.warnings:
        warn(text)
    return config


def _shape(row: FieldRow) -> dict[str, Any]:
    """How argparse reads the flag; the text itself is converted by the row."""
    if row.base_type == "bool":
        return {"action": argparse.BooleanOptionalAction}
    words = {
        "int": "SIZE" if row.is_bytes else "N",
        "float": "X",
        "str": "TEXT",
        "list[int]": "ID[,ID...]",
        "list[str]": "TEXT",
        "dict[int,float]": "ID:X[,ID:X...]",
        "map": "{KEY: VALUE, ...}",
    }
    repeated = row.base_type.startswith(("list", "dict"))
    return {"metavar": words[row.base_type], "action": "append" if repeated else "store"}
