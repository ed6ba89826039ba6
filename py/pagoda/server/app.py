"""build_app: the route table and the shared state of one server.

A new endpoint is a handler in its own file and one line in ROUTES. Called by runner.py and by tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.typedefs import Handler

from pagoda.server import (
    admin,
    edge,
    embeddings,
    info,
    messages,
    openapi,
    requests,
    responses,
    security,
    text,
    timeline,
)
from pagoda.server.chat import create_chat_completion
from pagoda.server.completions import create_completion
from pagoda.server.settings import ServerSettings
from pagoda.server.state import STATE, ServerState

if TYPE_CHECKING:
    from pagoda.client import EngineClient


@dataclass(frozen=True, slots=True)
class Route:
    """One endpoint. An inference route is counted, drained and refused while no token can be made; an admin route wants
    a key of that scope.
    """

    method: str
    path: str
    handler: Handler
    inference: bool = False
    admin: bool = False


ROUTES = (
    Route("POST", "/v1/completions", create_completion, inference=True),
    Route("POST", "/v1/chat/completions", create_chat_completion, inference=True),
    Route("POST", "/v1/responses", responses.create_response, inference=True),
    Route("POST", "/v1/embeddings", embeddings.create_embedding, inference=True),
    Route("POST", "/v1/messages", messages.create_message, inference=True),
    Route("POST", "/v1/messages/count_tokens", messages.count_tokens),
    Route("POST", "/v1/chat/completions/render", text.render_chat),
    Route("POST", "/v1/requests/{id}/abort", requests.abort_request),
    Route("GET", "/v1/models", info.list_models),
    Route("GET", r"/v1/models/{id:.+}", info.get_model),
    Route("POST", "/tokenize", text.tokenize),
    Route("POST", "/detokenize", text.detokenize),
    Route("GET", "/health", info.ready),
    Route("GET", "/health/live", info.live),
    Route("GET", "/health/ready", info.ready),
    Route("GET", "/metrics", info.metrics),
    Route("GET", "/version", info.version),
    Route("GET", "/openapi.json", openapi.get_openapi),
    Route("GET", "/v1/requests/{id}/timeline", timeline.get_timeline),
    Route("GET", "/admin/trace", timeline.get_trace, admin=True),
    Route("POST", "/admin/reset_prefix_cache", admin.reset_prefix_cache, admin=True),
)


def build_app(
    client: EngineClient, settings: ServerSettings, sampling: Mapping[str, Any] | None = None
) -> web.Application:
    """The application that serves `client`. Raises ValueError for settings that do not hold together.

    `sampling` holds defaults for sampling fields that a request leaves out; it wins over the model's own defaults.

    Body limits are applied while reading, in json_body.py; connection limits by runner.py.
    """
    settings.validate()
    app = web.Application(middlewares=[edge.edge], client_max_size=settings.max_body_bytes)
    app[STATE] = ServerState(client, settings, sampling)
    app[edge.KEYS] = security.KeyCheck(settings.keys(), settings.admin_keys())
    app[edge.INFERENCE_PATHS] = frozenset(route.path for route in ROUTES if route.inference)
    app[edge.ADMIN_PATHS] = frozenset(route.path for route in ROUTES if route.admin)
    for route in ROUTES:
        if route.method == "GET":
            app.router.add_get(route.path, route.handler)
        else:
            app.router.add_route(route.method, route.path, route.handler)
    app.on_response_prepare.append(edge.add_headers)
    app.on_cleanup.append(_close)
    return app


async def _close(app: web.Application) -> None:
    await asyncio.to_thread(app[STATE].close)
