"""ServerSettings: every option of the HTTP server, declared once with its range and its doc text.

The configuration loader and `--help` are generated from the field metadata: `doc`, `min`, `max` (inclusive, None =
unbounded). This module imports nothing else of Pagoda.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MIB = 1024 * 1024
_METRIC_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_NAME_CHARS = 512


def _doc(
    text: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Metadata of one option: its doc text and its inclusive range, or the words it allows."""
    return {"doc": text, "min": low, "max": high, "choices": choices}


def is_loopback(host: str) -> bool:
    """True for `localhost` and for loopback IP addresses."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass
class ServerSettings:
    """Options of the HTTP server. Call `validate()` once after filling them in."""

    host: str = field(default="127.0.0.1", metadata=_doc("address to listen on"))
    port: int = field(
        default=8000, metadata=_doc("TCP port to listen on; 0 lets the system choose a free one", 0, 65535)
    )
    api_keys: list[str] = field(
        default_factory=list,
        repr=False,
        metadata=_doc("keys that clients may present; an empty list means no authentication"),
    )
    api_key_file: str | None = field(
        default=None, metadata=_doc("file with further keys, one a line; blank lines and # comments are ignored")
    )
    admin_api_keys: list[str] = field(
        default_factory=list,
        repr=False,
        metadata=_doc("keys that also open /admin/...; without any, nobody can use it"),
    )
    admin_api_key_file: str | None = field(default=None, metadata=_doc("file with further such keys, one a line"))
    allow_insecure: bool = field(
        default=False, metadata=_doc("allow listening on a non-loopback address without an API key")
    )
    allowed_hosts: list[str] = field(
        default_factory=list,
        metadata=_doc("host names accepted in the Host header when no API key is set; '*' accepts any"),
    )
    cors_origins: list[str] = field(
        default_factory=list,
        metadata=_doc("origins (scheme://host[:port], or '*') whose web pages may call the server"),
    )
    strict: bool = field(
        default=False, metadata=_doc("answer 400 to unknown request fields instead of a warning header")
    )
    metrics_prefix: str = field(
        default="vllm",
        metadata=_doc(
            "what the names of /metrics begin with, before a colon: vllm, whose dashboards then work, or pagoda"
        ),
    )
    otlp_endpoint: str | None = field(
        default=None,
        metadata=_doc(
            "URL where an OpenTelemetry collector takes traces over HTTP, such as http://127.0.0.1:4318/v1/traces; "
            "needs the extra otel"
        ),
    )
    tool_parser: str = field(
        default="auto",
        metadata=_doc(
            "how the model writes tool calls; auto = as its chat template says, none = they stay in the text",
            choices=("auto", "hermes", "llama3", "mistral", "qwen3_coder", "none"),
        ),
    )
    reasoning_parser: str = field(
        default="auto",
        metadata=_doc(
            "whether text in <think> becomes reasoning_content; auto = if the chat template speaks of it",
            choices=("auto", "think", "none"),
        ),
    )
    access_log: bool = field(default=True, metadata=_doc("log one line per request; prompts and keys are never logged"))
    log_format: str = field(
        default="text",
        metadata=_doc("how log records look: text, or json, one object a line", choices=("text", "json")),
    )
    log_file: str | None = field(
        default=None, metadata=_doc("file for log records instead of stderr; SIGHUP reopens it after a rotation")
    )

    served_model_names: list[str] = field(
        default_factory=list, metadata=_doc("further names under which requests may ask for the model")
    )

    max_body_bytes: int = field(default=32 * MIB, metadata=_doc("largest request body in bytes", 1024, 1024 * MIB))
    max_choices: int = field(
        default=128, metadata=_doc("largest number of choices (prompts x n) of one request", 1, 65536)
    )
    max_logprobs: int = field(default=20, metadata=_doc("largest logprobs, top_logprobs and prompt_logprobs", 0, 64))
    max_messages: int = field(default=4096, metadata=_doc("largest number of chat messages in one request", 1, 1000000))
    max_connections: int = field(
        default=2048, metadata=_doc("connections served at once; further ones get 503", 1, 1000000)
    )
    max_header_bytes: int = field(
        default=8190, metadata=_doc("longest request line and longest header field in bytes", 1024, 65536)
    )
    max_headers: int = field(default=128, metadata=_doc("largest number of header fields", 16, 1024))

    request_timeout_s: float = field(
        default=3600.0, metadata=_doc("longest time one request may take, queueing included", 0.01, 86400)
    )
    header_timeout_s: float = field(
        default=20.0, metadata=_doc("longest wait for the first request of a connection", 0.05, 600)
    )
    body_timeout_s: float = field(
        default=60.0, metadata=_doc("longest time a client may take to send a request body", 0.05, 3600)
    )
    write_timeout_s: float = field(
        default=30.0, metadata=_doc("a client that takes nothing for this long is dropped", 0.05, 3600)
    )
    keep_alive_s: float = field(default=75.0, metadata=_doc("how long an idle connection is kept open", 0.05, 3600))
    sse_keep_alive_s: float = field(
        default=15.0, metadata=_doc("a stream that is silent for this long carries a comment", 0.05, 600)
    )
    stats_interval_s: float = field(
        default=10.0, metadata=_doc("how often a busy server logs its throughput; 0 = never", 0, 3600)
    )
    stall_timeout_s: float = field(
        default=300.0,
        metadata=_doc(
            "an engine that makes nothing of its work for this long is reported and not ready; longer than any step",
            0.1,
            86400,
        ),
    )
    shutdown_timeout_s: float = field(
        default=30.0, metadata=_doc("how long running requests may go on after SIGTERM or SIGINT", 0, 3600)
    )

    def keys(self) -> list[str]:
        """Keys for all but /admin: `api_keys` and the lines of `api_key_file`. Raises ValueError without that file."""
        return [*self.api_keys, *_keys_in("api_key_file", self.api_key_file)]

    def admin_keys(self) -> list[str]:
        """Keys for everything: `admin_api_keys` and the lines of `admin_api_key_file`. Raises ValueError likewise."""
        return [*self.admin_api_keys, *_keys_in("admin_api_key_file", self.admin_api_key_file)]

    def validate(self) -> None:
        """Raises ValueError that lists everything wrong, one problem a line."""
        problems = [text for row in fields(self) if (text := self._range_problem(row.name, row.metadata)) is not None]
        if not _METRIC_PREFIX.fullmatch(self.metrics_prefix):
            problems.append(f"metrics_prefix must be letters, digits and underscores, got {self.metrics_prefix!r}")
        keys = [("api_keys", key) for key in self.api_keys] + [("admin_api_keys", key) for key in self.admin_api_keys]
        problems += [f"{name} must hold non-empty strings, got an entry of {len(key)} characters"
                     for name, key in keys if not key.strip()]  # fmt: skip
        problems += [f"served_model_names must hold names of 1 to {MAX_NAME_CHARS} characters, got one of {len(name)}"
                     for name in self.served_model_names if not 0 < len(name) <= MAX_NAME_CHARS]  # fmt: skip
        if self.otlp_endpoint is not None and not self.otlp_endpoint.startswith(("http://", "https://")):
            problems.append(f"otlp_endpoint must begin with http:// or https://, got {self.otlp_endpoint!r}")
        problems += [text for origin in self.cors_origins if (text := _origin_problem(origin)) is not None]
        try:
            has_key = bool(self.keys())
        except ValueError as error:
            problems.append(str(error))
            has_key = True
        try:
            self.admin_keys()
        except ValueError as error:
            problems.append(str(error))
        if not has_key and not self.allow_insecure and not is_loopback(self.host):
            problems.append(
                f"host {self.host!r} can be reached from other machines and no API key is set: "
                "set api_keys or api_key_file, or allow_insecure if the network is trusted"
            )
        if problems:
            raise ValueError("\n".join(problems))

    def _range_problem(self, name: str, metadata: Any) -> str | None:
        value, low, high, choices = getattr(self, name), metadata["min"], metadata["max"], metadata["choices"]
        if choices and value not in choices:
            return f"{name} must be one of {', '.join(choices)}, got {value!r}"
        if low is None and high is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            return f"{name} must be in [{low}, {high}], got {value!r}"
        return None


def _keys_in(option: str, file: str | None) -> list[str]:
    """The keys in the file of an option, if it is set. Raises ValueError when there are none."""
    if file is None:
        return []
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{option} {file!r} cannot be read: {error}") from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise ValueError(f"{option} {file!r} holds no key")
    return found


def _origin_problem(origin: str) -> str | None:
    """Why `origin` cannot stand in cors_origins, or None."""
    if origin == "*":
        return None
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or not parts.netloc or f"{parts.scheme}://{parts.netloc}" != origin:
        return f"cors_origins must hold '*' or scheme://host[:port], got {origin!r}"
    return None
