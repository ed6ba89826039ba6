"""Error bodies as Anthropic's API writes them. Used by edge.py for its routes and by messages.py inside streams."""

from __future__ import annotations

from typing import Any

from pagoda.server.errors import ApiError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_body(error: ApiError) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message"}}`, with OpenAI's `param` and `code` beside them."""
    inner = error.body()["error"]
    default = "invalid_request_error" if error.status < 500 else "api_error"
    return {"type": "error", "error": inner | {"type": _TYPES.get(error.status, default)}}
