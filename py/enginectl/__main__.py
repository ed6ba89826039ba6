"""Entry point of `python -m enginectl` and of the console script `enginectl`.

Finds the command, imports its module only then, and turns every expected failure into a text on stderr and an exit
code. A command module has `add_arguments(parser)` and `run(args) -> int`.
"""

from __future__ import annotations

import difflib
import gc
import importlib
import os
import sys
from collections.abc import Sequence

from enginectl.console import CommandParser, fail

COMMANDS = {
    "serve": "start the OpenAI-compatible HTTP server",
    "chat": "talk to a model in the terminal",
    "complete": "continue one prompt",
    "run-batch": "answer a file of requests in OpenAI's batch format",
    "pull": "fetch a model into the cache",
    "models": "list, inspect, verify and remove models",
    "convert": "write a model as a GGUF file or as safetensors, in another weight format",
    "plan": "print the memory plan of a model without loading it",
    "trace": "write a trace of steps and requests, for Perfetto",
    "bench": "print the table of benchmark results",
    "doctor": "check this machine and this installation",
    "config": "show the configuration in use",
}
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 done, 2 usage/configuration/model, 3 device, 4 port in use, 130
    Ctrl-C.
    """
    try:
        try:
            code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        except SystemExit as stop:  # argparse, after --help or a usage error
            code = stop.code if isinstance(stop.code, int) else 0
        sys.stdout.flush()  # here, so that a reader who left is noticed while it can still be handled
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"pagoda-engine {version('pagoda-engine')}")
        except PackageNotFoundError:
            return fail("pagoda-engine is not installed, so it has no version")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        return fail(f"unknown command '{name}'; {hint}")
    gc.disable()  # nothing of what is imported is garbage
    command = importlib.import_module(f"enginectl.{name.replace('-', '_')}")
    gc.enable()
    parser = CommandParser(prog=f"enginectl {name}", description=command.__doc__)
    command.add_arguments(parser)
    args = parser.parse_intermixed_args(argv[1:])
    try:
        return int(command.run(args))
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        from enginectl.failures import report

        return report(error)


def _overview() -> str:
    rows = "\n".join(f"  {name:<11}{text}" for name, text in COMMANDS.items())
    more = "`enginectl COMMAND --help` lists a command's options."
    return f"usage: enginectl COMMAND [options]\n\ncommands:\n{rows}\n\n{more}"


if __name__ == "__main__":
    sys.exit(main())
