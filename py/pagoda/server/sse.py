"""Server-sent events: framing, keep-alive comments and the write timeout.

Owns the response of one stream. A client that takes nothing for `write_timeout_s` has its connection cut.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Any

from aiohttp import web

#: JSON leaves these in strings, but some clients end a line there.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def frame(data: Mapping[str, Any], named: bool = False) -> bytes:
    """One event: `data: {...}` and an empty line. A named one begins with `event: ` and its field `type`."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    name = f"event: {data['type']}\n" if named else ""
    return f"{name}data: {text if text.isascii() else text.translate(_LINE_ENDS)}\n\n".encode()


class SseWriter:
    """Writes one stream. Every method raises ConnectionError when the client is gone or too slow."""

    def __init__(
        self, request: web.Request, write_timeout_s: float, headers: Mapping[str, str], named: bool = False
    ) -> None:
        """`named`: events carry their names, and the end needs no word."""
        self._request = request
        self._named = named
        self._timeout_s = write_timeout_s
        self.response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache, no-store",
                "X-Accel-Buffering": "no",
                **headers,
            }
        )

    async def start(self) -> None:
        """Sends the status line and the headers."""
        await self.response.prepare(self._request)

    async def send(self, *events: Mapping[str, Any]) -> None:
        """Sends events in one write."""
        if events:
            await self._write(b"".join(frame(event, self._named) for event in events))

    async def comment(self, text: str) -> None:
        """Sends a comment, which clients skip: it keeps proxies from closing a silent stream."""
        await self._write(f": {text}\n\n".encode())

    async def done(self) -> None:
        """Ends the stream; one whose events have no names with `data: [DONE]`."""
        if not self._named:
            await self._write(b"data: [DONE]\n\n")
        await self._bounded(self.response.write_eof())

    async def _write(self, data: bytes) -> None:
        await self._bounded(self.response.write(data))

    async def _bounded(self, writing: Coroutine[Any, Any, None]) -> None:
        """Awaits `writing` within the write timeout."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await writing
        except TimeoutError:
            transport = self._request.transport
            if transport is not None:
                transport.abort()
            raise ConnectionResetError(f"the client took nothing for {self._timeout_s:g} seconds") from None
