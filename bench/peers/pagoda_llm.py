"""Our own engine as a library. Its module stands among the peers so that both sides are measured alike."""

from __future__ import annotations

from typing import ClassVar

from worker import InProcess, result

NAME, VERSION, PACKAGES = "pagoda", "", ()
FORMATS = {"q4_1": "gguf", "q4_0": "gguf", "q8_0": "gguf", "bf16": "gguf"}


class Engine(InProcess):
    """`pagoda.LLM` with its defaults."""

    OPTIONS: ClassVar[dict[str, object]] = {}

    def __init__(self, model: str, threads: int) -> None:
        from pagoda import LLM, SamplingParams

        self._params = SamplingParams
        self._llm = LLM(model, num_threads=threads, skip_tokenizer=True, **self.OPTIONS)
        facts = self._llm.describe()
        parts = ("weights_bytes", "workspace_bytes", "kv_cache_bytes")
        self.planned = {"planned": sum(facts[part] for part in parts) / 2**20}

    def generate(self, prompts: list[list[int]], count: int) -> list[int]:
        """How many tokens came out for each prompt."""
        params = self._params(temperature=0, max_tokens=count, ignore_eos=True)
        return result(item.outputs[0].token_ids for item in self._llm.generate(prompts, params, use_tqdm=False))
