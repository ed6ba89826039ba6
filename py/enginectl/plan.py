"""Print how a model would use memory: weights, workspace, KV cache. Reads headers only; no weight is loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from enginectl.console import size_text
from enginectl.flags import add_config_flags, read_config
from pagoda.config import plan_memory
from pagoda.models import resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl plan`."""
    parser.add_argument("model", nargs="?", metavar="[MODEL]", help="model to plan for (see --model)")
    parser.add_argument("--json", action="store_true", default=False, help="print the plan as one JSON object")
    add_config_flags(parser, ["model", "engine"])


def run(args: argparse.Namespace) -> int:
    """Prints the plan on stdout."""
    config = read_config(args, getattr(args, "model", None))
    files = resolve(config.model.name)
    plan = plan_memory(files.path, config.engine)
    print(json.dumps(plan) if args.json else render(files.name, plan))
    return 0


def render(name: str, plan: Mapping[str, Any]) -> str:
    """The plan as a small table."""
    rows = [
        ("Weights", size_text(plan["weights_bytes"])),
        ("Workspace", size_text(plan["workspace_bytes"])),
        ("KV cache", f"{size_text(plan['kv_cache_bytes'])}: {kv_text(plan)}"),
        ("Sum", size_text(plan["weights_bytes"] + plan["workspace_bytes"] + plan["kv_cache_bytes"])),
        ("Budget", size_text(plan["budget_bytes"])),
        ("Free memory", f"{size_text(plan['available_bytes'])} of {size_text(plan['total_bytes'])}"),
        *swap_rows(plan),
        ("Longest request", f"{plan['max_model_len']:,} tokens"),
    ]
    lines = [f"{label:<17}{text}" for label, text in rows]
    return "\n".join([f"Memory plan of {name}", *lines, concurrency_text(plan)])


def swap_rows(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A row for the swap space on the host, if there is one."""
    if not plan["num_swap_blocks"]:
        return []
    return [("Swap space", f"{size_text(plan['swap_space_bytes'])} of the host: {plan['num_swap_blocks']:,} blocks")]


def kv_text(plan: Mapping[str, Any]) -> str:
    """`4,096 blocks x 16 tokens = 65,536 tokens`."""
    tokens = plan["num_blocks"] * plan["block_size"]
    return f"{plan['num_blocks']:,} blocks x {plan['block_size']} tokens = {tokens:,} tokens"


def concurrency_text(plan: Mapping[str, Any]) -> str:
    """`Maximum concurrency for 8,192 tokens per request: 8.00`."""
    return f"Maximum concurrency for {plan['max_model_len']:,} tokens per request: {plan['max_concurrency']:.2f}"
