"""Speculative decoding gives bit for bit what the same engine gives without it, and says what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.equations import THOROUGH, alone, engine, together
from e2e.tiny_models import TinyModel, prompt_of

from pagoda import LLM, SamplingParams
from pagoda.config import InvalidArgument

NGRAM = {"method": "ngram", "num_speculative_tokens": 6, "prompt_lookup_min": 1}
#: Each prompt repeats a part of itself, and the greedy texts of tiny models run into circles.
PROMPTS = [prompt_of(length, seed=length) * 3 for length in (5, 9, 13, 17, 20, 31, 11)]
PARAMS = [
    SamplingParams(temperature=0, max_tokens=60, ignore_eos=True, logprobs=2),
    SamplingParams(temperature=0.2, seed=1, max_tokens=60, ignore_eos=True, logprobs=2),
    SamplingParams(temperature=0.3, seed=2, n=3, max_tokens=40, ignore_eos=True, logprobs=1),
    SamplingParams(temperature=0.3, top_k=5, seed=3, max_tokens=40, prompt_logprobs=1, logprobs=1),
    SamplingParams(temperature=0.3, seed=4, frequency_penalty=0.2, max_tokens=40, logprobs=1),
    SamplingParams(temperature=0, min_tokens=30, stop_token_ids=list(range(0, 200, 7)), max_tokens=60, logprobs=1),
    # One token again and again, and now and then another: guesses that are worth their place whatever a step takes.
    SamplingParams(temperature=1, seed=5, logit_bias={7: 8.0}, max_tokens=100, ignore_eos=True, logprobs=1),
]


def assert_drafted(path: Path, options: dict[str, Any], holds: Callable[[LLM], bool]) -> None:
    """`holds` of engines that speculate, one of 20 of which must have accepted drafts, though not all.

    Whether a draft is worth its place depends on what steps take, so that one engine may find none that is.
    """
    for _ in range(20):
        with engine(path, speculative=NGRAM, **options) as llm:
            assert holds(llm)
            stats = llm.stats()
        if stats["spec_decode_num_draft_tokens"] > stats["spec_decode_num_accepted_tokens"] > 0:
            return
    raise AssertionError(f"no draft was accepted, or all were: {stats}")


@pytest.mark.parametrize("name", THOROUGH)
def test_the_same_tokens_and_logprobs_come_out(
    name: str, tiny: Callable[[str], TinyModel], tiny_gguf: Callable[[str, str], TinyModel]
) -> None:
    path = (tiny_gguf(*name.split(".")) if "." in name else tiny(name)).path
    with engine(path) as llm:
        expected = alone(llm, PROMPTS, PARAMS)
    assert_drafted(path, {}, lambda llm: alone(llm, PROMPTS, PARAMS) == expected)
    more = {"num_threads": 2, "prefix_cache": True, "max_num_batched_tokens": 37}
    assert_drafted(path, more, lambda llm: together(llm, PROMPTS, PARAMS) == expected)
    tight = {"num_kv_blocks": 14, "max_model_len": 200, "preemption_mode": "swap", "swap_space": 0.01}
    with engine(path, speculative=NGRAM, **tight) as llm:
        assert together(llm, PROMPTS, PARAMS) == expected
        assert llm.stats()["num_preemptions"] > 0


@pytest.fixture(scope="module")
def drafting() -> Iterator[Any]:
    """The default model, which talks, with speculation; and without."""
    with LLM(num_threads=1, speculative=NGRAM) as one, LLM(num_threads=1) as other:
        yield one, other


def test_a_stop_string_cuts_tokens_and_text_where_it_would_without(drafting: Any) -> None:
    prompt = "one two three four five six seven, one two three four five six seven, one two three"
    for stop in ("four", "six seven", "n, and one", "o three f"):
        params = SamplingParams(temperature=0, max_tokens=60, stop=[stop], logprobs=0)
        one, other = (llm.generate([prompt], params, use_tqdm=False)[0].outputs[0] for llm in drafting)
        assert (one.text, one.token_ids, one.stop_reason) == (other.text, other.token_ids, other.stop_reason)
        assert len(one.logprobs) == len(one.token_ids)
        assert one.stop_reason == stop


def test_the_default_model_drafts(drafting: Any) -> None:
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    for _ in range(20):
        drafting[0].generate(["one two three four five six seven, " * 3], params, use_tqdm=False)
        if drafting[0].stats()["spec_decode_num_accepted_tokens"] > 0:
            return
    raise AssertionError("no draft was accepted")


def test_an_emulated_or_real_gpu_refuses_it(tiny: Callable[[str], TinyModel]) -> None:
    path: Path = tiny("llama").path
    with pytest.raises(InvalidArgument, match="speculative works on the CPU only: unset it, or set device to cpu"):
        LLM(str(path), device="cuda", skip_tokenizer=True, speculative=NGRAM)
