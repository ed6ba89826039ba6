"""The parent's side of a worker: a process that runs what others wrote and is ended when it overruns its budget.

A process, because it is the only thing in Python whose time and memory can be bounded from outside whatever runs in it.
Owned by TemplateProcess and GrammarCheck; the messages are those of template_worker.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

from pagoda import template_worker

_START_TIMEOUT_S = 60.0


class WorkerFailure(Exception):
    """No answer came; the text is for the person whose request it was."""


class WorkerProcess:
    """One process that runs `script`, started at the first use and again after it had to be ended. Thread-safe.

    The worker ends by itself when this process ends or `close` is called.
    """

    def __init__(self, script: str, setup: dict[str, Any], time_budget_s: float, late: str, dead: str) -> None:
        """`setup` goes into the first message; `late` and `dead` are the errors for an overrun and a sudden end."""
        self._script = script
        self._setup = setup
        self._time_budget_s = time_budget_s
        self._late, self._dead = late, dead
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._owner_pid = 0
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer. Raises WorkerFailure for an "error" in it, an exceeded budget or a worker that died."""
        with self._lock:
            answer: dict[str, Any] = self._exchange(self._running(), request, self._time_budget_s)
        if "error" in answer:
            raise WorkerFailure(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the worker. A later `ask` starts a new one."""
        with self._lock:
            self._stop()

    def _running(self) -> socket.socket:
        alive = self._process is not None and self._process.poll() is None and self._owner_pid == os.getpid()
        if alive and self._channel is not None:
            return self._channel
        self._stop()
        parent, child = socket.socketpair()
        with child:
            self._process = subprocess.Popen(
                [sys.executable, "-I", self._script],
                stdin=child.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._channel, self._owner_pid = parent, os.getpid()
        self._finalizer = weakref.finalize(self, _end, self._process, parent, self._owner_pid)
        self._exchange(parent, {"path": [entry for entry in sys.path if entry], **self._setup}, _START_TIMEOUT_S)
        return parent

    def _exchange(self, channel: socket.socket, message: dict[str, Any], budget_s: float) -> Any:
        deadline = time.monotonic() + budget_s
        try:
            channel.settimeout(budget_s)
            template_worker.send(channel, message)
            channel.settimeout(max(deadline - time.monotonic(), 0.001))
            answer = template_worker.receive(channel)
        except TimeoutError:
            self._stop()
            raise WorkerFailure(self._late) from None
        except OSError:
            answer = None
        except BaseException:
            self._stop()  # the answer would be taken for that of the next request
            raise
        if answer is None:
            self._stop()
            raise WorkerFailure(self._dead)
        return answer

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._channel = self._finalizer = None


def _end(process: subprocess.Popen[bytes], channel: socket.socket, owner_pid: int) -> None:
    channel.close()
    if os.getpid() == owner_pid:  # a forked copy of this object does not own the worker
        process.kill()
        process.wait()
