"""What `enginectl models inspect` and `verify` print. Pure functions from listings to text; called by models.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from enginectl.console import size_text
from pagoda.verification import Verification

_TEMPLATE_LINES = 12
_NUM_FAULTS = 20


def render_listing(listing: Mapping[str, Any], all_tensors: bool) -> str:
    """A model's listing (see `pagoda.config.inspect_model`), with each stored tensor when `all_tensors`."""
    stored = sum(tensor["bytes"] for tensor in listing["tensors"])
    lines = [f"{listing['model']}: {listing['path']}", ""]
    rows = [("architecture", listing["architecture"] or "unknown")]
    if listing["quantisation"]:
        rows.append(("quantisation", listing["quantisation"]))
    rows.append(("stored", f"{size_text(stored)} in {len(listing['tensors']):,} tensors: {_types(listing['tensors'])}"))
    if listing["refusal"]:
        rows.append(("supported", f"no: {listing['refusal']}"))
    else:
        usable = listing["text"]["num_tokens"] is not None
        rows.append(("supported", "yes" if usable else "with prompts of token ids only: the tokenizer is not usable"))
        rows.append(("parameters", _parameters(listing)))
        rows.append(("in memory", f"{size_text(listing['packed_bytes'])} with rotary tables for the whole context"))
        rows += list(listing["facts"].items())
    lines += [f"{name:<26}{text}" for name, text in rows]
    lines += [f"{'warning':<26}{text}" for text in listing["warnings"]]
    if not listing["refusal"]:
        lines += ["", *_matrix_table(listing["matrices"])]
    if all_tensors:
        lines += ["", *(_tensor_line(tensor) for tensor in listing["tensors"])]
    return "\n".join([*lines, "", *_text_lines(listing["text"])])


def render_verification(name: str, result: Verification) -> str:
    """The findings, then one line with the verdict."""
    scan = result.scan
    size = size_text(scan["bytes"])
    lines = [f"weights: {scan['num_tensors']:,} tensors, {size} read; {scan['num_skipped']:,} of integers"]
    lines += [f"  {fault_text(fault)}" for fault in scan["faults"][:_NUM_FAULTS]]
    if len(scan["faults"]) > _NUM_FAULTS:
        lines.append(f"  and {len(scan['faults']) - _NUM_FAULTS} more tensors")
    found = result.comparison
    if found is None:
        lines.append(f"comparison: none: {result.skipped}")
    else:
        lines.append(
            f"comparison with transformers in f32: {found.num_tokens} tokens, mean |logprob difference| "
            f"{found.mean_difference:.2g} (limit {found.limit:.2g}), largest {found.max_difference:.2g}, "
            f"{found.num_greedy_equal} of {found.num_greedy} greedy tokens equal"
        )
    verdict = "FAILED" if not result.passed else "VERIFIED" if found else "WEIGHTS SOUND, not compared"
    return "\n".join([*lines, f"{name}: {verdict}"])


def _parameters(listing: Mapping[str, Any]) -> str:
    total, active = listing["num_parameters"], listing["num_active_parameters"]
    return f"{total:,}" + (f", {active:,} active for each token" if active != total else "")


def _types(tensors: Sequence[Mapping[str, Any]]) -> str:
    totals: dict[str, int] = {}
    for tensor in tensors:
        totals[tensor["type"]] = totals.get(tensor["type"], 0) + tensor["bytes"]
    return ", ".join(f"{kind} {size_text(size)}" for kind, size in sorted(totals.items(), key=lambda item: -item[1]))


def _matrix_table(matrices: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each matrix; neighbouring layers that are alike share their lines."""
    lines = [f"{'layers':<12}{'matrix':<14}{'rows x columns':<20}{'format':<16}{'bytes':>12}"]
    layers = [(layer, [_shape(row) for row in rows]) for layer, rows in groupby(matrices, key=lambda row: row["layer"])]
    for shapes, same in groupby(layers, key=lambda layer: (layer[0] is None, layer[1])):
        numbers = [layer for layer, _rows in same if layer is not None]
        label = "-" if not numbers else str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        for name, size, formats, num_bytes in shapes[1]:
            lines.append(f"{label:<12}{name:<14}{size:<20}{formats:<16}{num_bytes:>12,}")
    return lines


def _shape(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return row["name"], f"{row['rows']:,} x {row['cols']:,}", row["formats"], row["bytes"]


def _tensor_line(tensor: Mapping[str, Any]) -> str:
    shape = "[" + ", ".join(map(str, tensor["shape"])) + "]"
    return f"{tensor['name']:<60}{tensor['type']:<10}{shape:<22}{tensor['bytes']:>14,}"


def _text_lines(text: Mapping[str, Any]) -> list[str]:
    tokenizer = f"tokenizer: {text['tokenizer']}"
    if text["num_tokens"] is not None:
        tokenizer += f", {text['num_tokens']:,} tokens" + (", begins with BOS" if text["adds_bos"] else "")
    template = text["chat_template"]
    if template is None:
        return [tokenizer, "chat template: none"]
    lines = template.splitlines()
    shown = lines[:_TEMPLATE_LINES]
    more = [f"  ... {len(lines) - len(shown)} more lines"] if len(lines) > len(shown) else []
    return [tokenizer, f"chat template: {len(template):,} characters", *(f"  {line}" for line in shown), *more]


def fault_text(fault: Mapping[str, Any]) -> str:
    """One row of `scan_weights`'s faults."""
    if fault["all_zero"]:
        return f"{fault['tensor']}: all zeros"
    return (
        f"{fault['tensor']}: {fault['num_nan']} NaN, {fault['num_inf']} infinite, the first at element {fault['first']}"
    )
