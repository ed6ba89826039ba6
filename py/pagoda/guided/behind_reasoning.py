"""A form of the output behind a reasoning: `<think>...</think>` first, in the model's own words, then the form.

Pure functions over sampling parameters; used by the server for models whose template speaks of reasoning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pagoda.guided.grammar import JSON_OPTIONS

_REASONING = 'reasoning[suffix="</think>"]: /(.|\\n)*/\nreasoning_gap: /\\n{0,2}/\n'


def behind_reasoning(sampling: Mapping[str, Any], is_open: bool) -> dict[str, Any] | None:
    """The parameters with a grammar that lets the reasoning come first; None for a form that cannot be put behind one.

    `is_open`: the prompt has opened the reasoning, else there may be one. A guided_grammar must call its first rule
    `form` instead of `start`.
    """
    form = _rule(sampling)
    if form is None:
        return None
    first = "reasoning reasoning_gap form" if is_open else '("<think>" reasoning reasoning_gap)? form'
    kept = {name: value for name, value in sampling.items() if not name.startswith("guided_")}
    return kept | {"guided_grammar": f"start: {first}\n{_REASONING}{form}"}


def _rule(sampling: Mapping[str, Any]) -> str | None:
    if "guided_json" in sampling:
        try:
            schema = json.loads(sampling["guided_json"])
        except (ValueError, RecursionError):
            return None
        return f"form: %json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS})}" if isinstance(schema, dict) else None
    if "guided_regex" in sampling:
        from llguidance import regex_to_lark

        return f"form: /{regex_to_lark(sampling['guided_regex'], '')}/"
    if "guided_choice" in sampling:
        return f"form: {' | '.join(json.dumps(text) for text in sampling['guided_choice'])}"
    grammar = str(sampling.get("guided_grammar", ""))
    return grammar if grammar.startswith("form:") else None
