"""Fetch a model into the cache and check it. A file that is there with the right checksum is not fetched again."""

from __future__ import annotations

import argparse

from pagoda.models import ALIASES, pull, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl pull`."""
    parser.add_argument("name", metavar="NAME", help="alias or hub id, for example smollm2-135m")


def run(args: argparse.Namespace) -> int:
    """Prints the path of the files on stdout."""
    print(pull(args.name) if args.name in ALIASES else resolve(args.name).path)
    return 0
