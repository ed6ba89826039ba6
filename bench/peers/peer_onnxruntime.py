"""ONNX Runtime GenAI. Its builder quantises the weights to int4 once more; batches are rectangular."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from worker import InProcess, same_lengths

NAME, VERSION = "ONNX Runtime GenAI", "0.18.0"
PACKAGES = ("onnxruntime-genai==0.18.0", "onnxruntime==1.31.1", "onnx", "onnx_ir")
FORMATS = {"int4": "hf"}
LARGEST_BATCH = 32  # the library refuses more


class Engine(InProcess):
    """A model that `prepare` made."""

    def __init__(self, model: str, threads: int) -> None:
        import numpy
        import onnxruntime_genai

        self._genai, self._numpy = onnxruntime_genai, numpy
        config = onnxruntime_genai.Config(model)
        options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}
        config.overlay(json.dumps(options))
        self._model = onnxruntime_genai.Model(config)

    def generate(self, prompts: list[list[int]], count: int) -> list[int]:
        """How many tokens came out for each prompt."""
        parts = [prompts[at : at + LARGEST_BATCH] for at in range(0, len(prompts), LARGEST_BATCH)]
        return [made for part in parts for made in self._batch(part, count)]

    def _batch(self, prompts: list[list[int]], count: int) -> list[int]:
        same_lengths(prompts)
        length = len(prompts[0])
        params = self._genai.GeneratorParams(self._model)
        total = length + count
        params.set_search_options(max_length=total, min_length=total, batch_size=len(prompts), do_sample=False)
        generator = self._genai.Generator(self._model, params)
        generator.append_tokens(self._numpy.array(prompts, dtype=self._numpy.int32))
        for _ in range(count):
            generator.generate_next_token()
        return [len(generator.get_sequence(index)) - length for index in range(len(prompts))]


def prepare(variables: dict[str, str], source: Path, out: Path) -> None:
    """Builds the int4 model from a Hugging Face directory; `variables` let our Python, which has torch, find it."""
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", source, "-o", out]
    options = ["-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4"]
    subprocess.run([*builder, *options], check=True, env=variables)
