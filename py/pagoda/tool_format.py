"""ToolFormat: how a family of models writes tool calls, and which family a chat template belongs to.

Owns the markers of each format. Pure data; used by tool_parser.py and the server.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """Calls are JSON objects `{"name", "arguments"}` in an area that `opens` begins and `closes`, if any, ends.

    `bare`: the answer may also begin with a call, without a marker, if it names a known function. `plain_names`: an
    area may also be a name followed by its arguments. `id_chars`: how long the ids of calls are, which templates may
    check; 0 for any length.
    """

    name: str
    opens: str
    closes: str = ""
    bare: bool = False
    plain_names: bool = False
    id_chars: int = 0


HERMES = ToolFormat("hermes", "<tool_call>", "</tool_call>")
LLAMA3 = ToolFormat("llama3", "<|python_tag|>", bare=True)
MISTRAL = ToolFormat("mistral", "[TOOL_CALLS]", plain_names=True, id_chars=9)
FORMATS = {known.name: known for known in (HERMES, LLAMA3, MISTRAL)}

#: Tags of families that write calls between Hermes' markers, but not as JSON.
_NOT_JSON = ("<function=", "<arg_key>")


def detect_format(template: str) -> ToolFormat | None:
    """The format that a chat template's text teaches its model; None for none of ours."""
    if HERMES.opens in template:
        return None if any(tag in template for tag in _NOT_JSON) else HERMES
    if MISTRAL.opens in template:
        return MISTRAL
    is_llama = "<|start_header_id|>" in template and "ipython" in template and "tools" in template
    return LLAMA3 if LLAMA3.opens in template or is_llama else None
