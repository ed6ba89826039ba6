"""The small endpoints: models, health, version, metrics, tokenize, detokenize.

Called by the router.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from pagoda.server import field_kinds as kinds
from pagoda.server import metrics as prometheus
from pagoda.server import prompts as texts
from pagoda.server.edge import read_json
from pagoda.server.errors import invalid
from pagoda.server.protocol import parse_messages, parse_template_kwargs
from pagoda.server.state import STATE, ServerState


def _model(state: ServerState) -> dict[str, Any]:
    return {
        "id": state.client.model_name,
        "object": "model",
        "created": state.created,
        "owned_by": "pagoda",
        "max_model_len": state.client.max_model_len,
    }


async def list_models(request: web.Request) -> web.Response:
    """Handles GET /v1/models."""
    return web.json_response({"object": "list", "data": [_model(request.app[STATE])]})


async def get_model(request: web.Request) -> web.Response:
    """Handles GET /v1/models/{id}; 404 for any other name than the served one."""
    state = request.app[STATE]
    texts.check_model(state, request.match_info["id"])
    return web.json_response(_model(state))


async def live(request: web.Request) -> web.Response:
    """Handles GET /health/live: the process answers."""
    return web.json_response({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Handles GET /health/ready and /health: a token can be made; 503 while draining or when the engine has stopped."""
    reason = request.app[STATE].unavailable()
    if reason is not None:
        raise reason
    return web.json_response({"status": "ready"})


async def version(request: web.Request) -> web.Response:
    """Handles GET /version."""
    return web.json_response({"version": request.app[STATE].version})


async def metrics(request: web.Request) -> web.Response:
    """Handles GET /metrics: Prometheus text."""
    state = request.app[STATE]
    page = state.metrics.render(state.in_flight, state.draining)
    return web.Response(body=page, headers={"Content-Type": prometheus.CONTENT_TYPE})


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
