"""The endpoints that only handle text: tokenize, detokenize, and the prompt that a chat request would have.

Called by the router. Nothing here reaches the engine.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from pagoda.server import field_kinds as kinds
from pagoda.server import prompts as texts
from pagoda.server.edge import read_json
from pagoda.server.errors import invalid
from pagoda.server.protocol import make_params, parse_chat, parse_messages, parse_template_kwargs
from pagoda.server.state import STATE


async def tokenize(request: web.Request) -> web.Response:
    """Handles POST /tokenize: `{"prompt": text}` or `{"messages": [...]}` to token ids."""
    state = request.app[STATE]
    body = await read_json(request)
    flags = {
        name: kinds.boolean(name, body.get(name, default), state.limits)
        for name, default in (("add_special_tokens", True), ("parse_special", False), ("add_generation_prompt", True))
    }
    if "messages" in body:
        kwargs = kinds.any_object("chat_template_kwargs", body.get("chat_template_kwargs", {}), state.limits)
        ids = await texts.render_chat(
            state,
            parse_messages(body["messages"], state.limits),
            add_generation_prompt=flags["add_generation_prompt"],
            continue_final_message=False,
            **parse_template_kwargs(kwargs),
        )
    else:
        if not isinstance(body.get("prompt"), str):
            raise invalid("prompt", "prompt must be a string", "invalid_type")
        ids = await texts.encode_text(state, body["prompt"], flags["add_special_tokens"], flags["parse_special"])
    return web.json_response({"tokens": ids, "count": len(ids), "max_model_len": state.client.max_model_len})


async def detokenize(request: web.Request) -> web.Response:
    """Handles POST /detokenize: `{"tokens": [ids]}` to `{"prompt": text}`."""
    state = request.app[STATE]
    body = await read_json(request)
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or len(tokens) > state.client.max_model_len:
        text = f"tokens must be a list of at most {state.client.max_model_len} token ids"
        raise invalid("tokens", text, "invalid_type")
    kinds.check_token_ids("tokens", tokens, state.limits.vocab_size)
    tokenizer = texts.require_tokenizer(state)
    text = await state.run_in_worker(tokenizer.decode, tokens, skip_special_tokens=False)
    return web.json_response({"prompt": text})


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
