"""The small endpoints: models, health, version, metrics.

Called by the router.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from pagoda.server import metrics as prometheus
from pagoda.server import prompts as texts
from pagoda.server.state import STATE, ServerState


def _model(state: ServerState, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": state.created,
        "owned_by": "pagoda",
        "root": state.client.model_name,
        "parent": None,
        "max_model_len": state.client.max_model_len,
    }


async def list_models(request: web.Request) -> web.Response:
    """Handles GET /v1/models: the model under each of its names."""
    state = request.app[STATE]
    return web.json_response({"object": "list", "data": [_model(state, name) for name in state.model_names]})


async def get_model(request: web.Request) -> web.Response:
    """Handles GET /v1/models/{id}; 404 for a name that is not served."""
    state = request.app[STATE]
    texts.check_model(state, request.match_info["id"])
    return web.json_response(_model(state, request.match_info["id"]))


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
