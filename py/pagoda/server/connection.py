"""Connection: aiohttp's protocol object with the limits that aiohttp leaves open.

Owns the time limits for a first request and for writing an answer, the refusal beyond the connection limit, the notice
that a client has left, and the error bodies of requests that are not valid HTTP. Made by runner.Server for every
accepted socket.
"""

from __future__ import annotations

import asyncio
import logging
import re
import select
import socket
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from pagoda.server import security
from pagoda.server.errors import ApiError
from pagoda.server.settings import ServerSettings

logger = logging.getLogger(__name__)

_SEND_BUFFER_BYTES = 128 * 1024
_LINGER_S = 2.0
_PRESENCE_S = 1.0
_QUOTATION = re.compile(r"[^A-Za-z0-9 ,'-]|\B'|'\B|\bb'|when reading")
_BUSY_BODY = (
    b'{"error": {"message": "The server has too many open connections.", '
    b'"type": "service_unavailable_error", "param": null, "code": "too_many_connections"}}'
)
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: pagoda\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BUSY_BODY), _BUSY_BODY)
)


@dataclass(slots=True)
class OpenConnections:
    """How many connections one server has open, refused ones not counted."""

    count: int = 0


class Connection(RequestHandler):
    """One client connection. Invariant: it is counted in `open_connections` exactly while `_counted`."""

    def __init__(self, manager: web.Server, settings: ServerSettings, open_connections: OpenConnections) -> None:
        options: dict[str, Any] = {
            "keepalive_timeout": settings.keep_alive_s,
            "access_log": None,
            "max_line_size": settings.max_header_bytes,
            "max_field_size": settings.max_header_bytes,
            "max_headers": settings.max_headers,
            "lingering_time": _LINGER_S,
            "auto_decompress": False,
        }
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self._settings = settings
        self._open = open_connections
        self._counted = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._presence_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admits the connection, or answers 503 and closes it."""
        if self._open.count >= self._settings.max_connections and isinstance(transport, asyncio.Transport):
            transport.write(_BUSY)
            transport.close()
            return
        self._open.count += 1
        self._counted = True
        _tune(transport, self._settings.write_timeout_s)
        super().connection_made(transport)
        self._header_timer = self._loop.call_later(self._settings.header_timeout_s, self._check_first_request)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancels the running handler and forgets the connection."""
        if self._counted:
            self._counted = False
            self._open.count -= 1
        if self._header_timer is not None:
            self._header_timer.cancel()
        if self._presence_timer is not None:
            self._presence_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes in what the client sent. While enough is read ahead nothing more is read, so a client that leaves would
        not be noticed: its presence is looked up.
        """
        super().data_received(data)
        if self._presence_timer is None and self.transport is not None and not self.transport.is_reading():
            self._presence_timer = self._loop.call_later(_PRESENCE_S, self._check_presence)

    def _check_presence(self) -> None:
        self._presence_timer = None
        if self.transport is None or self.transport.is_closing() or self.transport.is_reading():
            return
        if _has_left(self.transport):
            self.transport.abort()
        else:
            self._presence_timer = self._loop.call_later(_PRESENCE_S, self._check_presence)

    def _check_first_request(self) -> None:
        if self._request_count == 0:
            self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends what the handler returned; a client that does not take it in time is cut off."""
        if isinstance(resp, web.HTTPException):
            resp = ApiError(resp.status, f"{resp.reason}.", code="http_error", close=True).response()
        try:
            async with asyncio.timeout(self._settings.write_timeout_s):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            raise ConnectionResetError("the client did not take the answer") from None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be parsed, or that failed outside the middleware. Closes the
        connection.
        """
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionResetError("the answer has already begun")
        if status >= 500:
            logger.error("a request failed outside its handler", exc_info=exc)
            error = ApiError(status, "The server failed on this request.", code="internal_error", close=True)
        else:
            logger.info("a request was not valid HTTP: %s", _fault(message or ""))
            error = ApiError(status, "The request is not valid HTTP.", code="invalid_http", close=True)
        error.headers |= security.HEADERS
        return error.response("none")


def _fault(message: str) -> str:
    """What aiohttp says is wrong, without what it quotes: headers hold keys, and a log must not."""
    return _QUOTATION.split(message, maxsplit=1)[0].strip()[:80] or "malformed"


def _has_left(transport: asyncio.BaseTransport) -> bool:
    """Whether the other side has closed or reset the connection, whatever is still unread."""
    sock: Any = transport.get_extra_info("socket")
    if sock is None:
        return False
    poller = select.poll()
    poller.register(sock.fileno(), getattr(select, "POLLRDHUP", 0))
    return bool(poller.poll(0))


def _tune(transport: asyncio.BaseTransport, write_timeout_s: float) -> None:
    """A bounded send buffer, and a time limit for unacknowledged data where the system has one."""
    sock: Any = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(write_timeout_s * 1000))
