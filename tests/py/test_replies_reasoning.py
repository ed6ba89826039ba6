"""Reasoning split from the answer: where it begins and ends, whatever the pieces of the text are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from proportion import check_proportion

from pagoda.replies.message_parser import Piece, Reading
from pagoda.replies.reasoning_parser import ReasoningParser, is_open, uses_reasoning
from pagoda.replies.tool_format import HERMES
from pagoda.server.chat_message import delta_of, whole_message

TEMPLATES = Path(__file__).parents[1] / "data/chat_templates"


def read(opened: bool, *pieces: str) -> tuple[str, str]:
    parser = ReasoningParser(opened)
    parts = [*map(parser.push, pieces), parser.finish()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


CASES = [
    (False, "<think>\nHm.\n\nSo.\n</think>\n\nYes.\n", "Hm.\n\nSo.", "Yes.\n"),
    (False, " \n<think>a</think>b", "a", "b"),
    (True, "Hm.</think>Yes.", "Hm.", "Yes."),
    (True, "\n<think is a tag", "<think is a tag", ""),
    (True, "cut in the mid</thi", "cut in the mid</thi", ""),
    (True, " \n</think>\n\n", "", ""),
    (False, "Yes. <think>no</think>", "", "Yes. <think>no</think>"),
    (False, "  <b>", "", "  <b>"),
    (False, " <thin", "", " <thin"),
    (False, "<think>open", "open", ""),
    (False, "<think></think>a</think>", "", "a</think>"),
    (False, "", "", ""),
    (False, "  ", "", "  "),
]


@pytest.mark.parametrize(("opened", "text", "reasoning", "content"), CASES)
def test_reasoning_and_content_are_told_apart(opened: bool, text: str, reasoning: str, content: str) -> None:
    assert read(opened, text) == (reasoning, content)


def test_the_result_does_not_depend_on_where_the_text_is_cut() -> None:
    rng = random.Random(3)
    alphabet = ["<think>", "</think>", *"<thinkab> \n/"]
    texts = [text for _, text, _, _ in CASES]
    texts += ["".join(rng.choices(alphabet, k=rng.randint(1, 9))) for _ in range(800)]
    for text in texts:
        for opened in (False, True):
            whole = read(opened, text)
            assert read(opened, *text) == whole, text
            assert all(read(opened, text[:cut], text[cut:]) == whole for cut in range(len(text))), text


@pytest.mark.parametrize(("head", "unit"), [("", "<"), ("", " "), ("<think>", "</think"), ("<think>", " ")])
def test_long_texts_take_time_in_proportion(head: str, unit: str) -> None:
    check_proportion(lambda text: read(False, text), head, unit, 40_000 // len(unit))
    check_proportion(lambda text: read(False, *text), head, unit, 5_000 // len(unit))


def test_an_open_prompt_and_a_reasoning_template_are_recognised() -> None:
    assert is_open("<|im_start|>assistant\n<think>\n")
    assert not is_open("<think>\n\n</think>\n\n")
    assert not is_open("nothing")
    assert uses_reasoning((TEMPLATES / "qwen_3.jinja").read_text(encoding="utf-8"))
    assert not uses_reasoning((TEMPLATES / "qwen_2_5.jinja").read_text(encoding="utf-8"))
    assert not uses_reasoning(None)


TEXT = '<think>\nWho?\n</think>\n\nOne moment.\n<tool_call>\n{"name": "look", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_message_has_reasoning_content_and_calls(size: int) -> None:
    parser = Reading(HERMES, ["look"], reasoning=True).parser()
    pieces: list[Piece] = []
    for begin in range(0, len(TEXT), size):
        pieces += parser.push(TEXT[begin : begin + size])
    pieces += parser.finish()
    message = whole_message(pieces)
    assert (message["reasoning_content"], message["content"]) == ("Who?", "One moment.")
    (call,) = message["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"a": 1}'}
    calls = [delta["tool_calls"][0] for delta in map(delta_of, pieces) if "tool_calls" in delta]
    assert calls[0]["id"] == call["id"]
    assert "".join(part["function"]["arguments"] for part in calls) == '{"a": 1}'
    assert all("id" not in part for part in calls[1:])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_where_calls_may_not_be_parallel_the_first_one_is_kept(size: int) -> None:
    call = '<tool_call>{"name": "look", "arguments": {"at": %d}}</tool_call>'
    text = f"one {call % 1}\n{call % 2} end"
    counts = []
    for parallel in (True, False):
        parser = Reading(HERMES, ["look"], parallel=parallel).parser()
        pieces = [piece for at in range(0, len(text), size) for piece in parser.push(text[at : at + size])]
        message = whole_message(pieces + parser.finish())
        assert message["tool_calls"][0]["function"]["arguments"] == '{"at": 1}'
        assert message["content"].split() == ["one", "end"]
        counts.append(len(message["tool_calls"]))
    assert counts == [2, 1]


def test_content_is_null_only_beside_calls() -> None:
    parser = Reading(HERMES, ["look"]).parser()
    message = whole_message(parser.push('<tool_call>{"name": "look"}</tool_call>') + parser.finish())
    assert message["content"] is None
    assert whole_message(Reading().parser().push("")) == {"role": "assistant", "content": "", "refusal": None}
