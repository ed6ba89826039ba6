"""Show the configuration in use, as YAML that `--config` reads. Secrets are replaced by a comment."""

from __future__ import annotations

import argparse
import json
from typing import Any

from enginectl.flags import add_config_flags, read_config
from pagoda.config import Config, Setting
from pagoda.config_schema import SECTIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl config`."""
    parser.add_argument("action", choices=["show"], metavar="show", help="show: print every value in use")
    parser.add_argument("--origin", action="store_true", default=False, help="say where each value came from")
    add_config_flags(parser, SECTIONS)


def run(args: argparse.Namespace) -> int:
    """Prints the configuration on stdout."""
    print(render(read_config(args), args.origin))
    return 0


def render(config: Config, origin: bool) -> str:
    """The configuration as YAML; with `origin` each line ends with a comment that tells the value's source."""
    settings = config.settings()
    lines = []
    for section in SECTIONS:
        own = [setting for setting in settings if setting.section == section]
        lines.append(f"{section}:")
        lines += [_line(setting, origin) for setting in own]
        if section == "sampling" and not own:
            lines.append("  # nothing set: the model's generation_config.json applies, then the built-in defaults")
    return "\n".join(lines)


def _line(setting: Setting, origin: bool) -> str:
    comment = f"  # {setting.origin}" if origin else ""
    if setting.row.secret and setting.value:
        return f"  # {setting.row.name}: (hidden){comment}"
    return f"  {setting.row.name}: {_yaml(setting.value)}{comment}"


def _yaml(value: Any) -> str:
    """A value on one line. JSON is YAML, apart from maps with number keys."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
