"""How models write tool calls: the four common formats, which one a model uses, and the grammar that demands one.

Pure data and functions; used by tool_parser.py and the server.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: A JSON schema's own options for llguidance: no endless whitespace.
_OPTIONS = {"whitespace_pattern": r"[ ]?", "coerce_one_of": True, "item_separator": ",", "key_separator": ":"}
_ALNUM = string.ascii_letters + string.digits


def long_id() -> str:
    """`call_` and 24 hexadecimal digits."""
    return f"call_{secrets.token_hex(12)}"


def short_id() -> str:
    """Nine letters and digits: Mistral's templates take no other."""
    return "".join(secrets.choice(_ALNUM) for _ in range(9))


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way of writing calls. Calls are JSON objects with a name and arguments, or `<function=name>` and parameters.

    `markers` open calls anywhere in a text; without any the text itself must begin with a call (a marker of `leaders`
    may stand before it), and only a known name makes an object a call. `is_list`: the calls may stand in one JSON list.
    """

    name: str
    markers: tuple[str, ...] = ()
    leaders: tuple[str, ...] = ()
    closer: str = ""
    is_list: bool = False
    arguments_key: str = "arguments"
    has_special_markers: bool = False
    """Markers are control tokens, which the text shows only if special tokens are not skipped."""
    is_json: bool = True
    make_id: Callable[[], str] = long_id

    @property
    def first_char(self) -> str:
        """Of a call behind its marker."""
        return "{" if self.is_json else "<"

    def grammar(self, tools: Sequence[Mapping[str, Any]], parallel: bool, first_rule: str = "start") -> str:
        """A grammar in llguidance's Lark whose texts are one call of one of the tools, or several with `parallel`.

        `tools` are the requests' `function` objects; `first_rule` is the name of the grammar's first rule. There is
        none for calls that are not JSON.
        """
        before, after, between = self._frame()
        calls = " | ".join(f"call_{i}" for i in range(len(tools)))
        more = f" ({json.dumps(between)} call)*" if parallel and between else ""
        whole = f"{json.dumps(before)} call{more} {json.dumps(after)}" if before else f"call{more}"
        lines = [f"{first_rule}: {whole}"]
        lines.append(f"call: {calls}")
        for i, tool in enumerate(tools):
            head = f'{{"name": {json.dumps(tool["name"])}, "{self.arguments_key}": '
            schema = {"x-guidance": _OPTIONS, **(tool.get("parameters") or {"type": "object"})}
            lines.append(f'call_{i}: {json.dumps(head)} args_{i} "}}"\nargs_{i}: %json {json.dumps(schema)}')
        return "\n".join(lines)

    def _frame(self) -> tuple[str, str, str]:
        """What stands before the first call, behind the last and between two."""
        if self.closer:
            return f"{self.markers[0]}\n", f"\n{self.closer}", f"\n{self.closer}\n{self.markers[0]}\n"
        if self.is_list:
            return "[", "]", ", "
        return "", "", "; "


HERMES = ToolFormat("hermes", markers=("<tool_call>",), closer="</tool_call>", is_list=True)
LLAMA3 = ToolFormat("llama3", leaders=("<|python_tag|>",), arguments_key="parameters")
MISTRAL = ToolFormat("mistral", markers=("[TOOL_CALLS]",), is_list=True, has_special_markers=True, make_id=short_id)
QWEN3_CODER = ToolFormat("qwen3_coder", markers=("<tool_call>",), closer="</tool_call>", is_json=False)
#: What a model without a known format in JSON is made to write when a call is demanded.
PLAIN = ToolFormat("plain", is_list=True)

FORMATS = {form.name: form for form in (HERMES, LLAMA3, MISTRAL, QWEN3_CODER)}
#: Llama 3 alone has no tools; from 3.1 on its templates have all of these, and the key of the arguments.
_LLAMA3_SIGNS = ("<|start_header_id|>", "<|eot_id|>", "ipython")
_PARAMETERS = re.compile("""["']parameters["']""")


def detect_format(template: str | None) -> ToolFormat | None:
    """The format that a chat template speaks of; None for one without tools or in another format."""
    if not template or "tools" not in template:
        return None
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<tool_call>" in template:
        if "<arg_key>" in template:  # GLM's
            return None
        return QWEN3_CODER if "<function=" in template else HERMES
    is_llama3 = all(sign in template for sign in _LLAMA3_SIGNS) and _PARAMETERS.search(template)
    return LLAMA3 if is_llama3 else None
