"""The middleware around every handler: identity, access rules, error bodies, counting and the access log.

Owns the request id and the outcome of each request. Handlers raise ApiError; nothing else leaves here but a cancelled
task of a client that went away.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from pagoda.server import security
from pagoda.server.anthropic_error import anthropic_body
from pagoda.server.errors import ApiError, from_exception, internal_error
from pagoda.server.json_body import read_object
from pagoda.server.spans import RequestSpan, Spans
from pagoda.server.state import STATE, ServerState

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("pagoda.server.access")

#: Request keys: its id, and how an inference request ended.
REQUEST_ID = web.RequestKey("request_id", str)
OUTCOME = web.RequestKey("outcome", str)
#: The id of its answer, once it has one.
ANSWER_ID = web.RequestKey("answer_id", str)

EXPOSED_HEADERS = "x-request-id, x-pagoda-ignored, x-pagoda-warning, retry-after"
_REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")
KEYS = web.AppKey("keys", security.KeyCheck)
INFERENCE_PATHS = web.AppKey("inference_paths", frozenset)
ADMIN_PATHS = web.AppKey("admin_paths", frozenset)


async def read_json(request: web.Request) -> dict[str, Any]:
    """The request's JSON object, within the server's limits."""
    settings = request.app[STATE].settings
    return await read_object(request, settings.max_body_bytes, settings.body_timeout_s)


@web.middleware
async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Gives the request its id, admits or refuses it, runs the handler and accounts for what came out."""
    state = request.app[STATE]
    given = request.headers.get("x-request-id", "")
    request[REQUEST_ID] = given if _REQUEST_ID_FORM.fullmatch(given) else uuid.uuid4().hex
    started = time.monotonic()
    route = route_path(request)
    inference = route in request.app[INFERENCE_PATHS] and request.method == "POST"
    status = "499"
    if inference:
        state.enter()
        request[OUTCOME] = "client_disconnect"
    try:
        response = await _answer(request, handler, state, inference)
        status = str(response.status)
        return response
    finally:
        if inference:
            state.leave()
            state.metrics.count_request(request[OUTCOME])
            if state.spans is not None:
                _add_span(request, state.spans, route, status, time.monotonic() - started)
        state.metrics.http_requests.labels(route, status).inc()
        if state.settings.access_log:
            _log(request, status, time.monotonic() - started)


def _add_span(request: web.Request, spans: Spans, route: str, status: str, seconds: float) -> None:
    """Hands the request over for sending; a fault there must not touch the answer."""
    end = time.time()
    span = RequestSpan(route, status, request[OUTCOME], end - seconds, end, request.get(ANSWER_ID, ""))
    try:
        spans.record(span, request.headers)
    except Exception:
        logger.exception("request %s has no span", request[REQUEST_ID])


async def _answer(request: web.Request, handler: Handler, state: ServerState, inference: bool) -> web.StreamResponse:
    """The handler's response, or the error response for what it raised."""
    try:
        preflight = _admit(request, state, inference)
        return preflight if preflight is not None else await handler(request)
    except web.HTTPException as error:
        return _refuse(request, _from_http(error, request))
    except asyncio.CancelledError:
        raise
    except ConnectionError:
        request[OUTCOME] = "client_disconnect"
        raise
    except Exception as error:
        known = from_exception(error)
        if known is None:
            logger.exception("request %s failed", request[REQUEST_ID])
            known = internal_error()
        return _refuse(request, known)


def _admit(request: web.Request, state: ServerState, inference: bool) -> web.Response | None:
    """Applies the access rules; answers a CORS preflight itself. Raises ApiError."""
    settings, keys = state.settings, request.app[KEYS]
    if not keys.required:
        security.check_host(request.headers, settings)
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        return web.Response(status=204, headers=security.preflight_headers(request.headers.get("Origin"), settings))
    route = route_path(request)
    if route in request.app[ADMIN_PATHS]:
        keys.check_admin(request.headers)
    elif route not in security.PUBLIC_PATHS:
        keys.check(request.headers)
    if inference and (reason := state.unavailable()) is not None:
        raise reason
    return None


def _refuse(request: web.Request, error: ApiError) -> web.Response:
    request[OUTCOME] = error.code or f"status_{error.status}"
    is_anthropic = request.path == "/v1/messages" or request.path.startswith("/v1/messages/")
    return error.response(body=anthropic_body(error) if is_anthropic else None)


def _from_http(error: web.HTTPException, request: web.Request) -> ApiError:
    """The router's own refusals (404, 405, 417) in our shape."""
    headers = {}
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        text = f"{request.method[:16]} is not allowed here; use {headers['Allow']}."
        return ApiError(405, text, code="method_not_allowed", headers=headers)
    if error.status == HTTPStatus.NOT_FOUND:
        return ApiError(404, "There is no such route.", code="not_found")
    return ApiError(error.status, f"{error.reason}.", code="http_error")


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: security headers, CORS, the request id, and `Connection: close` while draining."""
    state = request.app[STATE]
    response.headers.update(security.HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    if REQUEST_ID in request:
        response.headers["x-request-id"] = request[REQUEST_ID]
    origin = security.allowed_origin(request.headers.get("Origin"), state.settings)
    if origin is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
    if state.settings.cors_origins:
        response.headers["Vary"] = "Origin"
    if state.draining:
        response.force_close()
        response.headers["Connection"] = "close"


def route_path(request: web.Request) -> str:
    """The route's pattern, for counters; `other` for an unknown path."""
    resource = request.match_info.route.resource
    return "other" if resource is None else resource.canonical


def _log(request: web.Request, status: str, seconds: float) -> None:
    """One record; what the client chose is escaped and cut."""
    fields = {
        "request_id": request[REQUEST_ID],
        "method": ascii(request.method[:16])[1:-1],
        "path": ascii(request.path[:200])[1:-1],
        "status": status,
        "milliseconds": round(1000 * seconds, 1),
    }
    access_logger.info("%s %s %s %s %s ms", *fields.values(), extra=fields)
