"""POST /admin/...: what changes a running server. Called by the router; these routes want an admin key."""

from __future__ import annotations

from aiohttp import web

from pagoda.server.state import STATE


async def reset_prefix_cache(request: web.Request) -> web.Response:
    """Handles POST /admin/reset_prefix_cache: no later request finds a prompt beginning computed before this one.

    Running requests keep their blocks. 503 when the engine has ended.
    """
    request.app[STATE].client.reset_prefix_cache()
    return web.json_response({"status": "ok"})
