"""Requests that cannot be served, full queues, isolation in the prefix cache, priorities, the counters of `stats()`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.tiny_models import prompt_of

from pagoda import LLM, InvalidArgument, RequestOutput, SamplingParams

SHORT = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(talking: Path) -> Iterator[LLM]:
    with LLM(str(talking), num_kv_blocks=32, max_model_len=128) as made:
        yield made


@pytest.mark.parametrize(
    ("prompts", "params", "parts"),
    [
        ([[]], SHORT, ["at least one token"]),
        ([""], SHORT, ["at least one token"]),
        ([[450]], SHORT, ["450", "[0, 450)"]),
        ([[3, -1]], SHORT, ["-1", "[0, 450)"]),
        ([[2**40]], SHORT, ["1099511627776"]),
        ([[3] * 128], SHORT, ["128", "maximum context length"]),
        ([[3] * 100], SamplingParams(max_tokens=29), ["100", "29", "128"]),
        ([[3], [4]], [SHORT], ["got 1 for 2 prompts"]),
        ([[3]], SamplingParams(allowed_token_ids=[450]), ["allowed_token_ids", "450"]),
        ([[3]], SamplingParams(stop_token_ids=[-2]), ["stop_token_ids", "-2"]),
        ([[3]], SamplingParams(logit_bias={9999: 1.0}), ["logit_bias", "9999"]),
        ([[3.5]], SHORT, ["text or a list of token ids"]),
        ([3.5], SHORT, ["text or a list of token ids", "float"]),
        ([None], SHORT, ["text or a list of token ids"]),
        ([[True]], SHORT, ["text or a list of token ids"]),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_numbers(
    prompts: Any, params: Any, parts: list[str], llm: LLM
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        llm.generate(prompts, params, use_tqdm=False)
    for part in parts:
        assert part in str(caught.value)


def test_a_bad_request_in_a_batch_leaves_nothing_running(llm: LLM) -> None:
    with pytest.raises(InvalidArgument):
        llm.generate([[5] * 8, [6] * 8, [999]], SamplingParams(max_tokens=100, ignore_eos=True), use_tqdm=False)
    assert len(llm.generate([[5]], SHORT, use_tqdm=False)[0].outputs[0].token_ids) == 4
    stats = llm.stats()
    assert (stats["num_running"], stats["num_waiting"]) == (0, 0)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"block_size": 12}, "block_size"),
        ({"num_kv_blocks": 8, "kv_cache_memory": 4096}, "num_kv_blocks"),
        ({"kv_cache_dtype": "int3"}, "kv_cache_dtype"),
        ({"isa": "sse"}, "isa"),
        ({"max_model_len": 100_000}, "max_model_len"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"memory_utilization": 1.5}, "memory_utilization"),
        ({"blok_size": 16}, "block_size"),
        ({"num_kv_blocks": 10**15}, "would fit"),
        ({"num_kv_blocks": 2, "max_model_len": 64}, "max_model_len"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, Any], part: str, talking: Path) -> None:
    with pytest.raises(ValueError, match=part):
        LLM(str(talking), **options)


def test_gpu_memory_utilization_is_an_alias(talking: Path) -> None:
    with pytest.raises(ValueError, match="memory_utilization"):
        LLM(str(talking), gpu_memory_utilization=1.5)


def test_a_batch_larger_than_the_queue_still_finishes(talking: Path) -> None:
    with LLM(str(talking), num_kv_blocks=16, max_model_len=64, max_num_seqs=2, max_num_queued_seqs=3) as llm:
        prompts = [prompt_of(9, seed=number) for number in range(20)]
        outputs = llm.generate(prompts, SHORT, use_tqdm=False)
        expected = [llm.generate([prompt], SHORT, use_tqdm=False)[0].outputs[0].token_ids for prompt in prompts]
    assert [output.outputs[0].token_ids for output in outputs] == expected


def test_a_prefix_is_shared_only_under_the_same_salt(talking: Path) -> None:
    prompt = prompt_of(70)
    with LLM(str(talking), num_kv_blocks=64) as llm:

        def cached(salt: str) -> int:
            params = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True, cache_salt=salt)
            return llm.generate([prompt], params, use_tqdm=False)[0].num_cached_tokens

        assert [cached(""), cached(""), cached("alice"), cached("alice"), cached("bob"), cached("")] == [
            0,
            64,
            0,
            64,
            0,
            64,
        ]


def test_without_a_prefix_cache_nothing_is_cached(talking: Path) -> None:
    with LLM(str(talking), num_kv_blocks=64, prefix_cache=False) as llm:
        for _ in range(2):
            assert llm.generate([prompt_of(70)], SHORT, use_tqdm=False)[0].num_cached_tokens == 0
        assert llm.stats()["prefix_cache_hits"] == 0


def test_stats_count_what_was_done(talking: Path) -> None:
    with LLM(str(talking), num_kv_blocks=64) as llm:
        llm.generate([prompt_of(20), prompt_of(30, seed=1)], SHORT, use_tqdm=False)
        llm.generate(
            [prompt_of(20)], SamplingParams(temperature=0, max_tokens=4, logit_bias={2: 100.0}), use_tqdm=False
        )
        stats = llm.stats()
    expected = {
        "num_running": 0,
        "num_waiting": 0,
        "num_kv_blocks": 64,
        "num_free_blocks": 64,
        "kv_cache_usage": 0.0,
        "num_preemptions": 0,
        "prefix_cache_hits": 16,
        "num_prompt_tokens": 70,
        "num_generation_tokens": 9,
        "num_finished_stop": 1,
        "num_finished_length": 2,
        "num_finished_abort": 0,
        "num_finished_error": 0,
    }
    assert {name: stats[name] for name in expected} == expected
    assert stats["num_steps"] >= 5
    assert stats["prefix_cache_queries"] >= 16


@pytest.mark.parametrize(("policy", "expected"), [("fcfs", [5, 3, 9, 1, 7]), ("priority", [1, 3, 5, 7, 9])])
def test_the_policy_chooses_who_runs_next(
    policy: str, expected: list[Any], talking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sequence at a time behind a long one: the order of the ends is the order in which requests were chosen."""
    names: list[Any] = ["blocker", 5, 3, 9, 1, 7]
    ends: list[Any] = []
    add = RequestOutput.add

    def recording(output: RequestOutput, event: Any) -> None:
        add(output, event)
        if event.finish_reason is not None:
            ends.append(names[len(output.prompt_token_ids) - 1])

    monkeypatch.setattr(RequestOutput, "add", recording)
    with LLM(str(talking), num_kv_blocks=64, max_num_seqs=1, scheduling_policy=policy) as llm:
        params = [SamplingParams(temperature=0, max_tokens=240, ignore_eos=True, priority=-1, n=8)]
        params += [SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, priority=name) for name in names[1:]]
        llm.generate([[5] * (number + 1) for number in range(len(names))], params, use_tqdm=False)
    assert ends == ["blocker"] * 8 + expected


def test_a_closed_model_says_so(talking: Path) -> None:
    llm = LLM(str(talking), num_kv_blocks=16)
    llm.close()
    llm.close()
    with pytest.raises(RuntimeError, match="stopped"):
        llm.generate([[5]], SHORT, use_tqdm=False)


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="no-such-model"):
        LLM("./no-such-model")
