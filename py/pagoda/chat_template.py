"""Chat templates: a list of messages becomes a prompt, as text (`ChatTemplate.render`) or as token ids (`encode_chat`).

Owns the choice of template, the variables that it sees, and the rule that only the template writes control tokens.
Called by llm.py and the server. Rendering itself happens in template_process.py's worker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pagoda.chat_messages import TemplateError, join_text_parts, validate_messages
from pagoda.literals import LiteralSet
from pagoda.template_process import TemplateFailure, TemplateProcess
from pagoda.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "TemplateError", "encode_chat", "validate_messages"]

RESERVED = frozenset(
    [
        "messages",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "bos_token",
        "eos_token",
        "chat_template",
        "tokenize",
        "return_tensors",
        "return_dict",
    ]
)
_PROBE = "pagoda-probe"


class ChatTemplate:
    """The chat template of one model. Thread-safe; a rendering blocks its thread for at most `time_budget_s`."""

    def __init__(
        self,
        source: str | Mapping[str, str],
        bos_token: str | None = None,
        eos_token: str | None = None,
        *,
        time_budget_s: float = 5.0,
        max_output_chars: int = 8 << 20,
        memory_bytes: int = 1 << 30,
    ) -> None:
        """`source`: Jinja2 text, or texts by name, of which "tool_use" serves requests with tools.

        A rendering that takes longer, writes more characters or needs more memory than given fails with TemplateError.
        """
        self._sources = {"default": source} if isinstance(source, str) else dict(source)
        if not self._sources or not all(isinstance(text, str) for text in self._sources.values()):
            raise TemplateError("a chat template must be a string or a non-empty table of strings by name")
        if "default" not in self._sources and len(self._sources) > 1:
            raise TemplateError(f'there is no chat template named "default"; named: {", ".join(sorted(self._sources))}')
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self._process = TemplateProcess(time_budget_s, memory_bytes, max_output_chars)
        self._reads_parts: dict[str, bool] = {}

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template that came with the model; None when there is none."""
        if tokenizer.chat_template is None:
            return None
        return cls(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)

    def render(
        self,
        messages: object,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """The prompt text. `kwargs` are further variables of the template.

        With `continue_final_message` the text ends with the last message's content, for the model to go on from there.
        Raises TemplateError: bad messages, a reserved keyword, the template's own raise_exception text, or a limit.
        """
        request = _Request(self, messages, tools, add_generation_prompt, continue_final_message, kwargs)
        return request.render(lambda text: text)

    def close(self) -> None:
        """Ends the worker process."""
        self._process.close()

    def source_for(self, tools: object) -> str:
        """The template that serves a request with these tools."""
        names = (["tool_use"] if tools else []) + ["default", *self._sources]
        return next(self._sources[name] for name in names if name in self._sources)

    def run(self, source: str, variables: dict[str, Any]) -> str:
        """Renders `source` with the model's own tokens added to `variables`."""
        try:
            return self._process.render(source, {**self._tokens, **variables})
        except TemplateFailure as failure:
            raise TemplateError(str(failure)) from None

    def reads_parts(self, source: str) -> bool:
        """Whether the template goes through a content list itself: then a one-part list renders like its text."""
        if source not in self._reads_parts:
            try:
                texts = [
                    self.run(source, {"messages": [{"role": "user", "content": content}], "tools": None})
                    for content in (_PROBE, [{"type": "text", "text": _PROBE}])
                ]
                self._reads_parts[source] = texts[0] == texts[1]
            except TemplateError:
                self._reads_parts[source] = False
        return self._reads_parts[source]


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: object,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    **kwargs: Any,
) -> list[int]:
    """Token ids of the rendered chat, in which only the template has written control tokens.

    Before rendering, each control token that a caller's string spells, and each beginning of one at a string's end
    (which the template could complete with another string), gets a protector character behind its first character: a
    private-use character that occurs nowhere in the request. After rendering, the control tokens still in one piece are
    the template's; the protectors are removed and the rest is encoded as plain text. Strings without control tokens
    are not touched, so their ids are those of the usual way (render, then encode with control tokens parsed).
    No post-processor runs: the template writes BOS. Raises TemplateError as `render` does, TokenizerError for text that
    is not Unicode.
    """
    request = _Request(template, messages, tools, add_generation_prompt, continue_final_message, kwargs)
    protector = request.unused_character()
    controls = LiteralSet(tokenizer.control_tokens)

    def protect(text: str) -> str:
        cuts = sorted({*controls.starts(text), *controls.open_ends(text)})
        edges = [0, *(cut + 1 for cut in cuts), len(text)]
        return protector.join(text[begin:end] for begin, end in pairwise(edges)) if cuts else text

    return tokenizer.encode_protected(request.render(protect), protector, add_special_tokens=False)


class _Request:
    """One rendering: checked arguments and the variables that the template gets."""

    def __init__(
        self,
        template: ChatTemplate,
        messages: object,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        continue_final_message: bool,
        kwargs: Mapping[str, Any],
    ) -> None:
        if reserved := sorted(RESERVED & kwargs.keys()):
            raise TemplateError(
                f"{reserved[0]} is reserved and cannot be set as a chat template argument", "chat_template_kwargs"
            )
        if continue_final_message and add_generation_prompt:
            raise TemplateError(
                "add_generation_prompt and continue_final_message exclude each other, got both",
                "continue_final_message",
            )
        self._template = template
        self._source = template.source_for(tools)
        checked = validate_messages(messages)
        self._messages = checked if template.reads_parts(self._source) else join_text_parts(checked)
        self._continue = continue_final_message
        self._given = {"tools": list(tools) if tools else None, **kwargs}
        self._generation_prompt = add_generation_prompt
        try:
            self._text = json.dumps([self._messages, self._given], ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise TemplateError(f"messages, tools and chat template arguments must be JSON values: {error}") from None

    def unused_character(self) -> str:
        """A private-use character that occurs neither in the request nor in the template."""
        for code in range(0xE000, 0xF900):
            if chr(code) not in self._text and chr(code) not in self._source:
                return chr(code)
        raise TemplateError("messages use every private-use character from U+E000 to U+F8FF; one must be free")

    def render(self, change: Callable[[str], str]) -> str:
        """The rendered text, with `change` applied to every string of the request except the roles."""
        messages = [
            {key: value if key == "role" else _map_strings(value, change) for key, value in message.items()}
            for message in self._messages
        ]
        mark = self._mark_end(messages[-1]) if self._continue else ""
        variables = {
            "messages": messages,
            "add_generation_prompt": self._generation_prompt,
            **{key: _map_strings(value, change) for key, value in self._given.items()},
        }
        text = self._template.run(self._source, variables)
        return _cut_at(text, mark) if mark else text

    def _mark_end(self, message: dict[str, Any]) -> str:
        """Puts a mark behind the message's text, so that the text's end is found again in the prompt."""
        mark = "CONTINUE-FROM-HERE"
        while mark in self._text or mark in self._source:
            mark += "-HERE"
        if isinstance(message["content"], list):
            last = message["content"][-1]
            message["content"] = [*message["content"][:-1], {**last, "text": last["text"] + mark + " "}]
        else:
            message["content"] += mark + " "
        return mark


def _cut_at(text: str, mark: str) -> str:
    """`text` up to the last mark; the space behind it tells whether the template trims contents."""
    end = text.rfind(mark)
    if end < 0:
        raise TemplateError(
            "continue_final_message: the chat template does not write the final message's content",
            "continue_final_message",
        )
    trimmed = text[end + len(mark) : end + len(mark) + 1] != " "
    return text[:end].rstrip() if trimmed else text[:end]


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of JSON data with `change` applied to each string, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_map_strings(key, change): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value
