"""What a user sees of the device: memory as planned, errors in words, text that is text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cuda_engine.comparison import engine
from e2e.tiny_models import TinyModel, prompt_of

from pagoda import LLM, SamplingParams


def test_the_plan_is_what_the_engine_takes(tiny: Callable[[str], TinyModel]) -> None:
    with engine(tiny("llama").path, "cuda-emu", num_kv_blocks=40) as llm:
        facts = llm.describe()
    assert facts["num_blocks"] == 40
    assert facts["isa"] == "sm_90"
    assert facts["num_threads"] == 0
    assert facts["budget_bytes"] <= facts["total_bytes"]


def test_memory_utilization_fills_its_share_of_the_gpu(tiny: Callable[[str], TinyModel]) -> None:
    with LLM(str(tiny("llama").path), skip_tokenizer=True, device="cuda-emu", gpu_memory_utilization=0.2) as llm:
        facts = llm.describe()
    planned = facts["weights_bytes"] + facts["workspace_bytes"] + facts["kv_cache_bytes"]
    assert facts["budget_bytes"] == int(0.2 * facts["total_bytes"])
    assert planned <= facts["budget_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "this build emulates GPUs for tests"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, cuda:N"),
        ({"device": "cuda:x"}, "device must be one of auto, cpu, cuda, cuda:N"),
        ({"device": "cuda-emu", "kv_cache_dtype": "f32"}, "must be auto, bf16, f16, fp8, got"),
        ({"device": "cuda-emu", "kv_cache_dtype": "int8"}, "must be auto, bf16, f16, fp8, got"),
        ({"device": "cpu", "kv_cache_dtype": "fp8"}, "must be auto, bf16, int8, f32, got"),
    ],
)
def test_what_a_device_cannot_do_is_refused(
    options: dict[str, str], message: str, tiny: Callable[[str], TinyModel]
) -> None:
    with pytest.raises(ValueError, match=message):
        LLM(str(tiny("llama").path), skip_tokenizer=True, **options)


def test_auto_is_the_cpu_where_there_is_no_gpu(tiny: Callable[[str], TinyModel]) -> None:
    with engine(tiny("llama").path, "auto") as llm:
        assert llm.describe()["num_threads"] > 0


def test_sampled_text_and_logprobs_come_from_the_gpu(talking: Path) -> None:
    params = SamplingParams(
        temperature=0.9, top_p=0.9, top_k=20, seed=5, max_tokens=6, logprobs=3, repetition_penalty=1.2
    )
    with LLM(str(talking), device="cuda-emu", num_kv_blocks=64) as llm:
        first = llm.generate("Water boils at", params, use_tqdm=False)[0].outputs[0]
        again = llm.generate("Water boils at", params, use_tqdm=False)[0].outputs[0]
    assert first.text == again.text
    assert first.token_ids == again.token_ids
    assert first.logprobs is not None
    assert all(entry.logprob <= 0 for row in first.logprobs for entry in row.values())


def test_recorded_steps_serve_many_requests(tiny: Callable[[str], TinyModel]) -> None:
    """Decode steps of one size are replayed from the third on; batches that grow and shrink mix the sizes."""
    prompts = [prompt_of(3 + i, seed=i) for i in range(5)]
    params = [SamplingParams(temperature=0, max_tokens=3 + 2 * i, ignore_eos=True) for i in range(5)]
    with engine(tiny("llama").path, "cuda-emu", deterministic=True) as llm:
        one = [
            llm.generate([p], [s], use_tqdm=False)[0].outputs[0].token_ids for p, s in zip(prompts, params, strict=True)
        ]
        all_ = [output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)]
    assert all_ == one
