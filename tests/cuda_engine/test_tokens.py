"""The emulated GPU continues prompts with the CPU's tokens: every architecture, every format of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cuda_engine.comparison import GREEDY, clear_prompts, engine, tokens_of
from e2e.families.llama import LLAMA, MISTRAL
from e2e.references import prompt_logprobs
from e2e.tiny_models import TinyModel, save
from e2e.tiny_quantised import METHODS, save_quantised
from e2e.tiny_table import DIRECTORIES

LENGTHS = [21, 6]
WITH_EXPERTS = [name for name in DIRECTORIES if any(word in name for word in ("moe", "mixtral", "gpt-oss"))]


@pytest.mark.parametrize("name", sorted(DIRECTORIES))
def test_an_architecture_gives_the_tokens_of_the_cpu(name: str, tiny: Callable[[str], TinyModel]) -> None:
    model = tiny(name)
    prompts, expected = clear_prompts(model.path, LENGTHS, model.vocab_size, has_experts=name in WITH_EXPERTS)
    # Chunks of 16 tokens, and too few blocks for both requests: one is preempted, its blocks kept in host memory.
    options = {"max_num_batched_tokens": 16, "block_size": 4, "num_kv_blocks": 8, "prefix_cache": True}
    with engine(model.path, "cuda-emu", **options) as llm:
        assert llm.describe()["device"] == "emulated GPU"
        assert tokens_of(llm.generate(prompts, GREEDY, use_tqdm=False)) == expected
        assert llm.stats()["num_preemptions"] > 0
        logprobs = prompt_logprobs(llm, prompts[0])
    with engine(model.path, "cpu") as llm:
        assert (logprobs - prompt_logprobs(llm, prompts[0])).abs().median() < 0.05


@pytest.mark.parametrize("sliding_window", [None, 100])
def test_a_context_of_several_leaves_gives_the_tokens_of_the_cpu(sliding_window: int | None, tmp_path: Path) -> None:
    """Attention sums tiles of 64 keys into leaves of 256: prefills cross both, decoded tokens a tile's end or a leaf's.

    The second run finds all but the last tokens of its prompts in the prefix cache.
    """
    config = {"max_position_embeddings": 512, "sliding_window": sliding_window}
    model = save((LLAMA if sliding_window is None else MISTRAL).make(config), tmp_path / "model")
    options = {"max_model_len": 400, "num_kv_blocks": 640}
    prompts, expected = clear_prompts(model.path, [316, 250], model.vocab_size, **options)
    with engine(model.path, "cuda-emu", **options, prefix_cache=True) as llm:
        for hits in (0, 304 + 240):
            assert tokens_of(llm.generate(prompts, GREEDY, use_tqdm=False)) == expected
            assert llm.stats()["prefix_cache_hits"] == hits


@pytest.mark.parametrize("fmt", ["q8_0", "q4_0", "q4_1", "q5_0", "f16"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_gguf_file_gives_the_tokens_of_the_cpu(
    name: str, fmt: str, tiny_gguf: Callable[[str, str], TinyModel]
) -> None:
    model = tiny_gguf(name, fmt)
    prompts, expected = clear_prompts(model.path, LENGTHS, model.vocab_size)
    with engine(model.path, "cuda-emu") as llm:
        assert tokens_of(llm.generate(prompts, GREEDY, use_tqdm=False)) == expected


@pytest.mark.parametrize("kv_cache_dtype", ["f16", "fp8"])
def test_other_types_of_kv_cache_give_the_tokens_of_the_cpu(
    kv_cache_dtype: str, tiny: Callable[[str], TinyModel]
) -> None:
    model = tiny("llama")
    prompts, expected = clear_prompts(model.path, LENGTHS, model.vocab_size)
    with engine(model.path, "cuda-emu", kv_cache_dtype=kv_cache_dtype) as llm:
        got = tokens_of(llm.generate(prompts, GREEDY, use_tqdm=False))
    num_equal = sum(a == b for own, cpu in zip(got, expected, strict=True) for a, b in zip(own, cpu, strict=True))
    assert got == expected if kv_cache_dtype == "f16" else num_equal >= len(LENGTHS) * GREEDY.max_tokens // 2


@pytest.mark.parametrize(
    ("method", "deterministic"), [("fp8-dynamic", False), ("fp8-static", True), ("fp8-blocks", False)]
)
def test_weights_in_fp8_give_the_tokens_of_the_cpu(method: str, deterministic: bool, tmp_path: Path) -> None:
    """One scale for each row, for a matrix, for a block.

    The emulated cuBLASLt is fast enough to be chosen for all but the last: there the activations have three bits too,
    which moves logprobs twice as much as bf16 does.
    """
    model = save_quantised(LLAMA.make({}), tmp_path / "model", METHODS[method])
    prompts, expected = clear_prompts(model.path, LENGTHS, model.vocab_size)
    with engine(model.path, "cpu") as llm:
        logprobs = prompt_logprobs(llm, prompts[0])
    with engine(model.path, "cuda-emu", deterministic=deterministic) as llm:
        assert tokens_of(llm.generate(prompts, GREEDY, use_tqdm=False)) == expected
        difference = (prompt_logprobs(llm, prompts[0]) - logprobs).abs().median()
    assert difference < (0.05 if method == "fp8-blocks" else 0.1)
