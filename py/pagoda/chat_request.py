"""One rendering of a chat: checked arguments, the variables that the template sees, the end of a continued message.

Owns the names that a caller cannot set, and the mark that finds the end of the final message again in the prompt.
Made by chat_template.py for each call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pagoda.chat_messages import (
    REASONING_FIELDS,
    TemplateError,
    join_text_parts,
    validate_documents,
    validate_messages,
    validate_tools,
    with_reasoning,
)

if TYPE_CHECKING:
    from pagoda.chat_template import ChatTemplate

#: Names that are arguments of the rendering or the model's own tokens, so that no caller sets them as variables.
RESERVED = frozenset(
    [
        "messages",
        "conversation",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "sanitize_control_tokens",
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ]
)
_END_MARK = "CONTINUE_FROM_HERE"


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What a caller can say besides the messages; see ChatTemplate.render."""

    tools: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool | str = False
    chat_template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


class ChatRequest:
    """Checked once, then rendered. Raises TemplateError for arguments that are not allowed."""

    def __init__(self, template: ChatTemplate, messages: object, options: ChatOptions) -> None:
        if reserved := sorted(RESERVED & options.variables.keys()):
            raise TemplateError(
                f"{reserved[0]} is reserved and cannot be set as a chat template argument", "chat_template_kwargs"
            )
        if options.continue_final_message and options.add_generation_prompt:
            raise TemplateError(
                "add_generation_prompt and continue_final_message exclude each other, got both",
                "continue_final_message",
            )
        tools = validate_tools(options.tools) or None
        self._template = template
        self._options = options
        self.source = template.source_for(tools, options.chat_template)
        checked = validate_messages(messages)
        validate_documents(options.variables.get("documents"))
        self._given = {"tools": tools, "documents": None, **options.variables}
        try:
            self._text = json.dumps([checked, self._given], ensure_ascii=False)
            self._messages = [with_reasoning(message) for message in self._readable(checked)]
        except RecursionError:
            raise TemplateError("messages, tools and chat template arguments nest too deeply") from None
        except (TypeError, ValueError) as error:
            raise TemplateError(f"messages, tools and chat template arguments must be JSON values: {error}") from None

    def unused_character(self) -> str:
        """A private-use character that occurs neither in the request nor in the template, nor does its JSON escape."""
        for code in range(0xE000, 0xF900):
            spellings = (chr(code), f"\\u{code:04x}")
            if not any(spelling in text for spelling in spellings for text in (self._text, self.source)):
                return chr(code)
        raise TemplateError("messages use every private-use character from U+E000 to U+F8FF; one must be free")

    def render(self, change: Callable[[str], str]) -> str:
        """The prompt, with `change` applied to every string that came with the request except the roles."""
        try:
            messages = [_map_message(message, change) for message in self._messages]
            given = {key: _map_strings(value, change) for key, value in self._given.items()}
            final, mark = self._mark_end(messages[-1]) if self._options.continue_final_message else ("", "")
            variables = {"messages": messages, "add_generation_prompt": self._options.add_generation_prompt, **given}
            text = self._template.run(self.source, variables)
        except RecursionError:
            raise TemplateError("messages, tools and chat template arguments nest too deeply") from None
        return _cut_at(text, final, mark) if mark else text

    def _readable(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Content lists joined where the template knows only strings."""
        with_lists = {message["role"] for message in messages if isinstance(message["content"], list)}
        joined = {role for role in with_lists if not self._template.reads_parts(self.source, role)}
        return [join_text_parts(message) if message["role"] in joined else message for message in messages]

    def _mark_end(self, message: dict[str, Any]) -> tuple[str, str]:
        """Puts a mark behind the text to be continued; returns that text and the mark."""
        chosen = self._options.continue_final_message
        name = chosen if isinstance(chosen, str) else "content"
        value = message.get(name)
        if not isinstance(value, str | list):
            raise TemplateError(
                f"continue_final_message: the final message has no {name} to continue", "continue_final_message"
            )
        mark = _END_MARK
        while mark in self._text or mark in self.source:
            mark += "_X"
        if isinstance(value, list):
            last = value[-1]
            message[name] = [*value[:-1], {**last, "text": last["text"] + mark + " "}]
            return str(last["text"]), mark
        copies = REASONING_FIELDS if name in REASONING_FIELDS else (name,)
        for copy in copies:
            if message.get(copy) == value:
                message[copy] = value + mark + " "
        return value, mark


def _cut_at(text: str, final: str, mark: str) -> str:
    """`text` up to the last mark; the space behind it tells whether the template trims contents."""
    end = text.rfind(mark)
    if end < 0 or final.strip() not in text:
        raise TemplateError(
            "continue_final_message: the chat template does not write the final message as it is",
            "continue_final_message",
        )
    trimmed = text[end + len(mark) : end + len(mark) + 1] != " "
    return text[:end].rstrip() if trimmed else text[:end]


def _map_message(message: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A message's own names are read by templates, so those that are plain words stay."""
    return {
        key if key.isidentifier() else change(key): value if key == "role" else _map_strings(value, change)
        for key, value in message.items()
    }


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of JSON data with `change` applied to each string, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_strings(key, change): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value
