"""The request bodies of /v1/completions and /v1/chat/completions: one table of fields, and the parsers.

A parser turns the JSON object into a plain dataclass and a SamplingParams, or raises a 400 that names the field. It
needs no tokenizer and no event loop. Field tables say which fields exist; unsupported ones are refused, never silently
ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pagoda.chat_messages import TemplateError, validate_messages
from pagoda.chat_template import RESERVED
from pagoda.config import InvalidArgument, SamplingParams
from pagoda.server import field_kinds as kinds
from pagoda.server import structured
from pagoda.server.errors import clean, invalid, leading_name, show
from pagoda.server.field_kinds import Kind, Limits
from pagoda.server.tools import ToolUse, tool_choice, tool_list, tool_use

_string = kinds.string(kinds.MAX_LABEL_CHARS)

#: Fields that become the SamplingParams member of the same name, at both endpoints.
SAMPLING: dict[str, Kind] = {
    "n": kinds.choice_count,
    "max_tokens": kinds.integer(),
    "min_tokens": kinds.integer(),
    "temperature": kinds.number,
    "top_p": kinds.number,
    "top_k": kinds.integer(),
    "min_p": kinds.number,
    "repetition_penalty": kinds.number,
    "presence_penalty": kinds.number,
    "frequency_penalty": kinds.number,
    "seed": kinds.integer(),
    "logit_bias": kinds.logit_bias,
    "allowed_token_ids": kinds.allowed_token_ids,
    "bad_words": kinds.texts(kinds.MAX_BAD_WORDS, kinds.MAX_STOP_CHARS),
    "stop": kinds.stop_strings,
    "stop_token_ids": kinds.token_ids,
    "ignore_eos": kinds.boolean,
    "prompt_logprobs": kinds.logprob_count,
    "include_stop_str_in_output": kinds.boolean,
    "skip_special_tokens": kinds.boolean,
    "priority": kinds.integer(-(1 << 31), (1 << 31) - 1),
    "cache_salt": kinds.string(kinds.MAX_SALT_CHARS, 1),
    **structured.GUIDED,
}

#: Further fields of both endpoints.
COMMON: dict[str, Kind] = {
    "model": _string,
    "stream": kinds.boolean,
    "stream_options": kinds.any_object,
    "user": _string,
    "timeout_s": kinds.timeout,
    "return_token_ids": kinds.boolean,
    "truncate_prompt_tokens": kinds.prompt_cut,
    "response_format": structured.response_format,
}

COMPLETION_ONLY: dict[str, Kind] = {
    "prompt": lambda name, value, limits: value,
    "echo": kinds.boolean,
    "logprobs": kinds.logprob_count,
    "best_of": kinds.choice_count,
    "add_special_tokens": kinds.boolean,
    "parse_special": kinds.boolean,
}

CHAT_ONLY: dict[str, Kind] = {
    "messages": lambda name, value, limits: value,
    "logprobs": kinds.boolean,
    "top_logprobs": kinds.logprob_count,
    "max_completion_tokens": kinds.integer(),
    "add_generation_prompt": kinds.boolean,
    "continue_final_message": kinds.boolean,
    "chat_template_kwargs": kinds.any_object,
    "tools": tool_list,
    "tool_choice": tool_choice,
    "parallel_tool_calls": kinds.boolean,
}

#: Accepted without effect, which the answer's headers say unless the value asks for nothing: they label a request for
#: OpenAI's own bookkeeping.
IGNORED: dict[str, tuple[Any, ...]] = {
    "metadata": ({},),
    "service_tier": (),
    "safety_identifier": (),
    "store": (False,),
    "prompt_cache_key": (),
    "parallel_tool_calls": (True,),
    # Of the adapters' bodies (Translation.leave).
    "reasoning.summary": (),
    "reasoning.generate_summary": (),
    "thinking.budget_tokens": (),
    "thinking.display": (),
    "output_config.effort": (),
}

#: Known fields that this server does not serve, with the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
    "verbosity": (),
    "prompt_embeds": (),
    "logits_processors": ([],),
    "logit_processors": ([],),
    "structured_outputs": (),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "chat_template": (),
    "documents": ([],),
    "mm_processor_kwargs": (),
    "echo": (False,),
}

#: What to do instead, where there is something.
UNSUPPORTED_TEXTS = {
    "suffix": "suffix is not supported: this server continues a text and does not fill gaps",
}

#: Names that a template argument must not have: the template's own variables and the parameters of `encode_chat`.
RESERVED_TEMPLATE_KWARGS = RESERVED | {"tokenizer", "template", "documents", "raise_exception", "strftime_now"}

#: A response says something about at most so many fields that had no effect, and names at most so many more.
MAX_WARNINGS = 5
MAX_IGNORED = 32
MAX_PLAIN_CHARS = 64

#: Of a message; those that this server does not use come back in what OpenAI's server has said.
MESSAGE_FIELDS = frozenset(
    [
        "role",
        "content",
        "name",
        "tool_calls",
        "tool_call_id",
        "reasoning_content",
        "reasoning",
        "refusal",
        "annotations",
        "audio",
        "function_call",
    ]
)
STREAM_OPTIONS = ("include_usage", "continuous_usage_stats")


@dataclass(slots=True)
class Ignored:
    """Fields that had no effect: the first MAX_IGNORED names, and a sentence about each of the first MAX_WARNINGS."""

    names: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    strict: bool = False

    def add_unknown(self, name: str, hint: str = "") -> None:
        """Notes a field that nobody knows; raises ApiError 400 when `strict`."""
        if self.strict:
            raise invalid(name[:64], f"unknown field {show(name)}{hint}", "unknown_parameter")
        self.add(name, f"unknown field {show(name)} was ignored{hint}")

    def add(self, name: str, warning: str) -> None:
        """Notes a field."""
        if len(self.names) < MAX_IGNORED:
            self.names.append(name if _is_plain(name) else show(name))
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(warning)

    def headers(self) -> dict[str, str]:
        """`x-pagoda-ignored` and `x-pagoda-warning`; nothing when every field had its effect."""
        if not self.names:
            return {}
        return {"x-pagoda-ignored": ", ".join(self.names), "x-pagoda-warning": "; ".join(self.warnings)}


@dataclass(slots=True)
class Options:
    """What both endpoints share besides sampling."""

    model: str | None
    stream: bool
    include_usage: bool
    continuous_usage: bool
    timeout_s: float | None
    return_token_ids: bool
    truncate_prompt_tokens: int | None
    user: str
    ignored: Ignored = field(default_factory=lambda: Ignored())


@dataclass(slots=True)
class CompletionRequest:
    """A checked body of POST /v1/completions. `prompts` holds strings or lists of token ids.

    `form` is the field that says what the output must look like, None for free text.
    """

    options: Options
    prompts: list[str | list[int]]
    sampling: dict[str, Any]
    echo: bool
    logprobs: int | None
    wants_prompt_logprobs: bool
    add_special_tokens: bool
    parse_special: bool
    form: str | None


@dataclass(slots=True)
class ChatRequest:
    """A checked body of POST /v1/chat/completions. `top_logprobs` is None when no logprobs are wanted.

    `form` is the field that says what the output must look like, None for free text.
    """

    options: Options
    messages: list[dict[str, Any]]
    sampling: dict[str, Any]
    top_logprobs: int | None
    add_generation_prompt: bool
    continue_final_message: bool
    template_kwargs: dict[str, Any]
    tools: ToolUse | None
    form: str | None


def parse_completion(body: Mapping[str, Any], limits: Limits, strict: bool = False) -> CompletionRequest:
    """Checks a completions body. Raises ApiError 400."""
    values, ignored = check_fields(body, {**SAMPLING, **COMMON, **COMPLETION_ONLY}, limits, strict)
    sampling = _sampling(values)
    prompts = parse_prompts(values.get("prompt"), limits.vocab_size)
    count = len(prompts) * sampling.get("n", 1)
    if count > limits.max_choices:
        text = f"prompt and n ask for {count} choices, at most {limits.max_choices} are allowed"
        raise invalid("prompt" if len(prompts) > 1 else "n", text, "invalid_value")
    if values.get("best_of", sampling.get("n", 1)) != sampling.get("n", 1):
        raise invalid("best_of", "best_of other than n is not supported", "unsupported_parameter")
    form = structured.apply(values, sampling)
    echo, logprobs = values.get("echo", False), values.get("logprobs")
    if sampling.get("max_tokens") == 0 and not echo:
        raise invalid("max_tokens", "max_tokens must be >= 1 unless echo is true, got 0", "invalid_value")
    if logprobs is not None:
        sampling["logprobs"] = logprobs
        if echo:
            sampling["prompt_logprobs"] = max(logprobs, sampling.get("prompt_logprobs", 0))
    return CompletionRequest(
        options=make_options(values, ignored),
        prompts=prompts,
        sampling=sampling,
        echo=echo,
        logprobs=logprobs,
        wants_prompt_logprobs="prompt_logprobs" in values,
        add_special_tokens=values.get("add_special_tokens", True),
        parse_special=values.get("parse_special", False),
        form=form,
    )


def parse_chat(body: Mapping[str, Any], limits: Limits, strict: bool = False) -> ChatRequest:
    """Checks a chat body. Raises ApiError 400."""
    values, ignored = check_fields(body, {**SAMPLING, **COMMON, **CHAT_ONLY}, limits, strict)
    sampling = _sampling(values)
    longest = values.get("max_completion_tokens")
    if longest is not None:
        if sampling.setdefault("max_tokens", longest) != longest:
            text = "max_completion_tokens and max_tokens must be equal when both are given"
            raise invalid("max_completion_tokens", text, "invalid_value")
        if longest < 1:
            text = f"max_completion_tokens must be >= 1, got {show(longest)}"
            raise invalid("max_completion_tokens", text, "invalid_value")
    if sampling.get("max_tokens") == 0:
        raise invalid("max_tokens", "max_tokens must be >= 1, got 0", "invalid_value")
    top = values.get("top_logprobs")
    if top is not None and not values.get("logprobs", False):
        raise invalid("top_logprobs", "top_logprobs needs logprobs to be true", "invalid_value")
    top_logprobs = (top or 0) if values.get("logprobs", False) else None
    if top_logprobs is not None:
        sampling["logprobs"] = top_logprobs
    continue_final = values.get("continue_final_message", False)
    add_prompt = values.get("add_generation_prompt", not continue_final)
    if continue_final and add_prompt:
        text = "continue_final_message and add_generation_prompt must not both be true"
        raise invalid("continue_final_message", text, "invalid_value")
    form, tools = structured.apply(values, sampling), tool_use(values)
    if form is not None and tools is not None and tools.demanded:
        raise invalid(form, f"{form} and a tool_choice that demands a call exclude each other", "invalid_value")
    messages = parse_messages(values.get("messages"), limits)
    for index, message in enumerate(values["messages"]):
        for name in message.keys() - MESSAGE_FIELDS:
            ignored.add_unknown(f"messages[{index}].{name}")
    return ChatRequest(
        options=make_options(values, ignored),
        messages=messages,
        sampling=sampling,
        top_logprobs=top_logprobs,
        add_generation_prompt=add_prompt,
        continue_final_message=continue_final,
        template_kwargs=parse_template_kwargs(values.get("chat_template_kwargs", {})),
        tools=tools,
        form=form,
    )


def parse_messages(value: Any, limits: Limits) -> list[dict[str, Any]]:
    """Checked messages. Raises ApiError 400 naming the message by index."""
    if value is None:
        raise invalid("messages", "messages is required", "missing_required_parameter")
    if isinstance(value, list) and len(value) > limits.max_messages:
        text = f"messages must have at most {limits.max_messages} entries, got {len(value)}"
        raise invalid("messages", text, "invalid_value")
    try:
        return validate_messages(value)
    except TemplateError as error:
        raise invalid(error.param or "messages", str(error), "invalid_value") from None


def parse_template_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Refuses names that the server sets itself."""
    for name in kwargs:
        if name in RESERVED_TEMPLATE_KWARGS or not name.isidentifier():
            raise invalid("chat_template_kwargs", f"chat_template_kwargs must not hold {show(name)}", "invalid_value")
    return kwargs


def parse_prompts(value: Any, vocab_size: int) -> list[str | list[int]]:
    """A string, a list of strings, a list of token ids or a list of such lists, as a list of prompts."""
    if value is None:
        raise invalid("prompt", "prompt is required", "missing_required_parameter")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        text = f"prompt must be a string, a list of strings, token ids or lists of token ids, got {show(value)}"
        raise invalid("prompt", text, "invalid_type")
    if not value:
        raise invalid("prompt", "prompt must not be empty", "invalid_value")
    if all(isinstance(item, str) for item in value):
        return list(value)
    if all(isinstance(item, list) for item in value):
        if not all(value):
            raise invalid("prompt", "prompt must not hold an empty list", "invalid_value")
        return [kinds.check_token_ids("prompt", item, vocab_size) for item in value]
    return [kinds.check_token_ids("prompt", value, vocab_size)]


def make_params(sampling: Mapping[str, Any], defaults: Mapping[str, Any], vocab_size: int) -> SamplingParams:
    """SamplingParams from the request over the model's defaults. Raises ApiError 400 naming the field out of range."""
    values = {name: value for name, value in defaults.items() if name in SAMPLING} | dict(sampling)
    if values.get("top_k", 0) > vocab_size:
        values["top_k"] = vocab_size
    try:
        return SamplingParams(**values)
    except (InvalidArgument, ValueError, TypeError, OverflowError) as error:
        name = leading_name(str(error))
        if name not in values:
            name = next((given for given in sampling if given in str(error)), name)
        raise invalid(name, clean(str(error)), "invalid_value") from None


def check_fields(
    body: Mapping[str, Any], table: Mapping[str, Kind], limits: Limits, strict: bool
) -> tuple[dict[str, Any], Ignored]:
    """Checked values of the fields that are present and not null, and those that have no effect."""
    values: dict[str, Any] = {}
    ignored = Ignored(strict=strict)
    for name, value in body.items():
        if value is None:
            continue
        if name in table:
            values[name] = table[name](name, value, limits)
        elif name in IGNORED:
            if value not in IGNORED[name]:
                ignored.add(name, f"{name} has no effect here")
        elif name in UNSUPPORTED:
            if value not in UNSUPPORTED[name]:
                text = UNSUPPORTED_TEXTS.get(name, f"{name} is not supported by this server")
                raise invalid(name, text, "unsupported_parameter")
        elif strict or len(ignored.names) < MAX_IGNORED:
            near = difflib.get_close_matches(name[: kinds.MAX_LABEL_CHARS], table, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            ignored.add_unknown(name, hint)
    return values, ignored


def _is_plain(name: str) -> bool:
    """Whether a field's name can stand in a header as it is."""
    return len(name) <= MAX_PLAIN_CHARS and name.isascii() and name.replace(".", "_").isidentifier()


def _sampling(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in SAMPLING}


def make_options(values: Mapping[str, Any], ignored: Ignored) -> Options:
    stream, stream_options = values.get("stream", False), values.get("stream_options", {})
    if stream_options and not stream:
        raise invalid("stream_options", "stream_options needs stream to be true", "invalid_value")
    for name, value in stream_options.items():
        if name == "include_obfuscation":  # OpenAI's own
            ignored.add(f"stream_options.{name}", f"stream_options.{name} has no effect here")
        elif name not in STREAM_OPTIONS:
            ignored.add_unknown(f"stream_options.{name}")
        elif value is not None and not isinstance(value, bool):
            text = f"stream_options.{name} must be true or false, got {show(value)}"
            raise invalid("stream_options", text, "invalid_type")
    include_usage = bool(stream_options.get("include_usage"))
    return Options(
        model=values.get("model"),
        stream=stream,
        include_usage=include_usage,
        continuous_usage=include_usage and bool(stream_options.get("continuous_usage_stats")),
        timeout_s=values.get("timeout_s"),
        return_token_ids=values.get("return_token_ids", False),
        truncate_prompt_tokens=values.get("truncate_prompt_tokens"),
        user=values.get("user", ""),
        ignored=ignored,
    )
