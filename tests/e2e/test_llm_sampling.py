"""What the sampling parameters do to real generations: ends, allowed tokens, where defaults come from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagoda import LLM, CompletionOutput, InvalidArgument, SamplingParams

PROMPT = "The quick brown fox"
EOS = 2


@pytest.fixture(scope="module")
def llm(talking: Path) -> Iterator[LLM]:
    with LLM(str(talking), num_kv_blocks=64) as made:
        yield made


def one(llm: LLM, **params: Any) -> CompletionOutput:
    return llm.generate(PROMPT, SamplingParams(**params), use_tqdm=False)[0].outputs[0]


@pytest.fixture(scope="module")
def plain(llm: LLM) -> CompletionOutput:
    """24 greedy tokens that the tests cut short."""
    return one(llm, temperature=0, max_tokens=24, ignore_eos=True)


def test_a_lone_stop_string_and_none_mean_lists() -> None:
    params = SamplingParams(stop="x", stop_token_ids=None, logit_bias=None)
    assert (params.stop, params.stop_token_ids, params.logit_bias) == (["x"], [], {})


def test_a_stop_string_across_tokens_cuts_the_text(llm: LLM, plain: CompletionOutput) -> None:
    tokenizer = llm.get_tokenizer()
    pieces = [tokenizer.decode(plain.token_ids[: count + 1]) for count in range(24)]
    cut = next(
        i for i in range(8, 22) if len(pieces[i]) - len(pieces[i - 1]) > 0 and len(pieces[i + 1]) > len(pieces[i])
    )
    stop = plain.text[len(pieces[cut]) - 1 : len(pieces[cut]) + 1]  # one character on each side of a token's end
    choice = one(llm, temperature=0, max_tokens=24, ignore_eos=True, stop=[stop])
    assert choice.text == plain.text[: plain.text.index(stop)]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
    assert len(choice.token_ids) < 24
    kept = one(llm, temperature=0, max_tokens=24, ignore_eos=True, stop=[stop], include_stop_str_in_output=True)
    assert kept.text == choice.text + stop
    one(llm, temperature=0, max_tokens=1)
    assert llm.stats()["num_finished_abort"] == 0, "a stop string is no abort"


def test_a_stop_string_in_the_prompt_alone_stops_nothing(llm: LLM, plain: CompletionOutput) -> None:
    assert "quick" in PROMPT
    assert "quick" not in plain.text
    choice = one(llm, temperature=0, max_tokens=24, ignore_eos=True, stop=["quick", PROMPT[-1] + plain.text[0]])
    assert (choice.text, choice.finish_reason) == (plain.text, "length")


def test_a_stopped_choice_does_not_end_the_others(llm: LLM) -> None:
    asked = {"temperature": 1, "seed": 11, "n": 4, "max_tokens": 24, "ignore_eos": True}
    free = llm.generate(PROMPT, SamplingParams(**asked), use_tqdm=False)[0].outputs
    stop = free[1].text[3:5]
    assert any(stop not in choice.text for choice in free)
    stopped = llm.generate(PROMPT, SamplingParams(**asked, stop=[stop]), use_tqdm=False)[0].outputs
    for before, after in zip(free, stopped, strict=True):
        if stop in before.text:
            assert after.text == before.text[: before.text.index(stop)]
            assert after.finish_reason == "stop"
        else:
            assert (after.text, after.token_ids, after.finish_reason) == (before.text, before.token_ids, "length")
    assert llm.stats()["num_running"] == 0


def test_a_stop_token_ends_the_text_before_itself(llm: LLM, plain: CompletionOutput) -> None:
    token = plain.token_ids[6]
    end = plain.token_ids.index(token)
    choice = one(llm, temperature=0, max_tokens=24, ignore_eos=True, stop_token_ids=[token])
    assert choice.token_ids == plain.token_ids[: end + 1]
    assert choice.text == llm.get_tokenizer().decode(plain.token_ids[:end])
    assert (choice.finish_reason, choice.stop_reason) == ("stop", token)


def test_the_end_of_sequence_stops_unless_ignored_or_too_early(llm: LLM) -> None:
    likely = {"temperature": 0, "max_tokens": 12, "logit_bias": {EOS: 100.0}}
    choice = one(llm, **likely)
    assert (choice.token_ids, choice.text, choice.finish_reason) == ([EOS], "", "stop")
    assert one(llm, **likely, ignore_eos=True).token_ids == [EOS] * 12
    assert one(llm, **likely, ignore_eos=True).finish_reason == "length"
    late = one(llm, **likely, min_tokens=5)
    assert len(late.token_ids) == 6
    assert late.token_ids[-1] == EOS
    assert EOS not in late.token_ids[:5]


def test_min_tokens_holds_back_stop_tokens_and_stop_strings(llm: LLM, plain: CompletionOutput) -> None:
    token = plain.token_ids[2]
    choice = one(llm, temperature=0, max_tokens=24, ignore_eos=True, stop_token_ids=[token], min_tokens=8)
    assert token not in choice.token_ids[:8]
    first = plain.text[0]
    choice = one(llm, temperature=0, max_tokens=24, ignore_eos=True, stop=[first], min_tokens=10)
    assert choice.token_ids[:10] == plain.token_ids[:10]


def test_max_tokens_unset_runs_to_the_context(talking: Path) -> None:
    with LLM(str(talking), num_kv_blocks=64, max_model_len=40) as llm:
        output = llm.generate(PROMPT, SamplingParams(temperature=0, ignore_eos=True), use_tqdm=False)[0]
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == 40
    assert output.outputs[0].finish_reason == "length"


def test_banned_biased_and_allowed_tokens(llm: LLM, plain: CompletionOutput) -> None:
    best = plain.token_ids[0]
    banned = one(llm, temperature=0, max_tokens=24, ignore_eos=True, logit_bias={best: -100.0})
    assert best not in banned.token_ids
    assert (
        one(llm, temperature=1, seed=5, max_tokens=12, ignore_eos=True, logit_bias={77: 100.0}).token_ids == [77] * 12
    )
    allowed = one(llm, temperature=2, seed=5, max_tokens=40, ignore_eos=True, allowed_token_ids=[40, 41, 42])
    assert set(allowed.token_ids) == {40, 41, 42}


def test_a_bad_word_never_appears(llm: LLM, plain: CompletionOutput) -> None:
    word = plain.text[4:7].strip()
    assert word
    tokens = [llm.get_tokenizer().encode(spelling, add_special_tokens=False) for spelling in (word, " " + word)]
    for seed in range(4):
        ids = one(llm, temperature=0.7, seed=seed, max_tokens=24, ignore_eos=True, bad_words=[word]).token_ids
        for banned in tokens:
            assert banned not in [ids[i : i + len(banned)] for i in range(len(ids))]


def test_top_k_1_and_temperature_0_are_greedy(llm: LLM, plain: CompletionOutput) -> None:
    for params in ({"temperature": 0}, {"temperature": 2, "top_k": 1}, {"temperature": 1, "top_p": 1e-6}):
        assert one(llm, **params, seed=9, max_tokens=24, ignore_eos=True).token_ids == plain.token_ids


def test_special_tokens_are_shown_when_asked_for(llm: LLM) -> None:
    asked = {"temperature": 0, "max_tokens": 2, "ignore_eos": True, "logit_bias": {EOS: 100.0}}
    assert one(llm, **asked).text == ""
    assert one(llm, **asked, skip_special_tokens=False).text == "<|im_end|><|im_end|>"


@pytest.fixture
def with_defaults(talking: Path, tmp_path: Path) -> Path:
    """The model with a generation_config.json that asks for something unlike the built-in defaults."""
    path = Path(shutil.copytree(talking, tmp_path / "defaults"))
    content = {"do_sample": True, "temperature": 0.0, "top_k": 7, "repetition_penalty": 1.5, "eos_token_id": [2, 5]}
    (path / "generation_config.json").write_text(json.dumps(content))
    return path


def test_unset_parameters_come_from_the_generation_config(with_defaults: Path, llm: LLM) -> None:
    with LLM(str(with_defaults), num_kv_blocks=16) as other:
        params = other.get_default_sampling_params()
        assert (params.temperature, params.top_k, params.repetition_penalty, params.top_p) == (0.0, 7, 1.5, 1.0)
        unset = one(other, max_tokens=16, ignore_eos=True)
        assert other.generate(PROMPT, use_tqdm=False)[0].outputs[0].token_ids[:4] == unset.token_ids[:4]
        overridden = one(other, max_tokens=16, ignore_eos=True, repetition_penalty=1.0)
        explicit_default = one(
            other, max_tokens=16, ignore_eos=True, temperature=1.0, top_k=0, repetition_penalty=1.0, seed=4
        )
        assert one(other, max_tokens=4, logit_bias={5: 100.0}, repetition_penalty=1.0).token_ids == [5]
    assert unset.token_ids == one(llm, temperature=0, repetition_penalty=1.5, max_tokens=16, ignore_eos=True).token_ids
    assert overridden.token_ids == one(llm, temperature=0, max_tokens=16, ignore_eos=True).token_ids
    assert explicit_default.token_ids == one(llm, seed=4, max_tokens=16, ignore_eos=True).token_ids


def test_do_sample_false_means_greedy(with_defaults: Path) -> None:
    (with_defaults / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.6}))
    with LLM(str(with_defaults), num_kv_blocks=16) as llm:
        assert llm.get_default_sampling_params().temperature == 0


def test_a_generation_config_out_of_range_is_refused_by_name(with_defaults: Path) -> None:
    (with_defaults / "generation_config.json").write_text(json.dumps({"top_p": 1.5}))
    with pytest.raises((InvalidArgument, ValueError), match="top_p"):
        LLM(str(with_defaults), num_kv_blocks=16)
