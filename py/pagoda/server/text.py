"""The endpoints that only handle text: tokenize, detokenize, and the prompt that a chat request would have.

Called by the router. Nothing here reaches the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from pagoda.server import field_kinds as kinds
from pagoda.server import prompts as texts
from pagoda.server.edge import read_json
from pagoda.server.errors import invalid
from pagoda.server.field_kinds import Kind
from pagoda.server.protocol import (
    CHAT_ONLY,
    COMMON,
    COMPLETION_ONLY,
    check_fields,
    make_params,
    parse_chat,
    parse_messages,
    parse_template_kwargs,
)
from pagoda.server.state import STATE

_TOKENIZE: dict[str, Kind] = {
    name: (CHAT_ONLY | COMPLETION_ONLY | COMMON)[name]
    for name in (
        "model",
        "prompt",
        "messages",
        "add_special_tokens",
        "parse_special",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template_kwargs",
        "tools",
    )
}
_DETOKENIZE: dict[str, Kind] = {"model": COMMON["model"], "tokens": COMPLETION_ONLY["prompt"]}


async def _read(request: web.Request, table: Mapping[str, Kind]) -> tuple[dict[str, Any], dict[str, str]]:
    """The checked fields of a body and the headers that tell of others."""
    state = request.app[STATE]
    values, ignored = check_fields(await read_json(request), table, state.limits, state.settings.strict)
    texts.check_model(state, values.get("model"))
    return values, ignored.headers()


async def tokenize(request: web.Request) -> web.Response:
    """Handles POST /tokenize: `{"prompt": text}` or `{"messages": [...]}`, with `tools` or not, to token ids."""
    state = request.app[STATE]
    values, headers = await _read(request, _TOKENIZE)
    if "messages" in values:
        goes_on = values.get("continue_final_message", False)
        ids = await texts.render_chat(
            state,
            parse_messages(values["messages"], state.limits),
            add_generation_prompt=values.get("add_generation_prompt", not goes_on),
            continue_final_message=goes_on,
            tools=values.get("tools") or None,
            **parse_template_kwargs(values.get("chat_template_kwargs", {})),
        )
    else:
        if not isinstance(values.get("prompt"), str):
            raise invalid("prompt", "prompt must be a string", "invalid_type")
        begins, special = values.get("add_special_tokens", True), values.get("parse_special", False)
        ids = await texts.encode_text(state, values["prompt"], begins, special)
    return web.json_response(
        {"tokens": ids, "count": len(ids), "max_model_len": state.client.max_model_len}, headers=headers
    )


async def detokenize(request: web.Request) -> web.Response:
    """Handles POST /detokenize: `{"tokens": [ids]}` to `{"prompt": text}`."""
    state = request.app[STATE]
    values, headers = await _read(request, _DETOKENIZE)
    tokens = values.get("tokens")
    if not isinstance(tokens, list) or len(tokens) > state.client.max_model_len:
        text = f"tokens must be a list of at most {state.client.max_model_len} token ids"
        raise invalid("tokens", text, "invalid_type")
    kinds.check_token_ids("tokens", tokens, state.limits.vocab_size)
    tokenizer = texts.require_tokenizer(state)
    text = await state.run_in_worker(tokenizer.decode, tokens, skip_special_tokens=False)
    return web.json_response({"prompt": text}, headers=headers)


async def render_chat(request: web.Request) -> web.Response:
    """Handles POST /v1/chat/completions/render: the prompt that this chat request would have, as text and token ids."""
    state = request.app[STATE]
    parsed = parse_chat(await read_json(request), state.limits, state.settings.strict)
    texts.check_model(state, parsed.options.model)
    make_params(parsed.sampling, state.defaults, state.limits.vocab_size)
    ids = await texts.encode_messages(state, parsed)
    text = await state.run_in_worker(texts.require_tokenizer(state).decode, ids, skip_special_tokens=False)
    body: dict[str, Any] = {
        "object": "chat.completion.render",
        "model": parsed.options.model or state.client.model_name,
        "prompt": text,
        "prompt_token_ids": ids,
        "count": len(ids),
        "max_model_len": state.client.max_model_len,
    }
    return web.json_response(body, headers=parsed.options.ignored.headers())
