"""What a request's output must look like, as one grammar in llguidance's notation.

Owns how the four parameters guided_json, guided_regex, guided_choice and guided_grammar become one. Pure functions;
used by the compiler and, in a process of its own, by grammar_worker.py. The whole package imports llguidance for
the first grammar only, so that a server without one starts sooner.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLParserLimits

#: Between two parts of a JSON text: what people and models write, and nothing that goes on forever.
_WHITESPACE = r"\n?[ ]{0,12}"
#: How llguidance reads a JSON schema.
JSON_OPTIONS: dict[str, Any] = {
    "whitespace_pattern": _WHITESPACE,
    "coerce_one_of": True,
    "lenient": False,
    "item_separator": ",",
    "key_separator": ":",
}

#: Any JSON object.
ANY_OBJECT = '{"type": "object"}'


@dataclass(frozen=True, slots=True)
class Grammar:
    """`kind` is the parameter's name; equal grammars allow the same outputs."""

    kind: str
    text: str

    @classmethod
    def of(cls, params: Any) -> Grammar | None:
        """The grammar that SamplingParams ask for; None for free text."""
        if params.guided_json:
            return cls("guided_json", params.guided_json)
        if params.guided_regex:
            return cls("guided_regex", params.guided_regex)
        if params.guided_choice:
            return cls("guided_choice", json.dumps(list(params.guided_choice)))
        return cls("guided_grammar", params.guided_grammar) if params.guided_grammar else None

    def source(self) -> str:
        """In llguidance's notation. Raises ValueError for JSON that is none."""
        from llguidance import LLMatcher

        if self.kind == "guided_json":
            if not self.text.lstrip().startswith("{"):
                raise ValueError(f"a JSON schema must be an object, got {self.text[:40]}")
            return LLMatcher.grammar_from_json_schema(self.text, overrides=JSON_OPTIONS)  # type: ignore[arg-type]
        if self.kind == "guided_regex":
            return LLMatcher.grammar_from_regex(self.text)
        if self.kind == "guided_choice":
            return LLMatcher.grammar_from_lark(
                f"start: {' | '.join(json.dumps(text) for text in json.loads(self.text))}"
            )
        return LLMatcher.grammar_from_lark(self.text)


def limits() -> LLParserLimits:
    """What one grammar may cost: fuel is about 50 000 a millisecond, a lexer state about 1 KB."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        max_lexer_states=50_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )
