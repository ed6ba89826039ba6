"""What commands print with: messages on stderr, colours only on a terminal, sizes for people, and the
argument parser.

Imported by every command; imports nothing of Pagoda, so that `enginectl --help` is fast.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import typing
from typing import TextIO

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def colours(stream: TextIO) -> bool:
    """Whether `stream` is a terminal whose user wants colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: TextIO) -> str:
    """`text` in a style of `bold dim red green yellow cyan`, or unchanged where colours are off."""
    return f"\033[{_STYLES[style]}m{text}\033[0m" if colours(stream) else text


def fail(text: str, code: int = 2) -> int:
    """Prints `error: text` on stderr, once for every line of `text`, and returns `code`."""
    for line in text.splitlines() or [""]:
        print(f"{styled('error:', 'red', sys.stderr)} {line}", file=sys.stderr)
    return code


def warn(text: str) -> None:
    """Prints `warning: text` on stderr."""
    print(f"{styled('warning:', 'yellow', sys.stderr)} {text}", file=sys.stderr)


def note(text: str) -> None:
    """Prints a line about progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def size_text(num_bytes: float) -> str:
    """`96.6 MiB`, `4.0 GiB`; `512 B` below 1 KiB."""
    for unit in ("B", "KiB", "MiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose flags are never abbreviated and whose errors suggest the flag that was meant."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )

    def format_usage(self) -> str:
        """The positionals and one word for the flags, which are too many for a line."""
        return f"usage: {self.prog} {self._positionals_text()}[options]\n"

    def format_help(self) -> str:
        """The short usage above argparse's list of options."""
        self.usage = f"{self.prog} {self._positionals_text()}[options]"
        return super().format_help()

    def _positionals_text(self) -> str:
        words = [str(action.metavar or action.dest) for action in self._actions if not action.option_strings]
        return "".join(f"{word} " for word in words)

    def error(self, message: str) -> typing.NoReturn:
        """Prints the fault, a nearby flag and where to find help; exits with 2."""
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized arguments: ") and unknown[0].startswith("-"):
            word = unknown[0].partition("=")[0].replace("_", "-")
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            message = f"unknown flag {unknown[0]}" + (f"; did you mean {near[0]}?" if near else "")
        fail(message)
        note(f"`{self.prog} --help` lists the options")
        sys.exit(2)
