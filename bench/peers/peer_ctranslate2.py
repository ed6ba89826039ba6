"""CTranslate2 with int8 weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from worker import InProcess, result

NAME, VERSION = "CTranslate2", "4.8.5"
PACKAGES = ("ctranslate2==4.8.5",)
CONVERTER = "from ctranslate2.converters.transformers import main; main()"
FORMATS = {"int8": "hf"}


class Engine(InProcess):
    """A model that `prepare` made."""

    def __init__(self, model: str, threads: int) -> None:
        import ctranslate2

        self._generator = ctranslate2.Generator(
            model, device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )
        content = json.loads((Path(model) / "tokenizer.json").read_text(encoding="utf-8"))
        self._tokens = {index: token for token, index in content["model"]["vocab"].items()}

    def generate(self, prompts: list[list[int]], count: int) -> list[int]:
        """How many tokens came out for each prompt."""
        texts = [[self._tokens[index] for index in prompt] for prompt in prompts]
        lengths = {"max_length": count, "min_length": count, "end_token": [], "include_prompt_in_result": False}
        search = {"sampling_topk": 1, "beam_size": 1, "max_batch_size": 64, "batch_type": "examples"}
        return result(item.sequences_ids[0] for item in self._generator.generate_batch(texts, **lengths, **search))


def prepare(variables: dict[str, str], source: Path, out: Path) -> None:
    """Converts a Hugging Face directory. `variables` let this Python, which has torch, find the peer."""
    converter = [sys.executable, "-c", CONVERTER, "--model", source, "--output_dir", out]
    subprocess.run([*converter, "--copy_files", "tokenizer.json"], check=True, env=variables)
