"""From request to prompt token ids: tokenising, chat templates and the context-length check.

Text work runs in the state's worker threads. A text that cannot fit is refused by its byte count before it is
tokenised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pagoda.chat_template import TemplateError, encode_chat
from pagoda.server.errors import ApiError, invalid
from pagoda.server.protocol import ChatRequest, CompletionRequest
from pagoda.server.state import ServerState

if TYPE_CHECKING:
    from pagoda.tokenizer import Tokenizer

DEFAULT_COMPLETION_TOKENS = 16


def context_error(param: str, max_model_len: int, request: str) -> ApiError:
    """The 400 for a request that does not fit into the context."""
    text = f"This model's maximum context length is {max_model_len} tokens. However, your request has {request}."
    return invalid(param, text, "context_length_exceeded")


def require_tokenizer(state: ServerState) -> Tokenizer:
    """The model's tokenizer. Raises 400 when it was loaded without one."""
    tokenizer = state.client.tokenizer
    if tokenizer is None:
        raise invalid("prompt", "this model was loaded without a tokenizer; send token ids", "no_tokenizer")
    return tokenizer


def check_model(state: ServerState, model: str | None) -> None:
    """Raises 404 when the request names another model than the one served under its names."""
    if model is not None and model not in state.model_names:
        text = f"The model {model[:64]!r} does not exist; this server has {state.client.model_name!r}."
        raise ApiError(404, text, param="model", code="model_not_found")


async def encode_prompts(state: ServerState, request: CompletionRequest) -> list[list[int]]:
    """Token ids of every prompt, each short enough to be tried. Raises ApiError 400."""
    encoded = []
    for prompt in request.prompts:
        ids = prompt if isinstance(prompt, list) else await encode_text(
            state, prompt, request.add_special_tokens, request.parse_special
        )  # fmt: skip
        if not ids:
            raise invalid("prompt", "prompt must not be empty", "invalid_value")
        encoded.append(cut_prompt(state, ids, request.options.truncate_prompt_tokens, request.sampling))
    return encoded


def cut_prompt(state: ServerState, ids: list[int], keep: int | None, sampling: Mapping[str, Any]) -> list[int]:
    """The last `keep` tokens, special ones counted; -1 keeps what leaves room for max_tokens, None everything."""
    if keep is None:
        return ids
    if keep == -1:
        keep = max(1, state.client.max_model_len - max(1, sampling.get("max_tokens", 1)))
    return ids[-keep:]


async def encode_text(state: ServerState, text: str, add_special_tokens: bool, parse_special: bool) -> list[int]:
    """Token ids of one text; control tokens in it are parsed only with `parse_special`."""
    tokenizer = require_tokenizer(state)
    await refuse_oversized(state, "prompt", [text])
    return await state.run_in_worker(
        tokenizer.encode, text, add_special_tokens=add_special_tokens, parse_special=parse_special
    )


async def encode_messages(state: ServerState, request: ChatRequest) -> list[int]:
    """Token ids of the rendered conversation. Raises ApiError 400, also with a template's own complaint."""
    ids = await render_chat(
        state,
        request.messages,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        tools=request.tools.tools if request.tools else None,
        **request.template_kwargs,
    )
    return cut_prompt(state, ids, request.options.truncate_prompt_tokens, request.sampling)


async def render_chat(state: ServerState, messages: list[dict[str, Any]], **options: Any) -> list[int]:
    """Applies the model's chat template; user text never becomes a control token."""
    tokenizer, template = require_tokenizer(state), state.client.chat_template
    if template is None:
        text = "this model has no chat template; use /v1/completions or set model.chat_template"
        raise invalid("messages", text, "no_chat_template")
    messages = _with_known_roles(messages, template.source_for(options.get("tools")))
    await refuse_oversized(state, "messages", [part for message in messages for part in _texts(message["content"])])
    try:
        ids = await state.run_in_worker(encode_chat, tokenizer, template, messages, **options)
    except TemplateError as error:
        raise invalid(error.param or "messages", f"chat template: {error}", "template_error") from None
    if not ids:
        raise invalid("messages", "the chat template made an empty prompt", "template_error")
    return ids


def _with_known_roles(messages: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """`developer` is OpenAI's later name of `system`; a template that does not know it gets the old one."""
    if "developer" in source:
        return messages
    return [{**message, "role": "system"} if message["role"] == "developer" else message for message in messages]


def _texts(content: str | list[dict[str, str]]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content]


async def refuse_oversized(state: ServerState, param: str, texts: Sequence[str]) -> None:
    """Raises context_length_exceeded when even the longest tokens could not cover the texts."""
    num_bytes = sum(len(text) for text in texts)  # at least one byte a character
    client = state.client
    if num_bytes <= 4 * client.max_model_len:
        return
    longest = await state.longest_token_bytes()
    if num_bytes > longest * client.max_model_len:
        raise context_error(param, client.max_model_len, f"at least {num_bytes // longest} tokens")


def fit_max_tokens(
    state: ServerState, param: str, prompts: Sequence[list[int]], max_tokens: int | None, default: int | None
) -> int | None:
    """max_tokens for these prompts: as asked, else `default` cut to what fits (None = up to the end of the context).

    Raises context_length_exceeded when a prompt leaves no room for one token or for the tokens asked for.
    """
    limit, longest = state.client.max_model_len, max(len(prompt) for prompt in prompts)
    asked = 1 if max_tokens is None else max_tokens
    if longest + asked > limit:
        raise context_error(
            param, limit, f"{longest + asked} tokens ({longest} in the prompt, {asked} for the completion)"
        )
    if max_tokens is not None:
        return max_tokens
    return None if default is None else min(default, limit - longest)
