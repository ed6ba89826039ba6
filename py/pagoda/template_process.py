"""The parent's side of template_worker.py: starts it, sends it templates, ends it when it overruns its budget.

A process, because it is the only thing in Python whose time and memory can be bounded from outside whatever the
template does. Owned by ChatTemplate. Costs about 25 MB and 0.1 s once, and a fraction of a millisecond per chat.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from pagoda import template_worker

_START_TIMEOUT_S = 60.0


class TemplateFailure(Exception):
    """The template could not be rendered; the text is for the person who sent the chat."""


class TemplateProcess:
    """One worker process, started at the first use and again after it had to be ended. Thread-safe.

    The worker ends by itself when this process ends or `close` is called.
    """

    def __init__(self, time_budget_s: float, memory_bytes: int, max_output_chars: int) -> None:
        self._time_budget_s = time_budget_s
        self._setup = {"memory_bytes": memory_bytes, "max_output_chars": max_output_chars}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._owner_pid = 0
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def render(self, source: str, variables: dict[str, Any]) -> str:
        """The rendered text. Raises TemplateFailure for an error in the template or an exceeded budget."""
        return str(self._ask({"source": source, "variables": variables})["text"])

    def literals(self, source: str) -> list[str]:
        """Every string that the template itself holds. Raises TemplateFailure as `render` does."""
        return list(self._ask({"source": source})["literals"])

    def close(self) -> None:
        """Ends the worker. A later `render` starts a new one."""
        with self._lock:
            self._stop()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            answer: dict[str, Any] = self._exchange(self._running(), request, self._time_budget_s)
        if "error" in answer:
            raise TemplateFailure(answer["error"])
        return answer

    def _running(self) -> socket.socket:
        alive = self._process is not None and self._process.poll() is None and self._owner_pid == os.getpid()
        if alive and self._channel is not None:
            return self._channel
        self._stop()
        parent, child = socket.socketpair()
        with child:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(Path(template_worker.__file__))],
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
            raise TemplateFailure(f"the chat template ran longer than {budget_s:g} s") from None
        except OSError:
            answer = None
        except BaseException:
            self._stop()  # the answer would be taken for that of the next request
            raise
        if answer is None:
            self._stop()
            raise TemplateFailure("the process that renders chat templates ended unexpectedly")
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
