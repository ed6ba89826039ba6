"""What can be done with a request that runs: POST /v1/requests/{id}/abort.

Called by the router.
"""

from __future__ import annotations

from aiohttp import web

from pagoda.server.edge import KEYS
from pagoda.server.errors import ApiError
from pagoda.server.state import STATE


async def abort_request(request: web.Request) -> web.Response:
    """Ends a request of the same caller with finish reason `abort`; what it made so far is its answer.

    A key of the scope admin ends anybody's.
    The id is that of its answer, or its `x-request-id`. Raises 404 when no such request runs.
    """
    name, keys = request.match_info["id"], request.app[KEYS]
    caller = None if keys.is_admin(request.headers) else keys.caller(request.headers)
    count = request.app[STATE].abort_request(name, caller)
    if count == 0:
        raise ApiError(404, "No request of this id is running.", param="id", code="request_not_found")
    return web.json_response({"id": name, "object": "request.abort", "aborted": count})
