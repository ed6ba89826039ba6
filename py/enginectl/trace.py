"""Write a trace of steps and requests for https://ui.perfetto.dev or chrome://tracing.

With --url it is the one of a running server, which must have an admin key; else one prompt is run here and traced.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from enginectl.console import note
from enginectl.flags import add_config_flags, read_config
from enginectl.session import open_client, sampling_params
from pagoda.chrome_trace import chrome_trace
from pagoda.client import EngineClient
from pagoda.config import ConfigError, SamplingParams

_TIMEOUT_S = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl trace`."""
    parser.add_argument("words", nargs="*", metavar="[MODEL] [PROMPT]", help="the prompt to run, without --url")
    parser.add_argument("--out", metavar="FILE", default="trace.json", help="file to write (default: trace.json)")
    parser.add_argument("--url", metavar="URL", default=None, help="a running server, such as http://127.0.0.1:8000")
    parser.add_argument("--key-file", metavar="FILE", default=None, help="file whose first line is an admin key")
    add_config_flags(parser, ["model", "sampling", "engine"])


def run(args: argparse.Namespace) -> int:
    """Fetches or makes the trace and writes it."""
    words = getattr(args, "words", None) or []
    if args.url is not None:
        if words:
            raise ConfigError([f"--url asks a running server; it takes no prompt, got '{words[-1][:60]}'"])
        trace = fetch_trace(args.url, _key(args.key_file))
    else:
        if len(words) not in (1, 2):
            raise ConfigError(
                [f"expected --url URL or [MODEL] PROMPT, got {len(words)} words; put the prompt in quotes"]
            )
        trace = _run_prompt(args, words)
    Path(args.out).write_text(json.dumps(trace, separators=(",", ":")), encoding="utf-8")
    note(f"{args.out}: {len(trace['traceEvents'])} events")
    return 0


def fetch_trace(url: str, key: str | None) -> dict[str, Any]:
    """The trace of the server at `url`. Raises ConfigError for a URL that is none, and when the server refuses."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError([f"--url must begin with http:// or https://, got '{url[:80]}'"])
    request = urllib.request.Request(f"{url.rstrip('/')}/admin/trace")
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            trace = json.load(response)
    except urllib.error.HTTPError as error:
        raise ConfigError([f"{url} answered {error.code}: {_refusal(error)}"]) from None
    except (urllib.error.URLError, TimeoutError) as error:
        raise ConfigError([f"{url} does not answer: {getattr(error, 'reason', error)}"]) from None
    except json.JSONDecodeError:
        raise ConfigError([f"{url} did not answer with JSON; is it a Pagoda server?"]) from None
    if not isinstance(trace, dict) or "traceEvents" not in trace:
        raise ConfigError([f"{url} did not answer with a trace; is it a Pagoda server?"])
    return trace


def _refusal(error: urllib.error.HTTPError) -> str:
    """What the server says, or the words of the status."""
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _key(file: str | None) -> str | None:
    """The first line of the key file."""
    if file is None:
        return None
    lines = Path(file).read_text(encoding="utf-8").split()
    if not lines:
        raise ConfigError([f"--key-file {file} is empty"])
    return lines[0]


def _run_prompt(args: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    config = read_config(args, words[0] if len(words) == 2 else None)
    with open_client(config) as client, asyncio.Runner() as runner:
        token_ids = client.encode(words[-1])
        runner.run(_drain(client, token_ids, sampling_params(client, config)))
        return chrome_trace(client.timelines(), client.steps())


async def _drain(client: EngineClient, token_ids: list[int], params: SamplingParams) -> None:
    async for _event in client.generate(token_ids, params, "trace"):
        pass
