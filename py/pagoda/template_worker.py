"""Runs chat templates in a process of its own: started as a script by template_process.py, talks over standard input.

A chat template comes with a model file and is hostile input: here it can loop, recurse or fill memory until the parent
ends this process. It sees plain JSON data through Jinja2's immutable sandbox and nothing of the engine. The script
imports nothing of the package, so it starts in the time that Jinja2 takes to import.

Messages, both ways: 8 bytes of length (big endian), then JSON. First message: {"path": sys.path of the parent,
"memory_bytes", "max_output_chars"}, answered by {}. Then {"source", "variables"} -> {"text"} and
{"source"} -> {"literals": the strings that the template's text and expressions hold}; or {"error"} for either.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from datetime import datetime
from typing import Any

MAX_TEMPLATES = 16  # compiled ones that are kept; a model has one to three
MAX_ERROR_CHARS = 500  # a template chooses the text of its errors


class OutputTooLong(Exception):
    """The template wrote more than it may."""


def make_environment() -> Any:
    """The environment that chat templates are written for (that of transformers' apply_chat_template)."""
    from jinja2 import nodes, pass_eval_context
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks assistant text for training; rendering just writes its body, a scope of its own."""

        tags = {"generation"}  # noqa: RUF012 (declared as in Jinja2)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_write"), [], [], body).set_lineno(line)

        @pass_eval_context
        def _write(self, context: nodes.EvalContext, caller: Any) -> Any:
            return caller()

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(make_globals())
    return environment


def make_globals() -> dict[str, Any]:
    """What templates can call: namespace, dict, raise_exception, strftime_now."""
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.utils import Namespace

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

    class MakeDict:
        """dict(...) and dict.fromkeys(...), and nothing else of the class."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(pattern: str) -> str:
        return datetime.now().strftime(pattern)

    return {
        "namespace": SafeNamespace,
        "dict": MakeDict(),
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
    }


class Renderer:
    """Compiled templates by source, the last used kept."""

    def __init__(self, max_output_chars: int) -> None:
        self._environment = make_environment()
        self._templates: dict[str, Any] = {}
        self._max_output_chars = max_output_chars

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """{"text": ...} or {"literals": ...}, or {"error": ...} for anything that goes wrong in the template."""
        try:
            if "variables" not in request:
                return {"literals": self._literals(request["source"])}
            return {"text": self._render(request["source"], request["variables"])}
        except RecursionError:
            return {"error": "the chat template nests too deeply"}
        except MemoryError:
            return {"error": "the chat template needs too much memory"}
        except Exception as error:  # whatever a template can raise belongs to its caller
            return {"error": describe(error)}

    def _literals(self, source: str) -> list[str]:
        from jinja2 import nodes

        tree = self._environment.parse(source)
        texts = [node.data for node in tree.find_all(nodes.TemplateData)]
        texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        return list(dict.fromkeys(texts))

    def _template(self, source: str) -> Any:
        template = self._templates.pop(source, None)
        if template is None:
            template = self._environment.from_string(source)
            if len(self._templates) >= MAX_TEMPLATES:
                del self._templates[next(iter(self._templates))]
        self._templates[source] = template
        return template

    def _render(self, source: str, variables: dict[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        for part in self._template(source).generate(variables):
            size += len(part)
            if size > self._max_output_chars:
                raise OutputTooLong(f"the chat template wrote more than {self._max_output_chars} characters")
            parts.append(part)
        return "".join(parts)


def describe(error: Exception) -> str:
    """What to tell the caller: the error's own text, cut to MAX_ERROR_CHARS, and the template's line."""
    try:
        text = str(error)
    except Exception:  # a text can hold anything that the template gave it
        text = ""
    line = getattr(error, "lineno", None)
    where = f" (line {line})" if line else ""
    return f"{text[:MAX_ERROR_CHARS]}{where}" if text else type(error).__name__


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
