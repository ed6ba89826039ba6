"""Our own server. Its module stands among the peers so that both sides are measured alike."""

from __future__ import annotations

import json
import subprocess
import sys

from http_engine import HttpEngine, free_port

NAME, VERSION, PACKAGES = "pagoda-http", "", ()
MODEL = "benched"
FORMATS = {"q4_1": "gguf", "q4_0": "gguf", "q8_0": "gguf", "bf16": "gguf"}


class Engine(HttpEngine):
    """`enginectl serve` with its defaults, room for the largest case and no request log."""

    def __init__(self, model: str, threads: int) -> None:
        port = free_port()
        options = ["--num-threads", str(threads), "--max-num-seqs", "64"]
        command = [sys.executable, "-m", "enginectl", "serve", model, "--port", str(port), *options]
        command += ["--served-model-names", MODEL]
        super().__init__(command, port, MODEL)
        plan = [sys.executable, "-m", "enginectl", "plan", model, *options, "--json"]
        sizes = json.loads(subprocess.run(plan, capture_output=True, text=True, check=True).stdout)
        parts = ("weights_bytes", "workspace_bytes", "kv_cache_bytes")
        self.planned = {"planned": sum(sizes[part] for part in parts) / 2**20}
