"""Start the OpenAI-compatible HTTP server."""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from enginectl.console import fail, note, size_text
from enginectl.failures import PORT_IN_USE, USAGE
from enginectl.flags import add_config_flags, read_config
from enginectl.plan import concurrency_text, kv_text, swap_rows
from enginectl.ports import check_address
from enginectl.session import open_client
from pagoda.config import Config
from pagoda.config_schema import SECTIONS
from pagoda.server.logs import configure_logging


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl serve`."""
    parser.add_argument("model", nargs="?", metavar="[MODEL]", help="model to serve (see --model)")
    add_config_flags(parser, SECTIONS)


def run(args: argparse.Namespace) -> int:
    """Serves until a signal ends it."""
    config = read_config(args, getattr(args, "model", None))
    check_address(config.server.host, config.server.port)
    configure_logging(config.server)
    note(f"Loading {config.model.name} ...")
    gc.disable()  # until the server is ready: what a start makes stays
    try:
        return _serve(config)
    finally:
        gc.enable()


def _serve(config: Config) -> int:
    # The HTTP server takes as long to import as a small model to load.
    threading.Thread(target=importlib.import_module, args=("pagoda.server.runner",)).start()
    with open_client(config) as client:
        from pagoda.server.runner import ServeError, run_server

        def announce(host: str, port: int) -> None:
            gc.freeze()  # and is not looked through again while requests run
            gc.enable()
            chat = client.chat_template is not None
            print(startup_text(config, client.model_name, client.describe(), local_url(host, port), chat), flush=True)

        try:
            return run_server(client, config.server, announce, config.sampling)
        except ServeError as error:
            number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
            return fail(str(error), PORT_IN_USE if number == errno.EADDRINUSE else USAGE)


def startup_text(config: Config, name: str, facts: Mapping[str, Any], url: str, chat: bool) -> str:
    """What a person wants to know when the server is ready. `facts` is `EngineClient.describe()`."""
    rows = [
        ("Model", f"{name} ({size_text(facts['weights_bytes'])} of weights)"),
        ("Device", device_text(facts)),
        ("KV cache", f"{size_text(facts['kv_cache_bytes'])}: {kv_text(facts)}"),
        *swap_rows(facts),
        ("API", f"{url}/v1"),
        ("Health", f"{url}/health/ready"),
        ("Metrics", f"{url}/metrics"),
    ]
    lines = [f"  {label:<11}{text}" for label, text in rows]
    lines.insert(3, f"  {'':<11}{concurrency_text(facts)}")
    request = curl_text(url, name, chat, bool(config.server.keys()))
    return "\n".join(["Pagoda is ready.", *lines, "", "Try it:", request, "", "Ctrl-C stops it."])


def device_text(facts: Mapping[str, Any]) -> str:
    """`AMD EPYC, avx512 kernels, 2 threads`; a GPU has no threads to count."""
    threads = facts["num_threads"]
    counted = f", {threads} thread{'' if threads == 1 else 's'}" if threads else ""
    return f"{facts['device']}, {facts['isa']} kernels{counted}"


def local_url(host: str, port: int) -> str:
    """The URL under which this machine itself reaches a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def curl_text(url: str, name: str, chat: bool, key: bool) -> str:
    """A request to paste into a shell: a chat, or a completion when the model has no chat template."""
    question = "What is the capital of France?"
    if chat:
        path = "chat/completions"
        body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": question}], "max_tokens": 64}
    else:
        path = "completions"
        body = {"model": name, "prompt": "The capital of France is", "max_tokens": 16}
    body["temperature"] = 0
    data = json.dumps(body).replace("'", "'\\''")
    header = " -H 'Authorization: Bearer YOUR_KEY'" if key else ""
    return f"curl {url}/v1/{path} -H 'Content-Type: application/json'{header} \\\n  -d '{data}'"
