"""OpenVINO GenAI's pipeline with continuous batching. It reads GGUF files of these formats itself."""

from __future__ import annotations

from worker import InProcess, result

NAME, VERSION = "OpenVINO GenAI", "2026.4.1"
PACKAGES = ("openvino-genai==2026.4.1.0",)
FORMATS = {"q4_0": "gguf", "q4_1": "gguf", "q8_0": "gguf", "f16": "gguf"}


class Engine(InProcess):
    """With its prefix cache, and room for the largest case."""

    def __init__(self, model: str, threads: int) -> None:
        import numpy
        import openvino
        import openvino_genai

        self._genai, self._tensor, self._numpy = openvino_genai, openvino.Tensor, numpy
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 4
        scheduler.max_num_seqs = 64
        scheduler.max_num_batched_tokens = 2048
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = True
        properties = {"INFERENCE_NUM_THREADS": threads, "ENABLE_HYPER_THREADING": False}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)

    def generate(self, prompts: list[list[int]], count: int) -> list[int]:
        """How many tokens came out for each prompt."""
        config = self._genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count
        config.ignore_eos, config.do_sample, config.apply_chat_template = True, False, False
        inputs = [self._tensor(self._numpy.array([prompt], dtype=self._numpy.int64)) for prompt in prompts]
        answers = self._pipeline.generate(inputs, [config] * len(prompts))
        return result(a.m_generation_ids[0] if hasattr(a, "m_generation_ids") else a.tokens[0] for a in answers)
