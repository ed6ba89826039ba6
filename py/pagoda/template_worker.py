"""Runs chat templates in a process of its own: started as a script by template_process.py, talks over standard input.

A chat template comes with a model file and is hostile input: here it can loop, recurse or fill memory until the parent
ends this process. It sees plain JSON data through Jinja2's immutable sandbox and nothing of the engine. The script
imports nothing of the package, so it starts in the time that Jinja2 takes to import.

Messages, both ways: 8 bytes of length (big endian), then JSON. First message: {"path": sys.path of the parent,
"memory_bytes", "max_output_chars"}, answered by {}. Then {"source", "variables"} -> {"text"} or {"error"}.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from datetime import datetime
from typing import Any


class OutputTooLong(Exception):
    """The template wrote more than it may."""


def make_environment() -> Any:
    """The environment that chat templates are written for (that of transformers' apply_chat_template)."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks assistant text for training; rendering just writes its body."""

        tags = {"generation"}  # noqa: RUF012 (declared as in Jinja2)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class SafeNamespace(Namespace):
        """namespace() without names that reach into Python."""

        def __init__(*args: Any, **kwargs: Any) -> None:  # namespace(self=...) must work
            Namespace.__init__(args[0], {})
            for name, value in dict(*args[1:], **kwargs).items():
                args[0][name] = value

        def __setitem__(self, name: str, value: Any) -> None:
            if str(name).startswith("_"):
                raise SecurityError(f"a namespace attribute must not begin with an underscore, got {name!r}")
            super().__setitem__(name, value)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def strftime_now(pattern: str) -> str:
        return datetime.now().strftime(pattern)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(
        namespace=SafeNamespace, dict=make_dict, raise_exception=raise_exception, strftime_now=strftime_now
    )
    return environment


class Renderer:
    """Compiled templates by source (a model has one to three)."""

    def __init__(self, max_output_chars: int) -> None:
        self._environment = make_environment()
        self._templates: dict[str, Any] = {}
        self._max_output_chars = max_output_chars

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """{"text": ...}, or {"error": ...} for anything that goes wrong in the template."""
        try:
            return {"text": self._render(request["source"], request["variables"])}
        except RecursionError:
            return {"error": "the chat template nests too deeply"}
        except MemoryError:
            return {"error": "the chat template needs too much memory"}
        except Exception as error:  # whatever a template can raise belongs to its caller
            line = getattr(error, "lineno", None)
            where = f" (line {line})" if line else ""
            return {"error": f"{error}{where}" if str(error) else type(error).__name__}

    def _render(self, source: str, variables: dict[str, Any]) -> str:
        if source not in self._templates:
            self._templates[source] = self._environment.from_string(source)
        parts: list[str] = []
        size = 0
        for part in self._templates[source].generate(variables):
            size += len(part)
            if size > self._max_output_chars:
                raise OutputTooLong(f"the chat template wrote more than {self._max_output_chars} characters")
            parts.append(part)
        return "".join(parts)


def receive(channel: socket.socket) -> Any:
    """The next message; None when the parent has gone."""
    head = read_exactly(channel, 8)
    body = read_exactly(channel, int.from_bytes(head, "big")) if head is not None else None
    return None if body is None else json.loads(body)


def read_exactly(channel: socket.socket, size: int) -> bytes | None:
    """`size` bytes; None at the end of the stream."""
    data = bytearray()
    while len(data) < size:
        chunk = channel.recv(min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def send(channel: socket.socket, message: Any) -> None:
    """Writes one message."""
    body = json.dumps(message).encode()
    channel.sendall(len(body).to_bytes(8, "big") + body)


def main() -> None:
    """Serves until the parent closes its end, which also happens when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which may still drain requests
    channel = socket.socket(fileno=0)
    setup = receive(channel)
    sys.path[:] = setup["path"]
    renderer = Renderer(setup["max_output_chars"])
    resource.setrlimit(resource.RLIMIT_AS, (setup["memory_bytes"], setup["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    send(channel, {})
    while (request := receive(channel)) is not None:
        send(channel, renderer.answer(request))


if __name__ == "__main__":
    main()
