"""Server, serve and run_server: listening, signals, draining, and the process's exit code.

Owns the listening socket and the order of shutting down. `enginectl serve` calls run_server; tests use Server.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pagoda.server.app import build_app
from pagoda.server.connection import Connection, OpenConnections
from pagoda.server.logs import reopen_log_files
from pagoda.server.settings import ServerSettings
from pagoda.server.state import STATE
from pagoda.server.stats_line import StatsLine
from pagoda.server.watchdog import Watchdog

if TYPE_CHECKING:
    from pagoda.client import EngineClient

logger = logging.getLogger(__name__)

#: Called with the host and the bound port.
OnReady = Callable[[str, int], None]

EXIT_OK = 0
EXIT_INTERRUPTED = 130
_ABORT_GRACE_S = 2.0
_CLOSE_S = 0.4
_BACKLOG = 1024
_TELL_AGAIN_S = 60


class ServeError(RuntimeError):
    """The server cannot listen. The text says where and why."""


class Server:
    """One listening server. Use: `start()`, later `drain()`, always `stop()`. All on one event loop."""

    def __init__(
        self, client: EngineClient, settings: ServerSettings, sampling: Mapping[str, Any] | None = None
    ) -> None:
        """`sampling` as in `build_app`. Raises ValueError for bad settings."""
        self.settings = settings
        self.app = build_app(client, settings, sampling)
        self.state = self.app[STATE]
        self.port = settings.port
        self._runner = web.AppRunner(self.app, access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_S)
        self._listener: asyncio.Server | None = None
        self._connections = OpenConnections()
        self._abort_now = asyncio.Event()
        self._client = client
        self._watchdog: Watchdog | None = None
        self._stats_task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The base URL, with the bound port after `start()`."""
        host = self.settings.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are being served."""
        return self._connections.count

    async def start(self) -> None:
        """Binds the port. Raises ServeError."""
        await self._runner.setup()
        manager = self._runner.server
        if manager is None:
            raise ServeError("the server was already stopped")
        _allow_open_files(self.settings.max_connections)
        host, port = self.settings.host, self.settings.port
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: Connection(manager, self.settings, self._connections), host, port, backlog=_BACKLOG
            )
        except OSError as error:
            await self.stop()
            raise ServeError(_bind_problem(host, port, error)) from error
        self.port = self._listener.sockets[0].getsockname()[1]
        self._watchdog = Watchdog(self._client, asyncio.get_running_loop(), self.settings.stall_timeout_s)
        self._watchdog.start()
        if self.settings.stats_interval_s > 0:
            self._stats_task = asyncio.create_task(StatsLine(self._client).run(self.settings.stats_interval_s))

    def abort_now(self) -> None:
        """Cuts a drain short: running requests end with finish reason `abort` at once."""
        self._abort_now.set()

    async def drain(self) -> None:
        """Refuses new requests and lets the running ones end, at most `shutdown_timeout_s`; then aborts the rest."""
        self.state.draining = True
        idle = asyncio.create_task(self.state.idle.wait())
        abort = asyncio.create_task(self._abort_now.wait())
        try:
            timeout = self.settings.shutdown_timeout_s
            await asyncio.wait({idle, abort}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not idle.done():
                logger.warning("ending %d running requests", self.state.in_flight)
                self.state.abort_streams()
                await asyncio.wait({idle}, timeout=_CLOSE_S if abort.done() else _ABORT_GRACE_S)
        finally:
            idle.cancel()
            abort.cancel()

    async def stop(self) -> None:
        """Closes the listening socket and every connection."""
        self.state.draining = True
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._stats_task is not None:
            self._stats_task.cancel()
            self._stats_task = None
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
        await self._runner.cleanup()


def run_server(
    client: EngineClient,
    settings: ServerSettings,
    on_ready: OnReady | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> int:
    """Runs `serve` on an event loop of its own, on the main thread. Returns the process's exit code."""
    return asyncio.run(serve(client, settings, on_ready, sampling))


async def serve(
    client: EngineClient,
    settings: ServerSettings,
    on_ready: OnReady | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code: 0 after a drain, 130 when a second SIGINT cut it short.

    `on_ready(host, port)` is called once the port accepts connections. Runs on the main thread, as signal handlers
    demand; the client stays the caller's to close. SIGHUP reopens the log file, where there is one. Raises ValueError
    for bad settings and ServeError when the port cannot be bound.
    """
    server = Server(client, settings, sampling)
    loop = asyncio.get_running_loop()
    asked_to_stop = asyncio.Event()
    exit_code = EXIT_OK

    def on_signal(number: signal.Signals) -> None:
        nonlocal exit_code
        if number == signal.SIGINT and asked_to_stop.is_set():
            exit_code = EXIT_INTERRUPTED
            server.abort_now()
        server.state.draining = True
        asked_to_stop.set()

    loop.set_exception_handler(LoopErrors())
    await server.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    if settings.log_file is not None:
        loop.add_signal_handler(signal.SIGHUP, reopen_log_files)
    try:
        if on_ready is not None:
            on_ready(server.settings.host, server.port)
        await asked_to_stop.wait()
        logger.info("draining %d running requests", server.state.in_flight)
        await server.drain()
    finally:
        await server.stop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
    return exit_code


class LoopErrors:
    """What the event loop complains of goes into the log; that no file descriptor is left, once a minute.

    The loop then accepts nothing for a second, and complains once for each place in the queue of connections.
    """

    def __init__(self) -> None:
        self._told = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler."""
        if not str(context.get("message")).startswith("socket.accept() out of system resource"):
            loop.default_exception_handler(context)
        elif loop.time() - self._told > _TELL_AGAIN_S:
            self._told = loop.time()
            logger.warning("no file descriptor is left for another connection; raise the limit (ulimit -n)")


def _bind_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port} is already in use; stop the other process or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission to listen on {host}:{port}; choose a port of 1024 or above"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"host {host!r} is not an address of this machine"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"


def _allow_open_files(max_connections: int) -> None:
    """Raises the soft limit of open files, so that the connection limit is reached first where the system lets it."""
    wanted = max_connections + 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if limit > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
