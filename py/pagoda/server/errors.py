"""ApiError and the one place where failures become OpenAI-shaped error bodies.

Every error body is `{"error": {"message", "type", "param", "code"}}`, at most 1 KB, without paths, addresses or
tracebacks. Called by every handler, by the middleware in edge.py and by the connection class in runner.py.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from aiohttp import web

from pagoda.config import DeviceError, InternalError, InvalidArgument, Overloaded

MAX_MESSAGE_CHARS = 480
MAX_ECHO_CHARS = 64

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")
_PATH = re.compile(r"(?<![\w/:.])(?!/v1/)(?:/[\w.+@-]+){2,}|\b[A-Za-z]:\\[^\s'\"]+")


class ApiError(Exception):
    """A request that ends with an error status. `close` also closes the connection."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}
        self.close = close

    def body(self) -> dict[str, Any]:
        """The JSON object sent to the client."""
        default = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": clean(self.message),
                "type": _TYPES.get(self.status, default),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self, request_id: str | None = None, body: dict[str, Any] | None = None) -> web.Response:
        """The complete HTTP response; `body` stands for body() where an API has another shape."""
        headers = {**self.headers, "Server": "pagoda"}
        if request_id is not None:
            headers["x-request-id"] = request_id
        text = json.dumps(body or self.body(), ensure_ascii=True)
        response = web.Response(status=self.status, text=text, content_type="application/json", headers=headers)
        if self.close:
            response.force_close()
        return response


def clean(message: str) -> str:
    """The message cut to its limit, on one line, without file paths (routes stay) and memory addresses."""
    text = _PATH.sub("<path>", _ADDRESS.sub("<address>", message[: 4 * MAX_MESSAGE_CHARS]))
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 3] + "..."


def show(value: Any) -> str:
    """A client's value for an error message: JSON, cut to 64 characters, cheap for huge values."""
    if isinstance(value, str):
        text = json.dumps(value[: MAX_ECHO_CHARS + 1])
    elif isinstance(value, list):
        return f"a list of {len(value)}" if len(value) > 4 else _cut(json.dumps([_shallow(item) for item in value]))
    elif isinstance(value, dict):
        return f"an object of {len(value)} keys"
    elif isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    else:
        text = json.dumps(value)
    return _cut(text)


def _shallow(item: Any) -> Any:
    if isinstance(item, str):
        return item[:MAX_ECHO_CHARS]
    if isinstance(item, int) and item.bit_length() > 256:
        return "huge integer"
    return item if item is None or isinstance(item, (int, float)) else type(item).__name__


def _cut(text: str) -> str:
    return text if len(text) <= MAX_ECHO_CHARS else text[: MAX_ECHO_CHARS - 3] + "..."


def invalid(param: str | None, message: str, code: str | None = None) -> ApiError:
    """A 400 that names the request field."""
    return ApiError(400, message, param=param, code=code)


def from_exception(error: BaseException) -> ApiError | None:
    """Maps the engine's four error kinds; None for anything else."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidArgument):
        return ApiError(400, str(error), param=leading_name(str(error)), code="invalid_value")
    if isinstance(error, Overloaded):
        seconds = math.ceil(getattr(error, "retry_after_s", 1))  # an Overloaded of Python's has none
        return ApiError(429, str(error), code="overloaded", headers={"Retry-After": str(seconds)})
    if isinstance(error, DeviceError):
        return ApiError(503, "The engine has stopped after a device error.", code="engine_unavailable")
    if isinstance(error, InternalError):
        return ApiError(500, "The engine failed on this request.", code="internal_error")
    return None


def leading_name(message: str) -> str | None:
    """The parameter that an engine message starts with: `top_p must be ...` gives `top_p`."""
    match = re.match(r"([a-z][a-z0-9_]*)(?:\[\d+\])? (?:must|has|is|are|holds)\b", message)
    return match.group(1) if match else None


def internal_error() -> ApiError:
    """The 500 for a fault of ours; details go to the log only."""
    return ApiError(500, "The server failed on this request.", code="internal_error")
