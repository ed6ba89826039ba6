"""Chat templates: a list of messages becomes a prompt, as text (`ChatTemplate.render`) or as token ids (`encode_chat`).

Owns the choice of template, what is known about each one, and the rule that only the template writes control tokens.
Called by llm.py and the server. One call's arguments are in chat_request.py, rendering happens in template_process.py's
worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pagoda.chat_messages import ROLES, TemplateError, validate_messages
from pagoda.chat_request import RESERVED, ChatOptions, ChatRequest
from pagoda.control_guard import ControlGuard
from pagoda.template_process import TemplateFailure, TemplateProcess
from pagoda.tokenizer import Tokenizer

__all__ = ["RESERVED", "ChatTemplate", "TemplateError", "encode_chat", "validate_messages"]

_MAX_KNOWN = 64  # answers kept about templates; a model has one to three templates
_PROBE = "pagoda-probe"
_CALL = {"id": "probe0000", "type": "function", "function": {"name": "probe", "arguments": {}}}
_USER = {"role": "user", "content": "."}
#: For each role a conversation before and behind its message.
_PROBE_CHATS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "system": ([], [_USER]),
    "developer": ([], [_USER]),
    "user": ([], []),
    "assistant": ([_USER], [_USER]),
    "tool": ([_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]}], []),
}


class ChatTemplate:
    """The chat template of one model. Thread-safe; a rendering blocks its thread for at most `time_budget_s`."""

    def __init__(
        self,
        source: str | Mapping[str, str],
        bos_token: str | None = None,
        eos_token: str | None = None,
        *,
        special_tokens: Mapping[str, str] | None = None,
        time_budget_s: float = 5.0,
        max_output_chars: int = 8 << 20,
        memory_bytes: int = 1 << 30,
    ) -> None:
        """`source`: Jinja2 text, or texts by name, of which "tool_use" serves requests with tools.

        `special_tokens`: further tokens by the names that templates know them by ("pad_token"); a token that is not
        given is undefined in the template. A rendering that takes longer, writes more characters or needs more memory
        than given fails with TemplateError.
        """
        self._sources = {"default": source} if isinstance(source, str) else dict(source)
        if not self._sources or not all(isinstance(text, str) for text in self._sources.values()):
            raise TemplateError("a chat template must be a string or a non-empty table of strings by name")
        if "default" not in self._sources and len(self._sources) > 1:
            raise TemplateError(f'there is no chat template named "default"; named: {", ".join(sorted(self._sources))}')
        tokens = {**(special_tokens or {}), "bos_token": bos_token, "eos_token": eos_token}
        self._tokens = {name: token for name, token in tokens.items() if token is not None}
        self._process = TemplateProcess(time_budget_s, memory_bytes, max_output_chars)
        self._reads_parts: dict[tuple[str, str], bool] = {}
        self._guards: dict[tuple[Tokenizer, str], ControlGuard] = {}

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template that came with the model; None when there is none."""
        if tokenizer.chat_template is None:
            return None
        return cls.with_tokens_of(tokenizer, tokenizer.chat_template)

    @classmethod
    def with_tokens_of(cls, tokenizer: Tokenizer, source: str | Mapping[str, str]) -> ChatTemplate:
        """A template for the model of `tokenizer`, whose tokens it knows by name."""
        return cls(source, tokenizer.bos_token, tokenizer.eos_token, special_tokens=tokenizer.further_tokens)

    def render(
        self,
        messages: object,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool | str = False,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt text. `kwargs` are further variables of the template.

        With `continue_final_message` the text ends with the last message's content (or with its field of the name
        given), for the model to go on from there. `chat_template` is the name of one of the model's templates ("rag"),
        or the text of another one. Raises TemplateError: bad messages, a reserved keyword, the template's own
        raise_exception text, or a limit.
        """
        options = ChatOptions(tools, add_generation_prompt, continue_final_message, chat_template, kwargs)
        return ChatRequest(self, messages, options).render(lambda text: text)

    def close(self) -> None:
        """Ends the worker process."""
        self._process.close()

    def source_for(self, tools: object, chosen: str | None = None) -> str:
        """The template that serves a request with these tools; `chosen` is a name or a text of its own."""
        if chosen is not None:
            return self._sources.get(chosen, chosen)
        names = (["tool_use"] if tools else []) + ["default", *self._sources]
        return next(self._sources[name] for name in names if name in self._sources)

    def run(self, source: str, variables: dict[str, Any]) -> str:
        """Renders `source` with the model's own tokens added to `variables`."""
        try:
            return self._process.render(source, {**self._tokens, **variables})
        except TemplateFailure as failure:
            raise TemplateError(str(failure)) from None

    def reads_parts(self, source: str, role: str) -> bool:
        """Whether the template goes through a content list of that role: then one part renders like its text."""
        key = (source, role)
        if key not in self._reads_parts:
            _make_room(self._reads_parts)
            before, behind = _PROBE_CHATS[role]
            contents = (_PROBE, [{"type": "text", "text": _PROBE}])
            chats = [[*before, {"role": role, "content": content}, *behind] for content in contents]
            try:
                texts = [self.run(source, {"messages": chat, "tools": None, "documents": None}) for chat in chats]
                self._reads_parts[key] = texts[0] == texts[1] and _PROBE in texts[0]
            except TemplateError:
                self._reads_parts[key] = False
        return self._reads_parts[key]

    def guard(self, tokenizer: Tokenizer, source: str) -> ControlGuard:
        """What keeps user text from writing control tokens through this template."""
        key = (tokenizer, source)
        if key not in self._guards:
            _make_room(self._guards)
            try:
                literals = self._process.literals(source)
            except TemplateFailure as failure:
                raise TemplateError(str(failure)) from None
            self._guards[key] = ControlGuard(tokenizer.control_tokens, [*literals, *self._tokens.values(), *ROLES])
        return self._guards[key]


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: object,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool | str = False,
    chat_template: str | None = None,
    **kwargs: Any,
) -> list[int]:
    """Token ids of the rendered chat, in which only the template has written control tokens.

    The arguments are those of `ChatTemplate.render`. Before rendering, ControlGuard puts a mark into every string of
    the request that a control token could arise from: a private-use character that occurs nowhere else. After
    rendering, the control tokens still in one piece are the template's; the marks are removed and the rest is encoded
    as plain text. So the ids are those of the usual way (render, then encode with control tokens parsed) whenever the
    request spells no control tokens. No post-processor runs: the template writes BOS. Raises TemplateError as `render`
    does, TokenizerError for text that is not Unicode.
    """
    options = ChatOptions(tools, add_generation_prompt, continue_final_message, chat_template, kwargs)
    request = ChatRequest(template, messages, options)
    guard = template.guard(tokenizer, request.source)
    mark = request.unused_character()
    text = request.render(lambda given: guard.protect(given, mark))
    text = text.replace(f"\\u{ord(mark):04x}", mark)  # a template may write JSON in ASCII
    return tokenizer.encode_protected(text, mark, add_special_tokens=False)


def _make_room(known: dict[Any, Any]) -> None:
    """Keeps templates that came with requests from filling memory."""
    if len(known) >= _MAX_KNOWN:
        known.clear()
