"""Look after models: list those that were fetched, inspect one, verify that it computes what it should, remove one."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from enginectl.console import fail, note, size_text, styled
from enginectl.inspection import render_listing, render_verification
from pagoda.client import inspect_text
from pagoda.config import inspect_model
from pagoda.model_cache import cached_models, remove
from pagoda.models import resolve
from pagoda.progress_bar import ProgressBar
from pagoda.verification import Verification, verify

FAILED = 2
_ACTIONS = {
    "list": "models that were fetched, and the aliases that can be",
    "inspect": "what a model holds and what Pagoda makes of it; no weight is read",
    "verify": "read all weights for NaN and infinity, and compare with transformers where it is installed",
    "rm": "remove a fetched model from the cache",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl models`."""
    text = "; ".join(f"{name}: {what}" for name, what in _ACTIONS.items())
    parser.add_argument("action", choices=list(_ACTIONS), metavar="list|inspect|verify|rm", help=text)
    parser.add_argument("model", nargs="?", metavar="[MODEL]", help="alias, directory, .gguf file or hub id")
    parser.add_argument("--json", action="store_true", default=False, help="print one JSON object")
    parser.add_argument("--tensors", action="store_true", default=False, help="inspect: list every stored tensor")
    parser.add_argument(
        "--weight-format",
        default="auto",
        metavar="FORMAT",
        help="inspect: as if the weights were loaded in this format",
    )
    parser.add_argument(
        "--weights-only", action="store_true", default=False, help="verify: read the weights, compare nothing"
    )
    parser.add_argument("--yes", action="store_true", default=False, help="rm: do not ask")


def run(args: argparse.Namespace) -> int:
    """Runs the action. Results go to stdout."""
    model = getattr(args, "model", None)
    if args.action == "list":
        return fail(f"`enginectl models list` takes no model, got {model}") if model else _list(args)
    if not model:
        return fail(f"`enginectl models {args.action}` needs a model")
    actions = {"inspect": _inspect, "verify": _verify, "rm": _remove}
    return actions[args.action](args, model)


def _list(args: argparse.Namespace) -> int:
    models = cached_models()
    if args.json:
        rows = [{**dataclasses.asdict(model), "path": str(model.path) if model.path else None} for model in models]
        print(json.dumps({"models": rows}))
        return 0
    for model in models:
        state = f"{size_text(model.num_bytes):>10}  {model.path}" if model.path else f"{'-':>10}  not fetched"
        print(f"{model.name:<40} {model.kind:<6}{state}")
    return 0


def _inspect(args: argparse.Namespace, model: str) -> int:
    files = resolve(model)
    listing: dict[str, Any] = {
        "model": files.name,
        "path": str(files.path),
        **inspect_model(files.path, args.weight_format),
    }
    listing["text"] = inspect_text(files)
    if args.json:
        print(json.dumps(listing))
    else:
        print(render_listing(listing, args.tensors))
    return 0 if not listing["refusal"] and listing["text"]["num_tokens"] is not None else FAILED


def _verify(args: argparse.Namespace, model: str) -> int:
    files = resolve(model)
    with ProgressBar("reading weights") as bar:
        result = verify(files, bar.show, compare=not args.weights_only)
    print(json.dumps(_as_json(result)) if args.json else render_verification(files.name, result))
    return 0 if result.passed else FAILED


def _as_json(result: Verification) -> dict[str, Any]:
    comparison = None
    if result.comparison is not None:
        values = dataclasses.asdict(result.comparison)
        comparison = {name: None if value != value else value for name, value in values.items()}  # JSON has no NaN
        comparison["agrees"] = result.comparison.agrees
    return {"passed": result.passed, "scan": result.scan, "comparison": comparison, "skipped": result.skipped}


def _remove(args: argparse.Namespace, model: str) -> int:
    found = next((cached for cached in cached_models() if cached.name == model and cached.path), None)
    if found is not None and not args.yes:
        if not sys.stdin.isatty():
            return fail(f"{found.path} ({size_text(found.num_bytes)}) would be removed; add --yes to do it")
        answer = input(f"remove {found.path} ({size_text(found.num_bytes)})? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            note("nothing was removed")
            return 0
    removed = remove(model)
    note(f"{styled('removed', 'green', sys.stderr)} {removed.path}, {size_text(removed.num_bytes)}")
    return 0
