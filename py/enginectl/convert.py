"""Write a model as a GGUF file (OUT.gguf) or as a directory of safetensors, in another weight format if wanted.

IN is a directory in Hugging Face layout with safetensors or with pickles (.bin, .pt, .pth, .ckpt, .pkl; read with
torch, nothing in them is run), one such pickle beside its config.json, a .gguf file, an alias or a hub id. A GGUF file
can become another GGUF file. Weights stream through, so that memory does not grow with the model.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from enginectl.console import note, size_text, styled, warn
from pagoda.conversion import convert
from pagoda.progress_bar import ProgressBar

_FORMATS = (
    "OUT.gguf: auto, f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0; a directory: auto, f32, f16, bf16, int8, int4, "
    "f8_e4m3 (the last three as compressed-tensors). auto keeps what the weights are stored in; what GGUF has no type "
    "for becomes f16. Embedding and head of a GGUF file get q8_0 where the other matrices get fewer bits"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl convert`."""
    parser.add_argument("source", metavar="IN", help="directory, .gguf file, pickle file, alias or hub id")
    parser.add_argument("target", metavar="OUT", type=Path, help="NAME.gguf, or a directory to make")
    parser.add_argument("--weight-format", default="auto", metavar="FORMAT", help=_FORMATS)
    parser.add_argument("--force", action="store_true", default=False, help="replace OUT if it exists")
    parser.add_argument(
        "--no-tokenizer", action="store_true", default=False, help="leave the tokenizer out of a GGUF file"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the path of what was written on stdout."""
    with _terminable(), ProgressBar("converting") as bar:
        done = convert(
            args.source, args.target, args.weight_format, args.force, not args.no_tokenizer, progress=bar.show
        )
    for text in done.notes:
        warn(text)
    note(f"{styled('written', 'green', sys.stderr)} {size_text(done.num_bytes)} of weights")
    print(done.path)
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Lets SIGTERM and a closed terminal unwind, so that what is half written is removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)  # as shells report it

    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
