"""Hugging Face transformers with torch, static batches: its continuous batching is no faster on a CPU."""

from __future__ import annotations

from worker import InProcess, same_lengths

NAME, VERSION = "transformers", "5"
PACKAGES = ("torch==2.13.0", "transformers>=5,<6", "safetensors")
FORMATS = {"bf16": "hf"}


class Engine(InProcess):
    """The model in bf16 with torch's own attention."""

    def __init__(self, model: str, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.bfloat16, attn_implementation="sdpa"
        ).eval()
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    def generate(self, prompts: list[list[int]], count: int) -> list[int]:
        """How many tokens came out for each prompt."""
        same_lengths(prompts)
        inputs = self._torch.tensor(prompts)
        lengths = {"max_new_tokens": count, "min_new_tokens": count}
        with self._torch.inference_mode():
            mask = self._torch.ones_like(inputs)
            made = self._model.generate(input_ids=inputs, attention_mask=mask, do_sample=False, **lengths)
        return [made.shape[1] - inputs.shape[1]] * len(prompts)
