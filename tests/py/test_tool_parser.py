"""Tool calls in generated text: what is a call, what is content, and that neither depends on how the text was cut."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from chat_conversations import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.answer_delta import AnswerDelta
from pagoda.answer_parser import AnswerParser
from pagoda.reasoning_parser import ReasoningParser, leaves_open, uses_thoughts
from pagoda.tool_format import FORMATS, HERMES, LLAMA3, MISTRAL, ToolFormat, detect_format
from pagoda.tool_parser import ToolParser

#: content (None for none) and (name, arguments) of each call
Message = tuple[str, list[tuple[str, str]]]
CALL = '{"name": "f", "arguments": {"a": 1}}'
F = ("f", '{"a": 1}')


def read(parser: AnswerParser, pieces: list[str]) -> AnswerDelta:
    """The message that the pieces make."""
    return AnswerDelta.join([*(parser.push(piece) for piece in pieces), parser.finish()])


def tools_only(form: ToolFormat, forced: bool = False) -> AnswerParser:
    return AnswerParser(None, ToolParser(form, {"f", "g"}, forced))


def parse(form: ToolFormat, text: str, forced: bool = False) -> Message:
    """The message of one text, which must be the same for the text cut at every place and in single characters."""
    whole = read(tools_only(form, forced), [text])
    assert read(tools_only(form, forced), list(text)) == whole
    for cut in range(1, len(text)):
        assert read(tools_only(form, forced), [text[:cut], text[cut:]]) == whole, text[:cut]
    return whole.content, [(call.name or "", call.arguments) for call in whole.calls]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", []),
        ("Just text, with a < and a <tool.\n", "Just text, with a < and a <tool.\n", []),
        (f"<tool_call>\n{CALL}\n</tool_call>", "", [F]),
        (f"Let me see.\n\n<tool_call>{CALL}</tool_call>\n", "Let me see.", [F]),
        (f"\n<tool_call>{CALL}</tool_call>\n<tool_call>\n{CALL}\n</tool_call>\n", "", [F, F]),
        (f"a<tool_call>{CALL}</tool_call>\nb", "a\nb", [F]),
        (f"<tool_call>{CALL}\n{CALL}</tool_call>", "", [F, F]),
        (f"<tool_call>[{CALL}, {CALL}]</tool_call>", "", [F, F]),
        (f"<tool_call>{CALL}<tool_call>{CALL}", "", [F, F]),
        (f"<tool_call>{CALL}</tool_ca", "", [F]),
        (f"<tool_call>{CALL}", "", [F]),
        (f"<tool_call>{CALL}}}\n</tool_call>", "}\n</tool_call>", [F]),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [F]),
        ('<tool_call>{"name": "f", "parameters": {"a": 1}, "id": "x", "type": "function"}</tool_call>', "", [F]),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [F]),
        ('<tool_call>{"arguments": "{\\"a\\": 1}", "name": "f"}</tool_call>', "", [F]),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "\\u0066"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', "", [("unknown", "{}")]),
        (
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>}\\"{", "b": [[{}]]}}</tool_call>.',
            ".",
            [("f", '{"a": "</tool_call>}\\"{", "b": [[{}]]}')],
        ),
        # Cut off: before the arguments begin it is text, from there on a call.
        ("<tool_ca", "<tool_ca", []),
        ("x <tool_call>\n", "x <tool_call>\n", []),
        ('<tool_call>{"name": "f", "arguments"', '<tool_call>{"name": "f", "arguments"', []),
        ('<tool_call>{"name": "f", "arguments": {"a', "", [("f", '{"a')]),
        ('<tool_call>{"name": "f", "arguments": "{', '<tool_call>{"name": "f", "arguments": "{', []),
        (f'<tool_call>{CALL}\n{{"na', '\n{"na', [F]),
        # No calls.
        ("<tool_call>no JSON</tool_call>", "<tool_call>no JSON</tool_call>", []),
        ("<tool_call></tool_call>", "<tool_call></tool_call>", []),
        ('<tool_call>{"nam', '<tool_call>{"nam', []),
        ('<tool_call>{"arguments": {}}', '<tool_call>{"arguments": {}}', []),
        ('<tool_call>{"name": 5, "arguments": {}}', '<tool_call>{"name": 5, "arguments": {}}', []),
        ('<tool_call>{"name": "", "arguments": {}}', '<tool_call>{"name": "", "arguments": {}}', []),
        ('<tool_call>{"name": "\\ud800", "arguments": {}}', '<tool_call>{"name": "\\ud800", "arguments": {}}', []),
        ('<tool_call>{"name": "f", "arguments": [1]}', '<tool_call>{"name": "f", "arguments": [1]}', []),
        ('<tool_call>{"name": "f", "other": {}}', '<tool_call>{"name": "f", "other": {}}', []),
        ('<tool_call>{"name": "f", "name": "g"}', '<tool_call>{"name": "f", "name": "g"}', []),
        (f"<tool_call>oh <tool_call>{CALL}</tool_call>", "<tool_call>oh", [F]),
        (f"<tool_call><tool_call>{CALL}</tool_call>", "<tool_call>", [F]),
        (CALL, CALL, []),
    ],
)
def test_hermes(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert parse(HERMES, text) == (content, calls)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('{"name": "f", "parameters": {"a": 1}}', "", [F]),
        ('\n\n{"type": "function", "name": "f", "parameters": {"a": 1}}\n', "", [F]),
        ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}', "", [F]),
        ('Well: <|python_tag|>{"name": "f", "parameters": {"a": 1}}', "Well:", [F]),
        (f"{CALL}; {CALL}", "", [F, F]),
        (f"{CALL}\n{CALL}", "", [F, F]),
        (f"{CALL} is what I call", " is what I call", [F]),
        ('{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
        ('{"name": "h", "parameters": {}} is one', '{"name": "h", "parameters": {}} is one', []),
        (f"I call {CALL}", f"I call {CALL}", []),
        ("[1, 2]", "[1, 2]", []),
        ('<|python_tag|>search.call(query="x")', '<|python_tag|>search.call(query="x")', []),
        ('{"name": "h", "parameters": {"x": "<|python_tag|>' + CALL, '{"name": "h", "parameters": {"x": "', [F]),
    ],
)
def test_llama3(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert parse(LLAMA3, text) == (content, calls)


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (f"[TOOL_CALLS][{CALL}]", "", [F]),
        (f"[TOOL_CALLS] [{CALL}, {CALL}]", "", [F, F]),
        (f"So: [TOOL_CALLS][{CALL}", "So:", [F]),
        ('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abcDEF123"}]', "", [F]),
        ('[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]f{"a": 1}', "", [F, F]),
        ('[TOOL_CALLS]f[CALL_ID]abcDEF123[ARGS]{"a": 1} done', " done", [F]),
        ("[TOOL_CALLS]not a name {}", "[TOOL_CALLS]not a name {}", []),
        ("[TOOL_CALLS]f", "[TOOL_CALLS]f", []),
        ("[TOOL_CALLS][1]", "[TOOL_CALLS][1]", []),
        ("[TOOL_CALLS]" + "x" * 300 + "{}", "[TOOL_CALLS]" + "x" * 300 + "{}", []),
        ("[1, [2]] and [TOOL", "[1, [2]] and [TOOL", []),
    ],
)
def test_mistral(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    assert parse(MISTRAL, text) == (content, calls)


def test_forced_text_is_calls_without_markers() -> None:
    for form in FORMATS.values():
        assert parse(form, f" [{CALL},\n{CALL}]", forced=True) == ("", [F, F])
        assert parse(form, '{"name": "any", "arguments": {}}', forced=True) == ("", [("any", "{}")])


def test_a_long_name_is_no_call_wherever_it_is_cut() -> None:
    text = '<tool_call>{"name": "' + "n" * 240 + f"<tool_call>{CALL}" + 'n"}'
    whole = read(tools_only(HERMES), [text])
    for size in (1, 2, 7, 100, 257):
        assert read(tools_only(HERMES), [text[i : i + size] for i in range(0, len(text), size)]) == whole


def test_arguments_come_in_pieces_behind_the_name() -> None:
    parser = tools_only(HERMES)
    deltas = [delta for char in f"<tool_call>{CALL}</tool_call>" for delta in parser.push(char).calls]
    assert deltas[0].name == "f"
    assert all(delta.name is None for delta in deltas[1:])
    assert [delta.arguments for delta in deltas] == list('{"a": 1}')


def test_calls_beyond_the_number_allowed_are_left_out() -> None:
    parser = AnswerParser(None, ToolParser(HERMES), max_calls=1)
    message = read(parser, [f"<tool_call>{CALL}</tool_call>"] * 3)
    assert len(message.calls) == 1
    assert parser.num_calls == 1


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("", "", ""),
        ("<think>\nhm\n\nso\n</think>\n\nYes.\n", "hm\n\nso", "Yes.\n"),
        ("\n <think>hm</think>Yes", "hm", "Yes"),
        ("<think>\n\n</think>\n\nYes", "", "Yes"),
        ("<think>hm", "hm", ""),
        ("<think>hm\n</thi", "hm\n</thi", ""),
        ("<think></think>", "", ""),
        ("<thin", "", "<thin"),
        (" \n<thing>", "", " \n<thing>"),
        ("Yes <think>hm</think>", "", "Yes <think>hm</think>"),
        ("<think>a</think>b</think>c", "a", "b</think>c"),
        ("<think>a<think>b</think>", "a<think>b", ""),
    ],
)
def test_thoughts(text: str, reasoning: str, content: str) -> None:
    for pieces in ([text], list(text), *([text[:cut], text[cut:]] for cut in range(len(text)))):
        message = read(AnswerParser(ReasoningParser(), None), pieces)
        assert (message.reasoning, message.content) == (reasoning, content)


def test_thoughts_that_the_prompt_began() -> None:
    message = read(AnswerParser(ReasoningParser(opened=True), ToolParser(HERMES)), [
        f"\nI could <tool_call>{CALL}</tool_call>\n</think>\n<tool_call>{CALL}</tool_call>"
    ])  # fmt: skip
    assert message.reasoning == f"I could <tool_call>{CALL}</tool_call>"
    assert message.content == ""
    assert [call.name for call in message.calls] == ["f"]
    assert leaves_open("<|im_start|>assistant\n<think>\n")
    assert not leaves_open("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not leaves_open("<|im_start|>assistant\n")


def test_formats_are_told_from_templates() -> None:
    found = {name: form.name for name, text in FAMILIES.items() if (form := detect_format(text)) is not None}
    assert found == {
        "falcon_3": "hermes",
        "hermes_tool_use": "hermes",
        "llama_3_1": "llama3",
        "llama_3_2": "llama3",
        "mistral_tekken": "mistral",
        "mistral_v3": "mistral",
        "qwen_2_5": "hermes",
        "qwen_3": "hermes",
    }
    assert detect_format("<tool_call>\n<function=f>\n<parameter=a>") is None
    assert {name for name, text in FAMILIES.items() if uses_thoughts(text)} == {"granite_3", "qwen_3", "smollm_3"}


PARSERS: dict[str, Callable[[], AnswerParser]] = {
    **{name: lambda form=form: AnswerParser(ReasoningParser(), ToolParser(form, {"f"}))  # type: ignore[misc]
       for name, form in FORMATS.items()},
    "forced": lambda: tools_only(LLAMA3, forced=True),
    "opened": lambda: AnswerParser(ReasoningParser(opened=True), ToolParser(MISTRAL, {"f"})),
}  # fmt: skip
SNIPPETS = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", "<tool_", "</"),
    *('{"name": "f", "arguments": ', '{"name": "', '"parameters":', '"f"', "{}", '{"a": "\\"}', CALL, "null", "\\"),
    *("{", "}", "[", "]", '"', ",", ";", ":", " ", "\n", "<", "ä", "x", "(" * 300, "n" * 260),
]


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=80, deadline=None)
@given(snippets=st.lists(st.sampled_from(SNIPPETS), max_size=12), seed=st.integers(0, 2**32))
def test_any_text_gives_one_message_however_it_is_cut(name: str, snippets: list[str], seed: int) -> None:
    text = "".join(snippets)
    whole = read(PARSERS[name](), [text])
    assert read(PARSERS[name](), list(text)) == whole
    draw = random.Random(seed)
    cuts = sorted({0, len(text), *(draw.randrange(len(text) + 1) for _ in range(4))})
    assert read(PARSERS[name](), [text[a:b] for a, b in pairwise(cuts)]) == whole
    if "<" not in text and "[" not in text and not text.lstrip().startswith("{") and name not in ("opened", "forced"):
        assert whole.content == text


HOSTILE = {
    "parentheses": "(" * 100_000,
    "objects": "<tool_call>" + '{"name":' * 10_000,
    "deep arguments": '<tool_call>{"name": "f", "arguments": ' + '{"a":[' * 20_000,
    "marker beginnings": "<tool_call" * 10_000,
    "markers": "<tool_call>" * 10_000,
    "closings": f"<tool_call>{CALL}" + "</tool_call" * 10_000,
    "white space": " " * 50_000 + "\n" * 50_000,
    "quotes": '<tool_call>{"name": "f", "arguments": {"a": "' + '\\"' * 50_000,
    "calls": f"<tool_call>{CALL}</tool_call>\n" * 2_000,
    "mistral": "[TOOL_CALLS][" * 8_000,
    "thoughts": "<think>" + "</think" * 14_000,
    "begun thoughts": "<thin" * 20_000,
}


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_text_costs_10_ms_per_10_kb(name: str, text: str) -> None:
    for size in (16, len(text)):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        parser = PARSERS[name]()
        start = time.process_time()
        for piece in pieces:
            parser.push(piece)
        parser.finish()
        seconds = time.process_time() - start
        # A piece is at least a token, whose generation takes longer; its own price is 20 us.
        assert seconds < 0.010 * len(text) / 10_000 + 20e-6 * len(pieces)
