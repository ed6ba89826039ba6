"""Structured output from real generations: the grammar decides which tokens may follow, whatever the model wants."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagoda import LLM, CompletionOutput, InvalidArgument, SamplingParams

PROMPT = "The quick brown fox"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm(talking: Path) -> Iterator[LLM]:
    with LLM(str(talking), num_kv_blocks=64) as made:
        yield made


def many(llm: LLM, **params: Any) -> list[CompletionOutput]:
    asked = {"max_tokens": 120, "temperature": 1, "seed": 1, **params}
    return llm.generate(PROMPT, SamplingParams(**asked), use_tqdm=False)[0].outputs


def test_a_regex_is_matched_by_every_choice(llm: LLM) -> None:
    choices = many(llm, guided_regex=r"[a-f]{3}-[0-9]{2,4}!", n=6)
    assert all(re.fullmatch(r"[a-f]{3}-[0-9]{2,4}!", choice.text) for choice in choices)
    assert {choice.finish_reason for choice in choices} == {"stop"}
    assert len({choice.text for choice in choices}) > 1


def test_a_choice_is_one_of_the_texts(llm: LLM) -> None:
    texts = ['say "yes"', "nö", "perhaps\nlater"]
    assert {choice.text for choice in many(llm, guided_choice=texts, n=12)} <= set(texts)


def test_a_schema_is_satisfied(llm: LLM) -> None:
    for choice in many(llm, guided_json=json.dumps(PERSON), n=4):
        person = json.loads(choice.text)
        assert person.keys() == {"name", "age"}
        assert isinstance(person["name"], str)
        assert 0 <= person["age"] <= 150


def test_a_grammar_is_followed(llm: LLM) -> None:
    (choice,) = many(llm, guided_grammar='start: "(" inner ")"\ninner: "x" | start')
    assert re.fullmatch(r"\(+x\)+", choice.text)
    assert choice.text.count("(") == choice.text.count(")")


def test_the_same_seed_gives_the_same_text_alone_and_among_others(llm: LLM) -> None:
    params = SamplingParams(guided_json=json.dumps(PERSON), max_tokens=120, seed=5)
    alone = llm.generate(PROMPT, params, use_tqdm=False)[0].outputs[0].text
    others = [SamplingParams(guided_regex="[a-z ]{40}", max_tokens=60, seed=i) for i in range(6)]
    together = llm.generate([PROMPT] * 8, [params, *others, params], use_tqdm=False)
    assert together[0].outputs[0].text == together[7].outputs[0].text == alone


def test_a_complete_output_ends_whatever_min_tokens_and_ignore_eos_say(llm: LLM) -> None:
    (choice,) = many(llm, guided_regex="abc", min_tokens=50, ignore_eos=True)
    assert (choice.text, choice.finish_reason) == ("abc", "stop")


def test_max_tokens_cut_a_guided_output(llm: LLM) -> None:
    (choice,) = many(llm, guided_regex="[a-z]{100}", max_tokens=7)
    assert choice.finish_reason == "length"
    assert re.fullmatch("[a-z]+", choice.text)


def test_a_stop_string_ends_a_guided_output(llm: LLM) -> None:
    (choice,) = many(llm, guided_regex="[a-z]{20}STOP[a-z]{50}", stop=["STOP"])
    assert re.fullmatch("[a-z]{20}", choice.text)


def test_penalties_and_bans_work_inside_a_grammar(llm: LLM) -> None:
    (choice,) = many(llm, guided_regex="[ab]{30}", bad_words=["a"], frequency_penalty=2)
    assert "b" in choice.text
    assert re.fullmatch("[ab]{30}", choice.text)


def test_a_preempted_output_still_follows_its_grammar(talking: Path) -> None:
    with LLM(str(talking), num_kv_blocks=12, block_size=4, max_model_len=44) as small:
        params = [SamplingParams(guided_regex="[a-z]{30}", max_tokens=36, seed=i) for i in range(8)]
        texts = [out.outputs[0].text for out in small.generate(["x"] * 8, params, use_tqdm=False)]
        assert small.stats()["num_preemptions"] > 0
    assert all(re.fullmatch("[a-z]{30}", text) for text in texts)


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"guided_json": "{"}, "guided_json cannot be used: EOF"),
        ({"guided_json": '{"type": "elephant"}'}, "Invalid type: elephant"),
        ({"guided_json": '{"not": {}}'}, 'Unimplemented keys: ["not"]'),
        ({"guided_json": "false"}, "a JSON schema must be an object, got false"),
        ({"guided_json": '{"type": "object", "required": ["a"], "properties": {"a": false}}'}, "Unsatisfiable"),
        ({"guided_regex": "(a"}, "unclosed group"),
        ({"guided_grammar": "start: nobody"}, "guided_grammar cannot be used"),
        ({"guided_choice": ["a", ""]}, "guided_choice must not hold an empty string"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "exclude each other, got 2"),
        ({"guided_regex": "a" * (1 << 20) + "b"}, "guided_regex may have at most 1048576 bytes, got 1048577"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(llm: LLM, params: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(complaint)):
        many(llm, **params)


def test_a_text_no_token_can_spell_is_an_error_of_that_request_alone(llm: LLM) -> None:
    params = [SamplingParams(guided_regex="a", max_tokens=9, logit_bias={}), SamplingParams(max_tokens=9)]
    tokenizer = llm.get_tokenizer()
    spelled = [token for token in range(tokenizer.vocab_size) if tokenizer.token_bytes(token).startswith(b"a")]
    params[0] = params[0].clone(logit_bias=dict.fromkeys(spelled, -100.0))
    guided, free = (out.outputs[0] for out in llm.generate([PROMPT] * 2, params, use_tqdm=False))
    assert guided.finish_reason == "error"
    assert "restrictions leave no token" in str(guided.error)
    assert free.finish_reason != "error"


def test_finished_requests_leave_no_matcher_behind(llm: LLM) -> None:
    many(llm, guided_regex="[ab]{5}", n=3)
    many(llm, max_tokens=1)  # the engine tells of ends at the next step, at the latest
    assert llm._model.guide().num_choices == 0


def test_two_threads_compile_one_grammar_once(llm: LLM) -> None:
    compiler = llm._model.guide().compiler
    params = SamplingParams(guided_regex="[0-9]{3}[a-z]{4}")
    threads = [threading.Thread(target=llm._model.compile, args=(params,)) for _ in range(4)]
    before = compiler.num_compiled
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compiler.num_compiled == before + 1
