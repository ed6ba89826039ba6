"""The fields tools, tool_choice and parallel_tool_calls of a chat: their checks, and what they mean for this model.

Owns ToolUse: how calls are demanded, by a grammar. Used by protocol.py, prompts.py and answer_plan.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.replies.tool_format import FORMATS, PLAIN, ToolFormat, detect_format
from pagoda.server.errors import invalid, show
from pagoda.server.field_kinds import Limits
from pagoda.server.state import ServerState
from pagoda.server.structured import json_text
from pagoda.server.tool_schema import check_schema

MAX_TOOLS = 128
MAX_SCHEMA_CHARS = 1 << 18  # of all tools' parameters together
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """`choice` is auto, required or the name of a tool. `tools` are as the request gave them."""

    tools: list[dict[str, Any]]
    choice: str
    named: bool
    parallel: bool

    @property
    def demanded(self) -> bool:
        """Whether the answer must be a call."""
        return self.named or self.choice == "required"

    @property
    def names(self) -> list[str]:
        """Of all tools."""
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """Of the parameters, by the tools' names."""
        return {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in self.tools}

    def grammar(self, form: ToolFormat, first_rule: str) -> str:
        """What a demanded answer must look like."""
        functions = [tool["function"] for tool in self.tools]
        if self.named:
            functions = [function for function in functions if function["name"] == self.choice]
        return form.grammar(functions, self.parallel and not self.named, first_rule)


def tool_list(name: str, value: Any, limits: Limits) -> list[dict[str, Any]]:
    """A list of functions with distinct names."""
    if not isinstance(value, list):
        raise invalid(name, f"{name} must be a list, got {show(value)}", "invalid_type")
    if len(value) > MAX_TOOLS:
        raise invalid(name, f"{name} must have at most {MAX_TOOLS} entries, got {len(value)}", "invalid_value")
    names: set[str] = set()
    size = 0
    for index, tool in enumerate(value):
        place = f"{name}[{index}]"
        function = _function(tool, place)
        if function["name"] in names:
            text = f"{place}.function.name {show(function['name'])} is taken by an earlier tool"
            raise invalid(f"{place}.function.name", text, "invalid_value")
        names.add(function["name"])
        size += len(json_text(place, function))
        if function.get("parameters"):
            check_schema(f"{place}.function.parameters", function["parameters"])
    if size > MAX_SCHEMA_CHARS:
        raise invalid(name, f"{name} must be at most {MAX_SCHEMA_CHARS} bytes of JSON, got {size}", "invalid_value")
    return value


def _function(tool: Any, place: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise invalid(place, f"{place} must be an object, got {show(tool)}", "invalid_type")
    if tool.get("type") != "function":
        raise invalid(f"{place}.type", f"{place}.type must be function, got {show(tool.get('type'))}", "invalid_value")
    function, place = tool.get("function"), f"{place}.function"
    if not isinstance(function, dict):
        raise invalid(place, f"{place} must be an object, got {show(function)}", "invalid_type")
    if not isinstance(function.get("name"), str) or not _NAME.fullmatch(function["name"]):
        text = f"{place}.name must be 1 to 64 letters, digits, _ or -, got {show(function.get('name'))}"
        raise invalid(f"{place}.name", text, "invalid_value")
    if not isinstance(function.get("description", ""), str | None):
        text = f"{place}.description must be a string, got {show(function['description'])}"
        raise invalid(f"{place}.description", text, "invalid_type")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        text = f"{place}.parameters must be a JSON schema object, got {show(parameters)}"
        raise invalid(f"{place}.parameters", text, "invalid_type")
    if parameters and parameters.get("type", "object") != "object":
        text = f"{place}.parameters.type must be object, got {show(parameters['type'])}"
        raise invalid(f"{place}.parameters.type", text, "invalid_value")
    if not isinstance(function.get("strict"), bool | None):
        text = f"{place}.strict must be true or false, got {show(function['strict'])}"
        raise invalid(f"{place}.strict", text, "invalid_type")
    return function


def tool_choice(name: str, value: Any, limits: Limits) -> str | tuple[str]:
    """none, auto or required; a tuple of one for the name of a tool."""
    if value in ("none", "auto", "required"):
        return str(value)
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return (function["name"],)
    wanted = 'none, auto, required or {"type": "function", "function": {"name": ...}}'
    raise invalid(name, f"{name} must be {wanted}, got {show(value)}", "invalid_value")


def tool_use(values: Mapping[str, Any]) -> ToolUse | None:
    """What the three fields ask for together; None without tools."""
    tools, choice = values.get("tools") or [], values.get("tool_choice", "auto")
    named = isinstance(choice, tuple)
    if named:
        choice = choice[0]
    if not tools:
        if named or choice == "required":
            raise invalid("tool_choice", f"tool_choice {show(choice)} needs tools", "invalid_value")
        return None
    use = ToolUse(tools, choice, named, values.get("parallel_tool_calls", True))
    if named and choice not in use.names:
        text = f"tool_choice names {show(choice)}, which is none of the tools: {', '.join(use.names)[:200]}"
        raise invalid("tool_choice", text, "invalid_value")
    return None if choice == "none" and not named else use


def format_for(state: ServerState, use: ToolUse) -> ToolFormat | None:
    """How calls are written; None leaves them in the text. Raises 400 when they could not be found."""
    template = state.client.chat_template
    source = template.source_for(use.tools) if template is not None else None
    setting = state.settings.tool_parser
    found = detect_format(source) if setting == "auto" else FORMATS.get(setting)
    if use.demanded:
        return found if found is not None and found.is_json else PLAIN
    if source is not None and "tools" not in source:
        text = "this model's chat template has no place for tools; tool_choice required or a named tool would work"
        raise invalid("tools", text, "unsupported_parameter")
    if found is None and setting == "auto":
        text = "how this model writes tool calls is not known; set tool_parser, or demand a call by tool_choice"
        raise invalid("tools", text, "unsupported_parameter")
    return found


def tool_sampling(use: ToolUse | None, form: ToolFormat | None, first_rule: str) -> dict[str, Any]:
    """The sampling parameters by which calls are demanded, or can be seen."""
    if use is None or form is None:
        return {}
    demand = {"guided_grammar": use.grammar(form, first_rule)} if use.demanded else {}
    return demand | ({"skip_special_tokens": False} if form.has_special_markers else {})
