"""Tool calls found in texts: the three formats, every split point, and texts made to break a parser."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from proportion import check_proportion

from pagoda.replies.tool_format import HERMES, LLAMA3, MISTRAL, PLAIN, QWEN3_CODER, ToolFormat, detect_format
from pagoda.replies.tool_parser import ToolParser

NAMES = ("look", "add")
KINDS = {
    "at": {"type": "string"},
    "n": {"type": "integer"},
    "on": {"type": "boolean"},
    "all": {"type": ["array", "null"]},
    "any": {"anyOf": [{"type": "number"}, {"type": "object"}]},
    "who": {"type": ["string", "null"]},
}
SCHEMAS = {"look": {"type": "object", "properties": KINDS}, "add": {"properties": 5}}
FORMS = (HERMES, LLAMA3, MISTRAL, QWEN3_CODER)
TEMPLATES = Path(__file__).parents[1] / "data/chat_templates"


Calls = list[tuple[str, str]]


def read(form: ToolFormat, *pieces: str, demanded: bool = False) -> tuple[str, Calls]:
    """All that a parser says: the content and the calls."""
    parser = ToolParser(form, NAMES, demanded, SCHEMAS)
    content: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for delta in [delta for piece in pieces for delta in parser.push(piece)] + parser.finish():
        if delta.index is None:
            content.append(delta.content)
            continue
        if delta.id is not None:
            assert delta.index == len(calls)
            calls.append((delta.name or "", []))
        calls[delta.index][1].append(delta.arguments)
    assert parser.num_calls == len(calls)
    return "".join(content), [(name, "".join(arguments)) for name, arguments in calls]


LOOK = ("look", '{"city": "Zürich", "n": [1, {"a": "}"}]}')
CALL = f'{{"name": "look", "arguments": {LOOK[1]}}}'
ADD = '{"arguments": {"x": "\\"{"}, "name": "add"}'

GOOD = [
    (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", [LOOK]),
    (HERMES, f"Let me see.\n<tool_call>{CALL}</tool_call>", "Let me see.", [LOOK]),
    (
        HERMES,
        f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{ADD}\n</tool_call>",
        "",
        [LOOK, ("add", '{"x": "\\"{"}')],
    ),
    (HERMES, f"<tool_call>\n{CALL}\n</tool_call>\n\nDone. ", "Done.", [LOOK]),
    (HERMES, '<tool_call>{"name": "add"}</tool_call>', "", [("add", "{}")]),
    (HERMES, '<tool_call>{"name": "add", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [("add", '{"x": 1}')]),
    (HERMES, f"<tool_call>\n{CALL}", "", [LOOK]),
    (HERMES, '<tool_call>{"name": "add", "arguments": {"x": [1, "a', "", [("add", '{"x": [1, "a')]),
    (HERMES, 'No call. {"name": "add", "arguments": {}} ', 'No call. {"name": "add", "arguments": {}} ', []),
    (LLAMA3, CALL.replace("arguments", "parameters"), "", [LOOK]),
    (LLAMA3, f"<|python_tag|>{CALL}", "", [LOOK]),
    (LLAMA3, f"\n {CALL}; {ADD}", "", [LOOK, ("add", '{"x": "\\"{"}')]),
    (LLAMA3, f"I say {CALL}", f"I say {CALL}", []),
    (LLAMA3, '{"name": "Bob", "parameters": {"a": 1}}', '{"name": "Bob", "parameters": {"a": 1}}', []),
    (LLAMA3, '{"answer": [1, 2]} is it', '{"answer": [1, 2]} is it', []),
    (MISTRAL, f"[TOOL_CALLS] [{CALL}]", "", [LOOK]),
    (MISTRAL, f"[TOOL_CALLS][{CALL}, {ADD}]", "", [LOOK, ("add", '{"x": "\\"{"}')]),
    (MISTRAL, f"Well: [TOOL_CALLS]{CALL}", "Well:", [LOOK]),
    (MISTRAL, f"[TOOL_CALLS]look[ARGS]{LOOK[1]}", "", [LOOK]),
    (MISTRAL, f"[TOOL_CALLS]look{LOOK[1]}[TOOL_CALLS]add{{}}", "", [LOOK, ("add", "{}")]),
    (MISTRAL, "[TOOL_CALLS] []", "[TOOL_CALLS] []", []),
    (HERMES, f"Both: <tool_call>\n[{CALL}, {ADD}]\n</tool_call> so.", "Both: so.", [LOOK, ("add", '{"x": "\\"{"}')]),
    (HERMES, f"<tool_call>[{CALL}]</tool_call>\n<tool_call>[{ADD}]", "", [LOOK, ("add", '{"x": "\\"{"}')]),
    (HERMES, f"<tool_call>[{CALL}] and", "and", [LOOK]),
    (HERMES, '<tool_call>{"name": "add", "arguments": null}</tool_call>', "", [("add", "{}")]),
    (HERMES, '<tool_call>{"arguments": "null", "name": "add"}</tool_call>', "", [("add", "{}")]),
    (LLAMA3, '{"name": "add", "parameters": null}', "", [("add", "{}")]),
    (LLAMA3, f"<|python_tag|>{CALL}; <|python_tag|>{ADD}", "", [LOOK, ("add", '{"x": "\\"{"}')]),
    (MISTRAL, f"[TOOL_CALLS]look[CALL_ID]a1B2c3D4e[ARGS]{LOOK[1]}", "", [LOOK]),
    (MISTRAL, f"So.[TOOL_CALLS]look[CALL_ID]123456789{LOOK[1]}[TOOL_CALLS]add[ARGS]{{}}", "So.", [LOOK, ("add", "{}")]),
]
NO_ARGUMENTS = ["[1]", "[]", "1", "-1", "true", "nul", "nulll", '"a"', '""', '"[1]"', '"1"', '"\\q{"']


def function(name: str, **parameters: str) -> str:
    """A call as Qwen3-Coder writes it."""
    lines = [f"<parameter={key}>\n{value}\n</parameter>" for key, value in parameters.items()]
    return "\n".join([f"<tool_call>\n<function={name}>", *lines, "</function>\n</tool_call>"])


GOOD += [
    (QWEN3_CODER, f"Wait. {function('add')} So.", "Wait. So.", [("add", "{}")]),
    (
        QWEN3_CODER,
        function("look", at='a "b"\n\n\\<c>\n', n=" 5", on="True", all="[1]") + "\n" + function("add", x="7"),
        "",
        [("look", '{"at": "a \\"b\\"\\n\\n\\\\<c>\\n", "n": 5, "on": true, "all": [1]}'), ("add", '{"x": "7"}')],
    ),
    (QWEN3_CODER, function("look", all="None", any='{"a": 1}'), "", [("look", '{"all": null, "any": {"a": 1}}')]),
    (QWEN3_CODER, function("look", who="null", at="null"), "", [("look", '{"who": null, "at": "null"}')]),
    (QWEN3_CODER, function("look", who="5", n="NaN", any="["), "", [("look", '{"who": "5", "n": "NaN", "any": "["}')]),
    (QWEN3_CODER, function("other", ä="Zürich", b=""), "", [("other", '{"ä": "Zürich", "b": ""}')]),
    (QWEN3_CODER, "<tool_call><function=look><parameter=at>a</parameter>x", "x", [("look", '{"at": "a"}')]),
    (QWEN3_CODER, "<tool_call><function=look><parameter=at>\na</par", "", [("look", '{"at": "a')]),
    (QWEN3_CODER, f"<tool_call>{CALL}</tool_call>", f"<tool_call>{CALL}</tool_call>", []),
]
BROKEN = [
    "<tool_call><function=",
    "<tool_call>\n<function=look",
    "<tool_call>\n<function=a b>",
    "<tool_call>\n<function=>",
    "<tool_call><function=" + "a" * 200 + ">",
    "<tool_call><func>",
    *(f'<tool_call>{{"name": "add", "arguments": {value}}}</tool_call>' for value in NO_ARGUMENTS),
    *(f'{{"parameters": {value}, "name": "add"}}' for value in NO_ARGUMENTS),
    '<tool_call>{"name": "add", "arguments": null',
    '<tool_call>{"name": "add", "arguments": "{',
    "<tool_call>[",
    "<tool_call>[]</tool_call>",
    "[TOOL_CALLS]add[CALL_ID]",
    "[TOOL_CALLS]add[CALL_ID]123456789",
    "[TOOL_CALLS]add[CALL_ID]123456789[ARGS]",
    "[TOOL_CALLS]add[CALL_ID]1-2[ARGS]{}",
    "[TOOL_CALLS]add[ARGS][CALL_ID]1{}",
    "[TOOL_CALLS]add[ARGS]null",
    "<tool_call>",
    "<tool_call",
    "<tool_call>{",
    "<tool_call>}",
    '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "add" "arguments": {}}</tool_call> and then',
    '<tool_call>{"na\\ud800me": "add", "name": "\\ud800", "arguments": {}}',
    "<tool_call><tool_call>{}</tool_call>",
    '{"name": "add", "parameters": ]}',
    '{"name": "add", "parameters": }',
    '{"name": "add", "parameters": nul',
    '{"name": "add", "parameters": 12, }',
    "[TOOL_CALLS",
    "[TOOL_CALLS]",
    "[TOOL_CALLS]add",
    "[TOOL_CALLS]add [ARGS]{}",
    "[TOOL_CALLS]add[ARG",
    "[TOOL_CALLS]" + "a" * 200 + "{}",
    "[TOOL_CALLS][{}]",
    "   \n ",
    "<|python_tag|",
    "<|python_tag|>print(1)",
    "\\" * 9 + '"' + "\\",
    "",
]


@pytest.mark.parametrize(("form", "text", "content", "calls"), GOOD)
def test_calls_are_found(form: ToolFormat, text: str, content: str, calls: Calls) -> None:
    assert read(form, text) == (content, calls)


@pytest.mark.parametrize("text", [text for _, text, _, _ in GOOD] + BROKEN)
def test_the_result_does_not_depend_on_where_the_text_is_cut(text: str) -> None:
    rng = random.Random(text)
    for form in (*FORMS, PLAIN):
        for demanded in (False, True):
            whole = read(form, text, demanded=demanded)
            for cut in range(len(text) + 1):
                assert read(form, text[:cut], text[cut:], demanded=demanded) == whole
            assert read(form, *text, demanded=demanded) == whole
            cuts = sorted(rng.sample(range(len(text) + 1), min(4, len(text))))
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            assert read(form, *pieces, demanded=demanded) == whole


def test_what_is_no_call_comes_back_as_it_was() -> None:
    for text in BROKEN:
        for form in FORMS:
            content, calls = read(form, text)
            assert calls or content == text, (form.name, text)


ALPHABET = [
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "null",
    "<function=look>",
    "<parameter=at>",
    "</parameter>",
    "</function>",
    '{"name": "add", "arguments": ',
    *'{}[]":,\\ \na1;(',
]


def test_made_up_texts_read_the_same_whole_and_in_characters() -> None:
    rng = random.Random(7)
    for _ in range(1500):
        text = "".join(rng.choices(ALPHABET, k=rng.randint(1, 14)))
        for form in FORMS:
            assert read(form, *text) == read(form, text), (form.name, text)


@pytest.mark.parametrize(
    ("form", "head", "unit"),
    [
        (HERMES, "", "("),
        (HERMES, "", " "),
        (HERMES, "", "<"),
        (HERMES, "", "<tool_call>"),
        (HERMES, "", "<tool_call>{"),
        (HERMES, "<tool_call>", "["),
        (HERMES, "<tool_call>", " "),
        (HERMES, '<tool_call>{"name": "add", "arguments": ', '{"":'),
        (HERMES, '<tool_call>{"name": "add", "arguments": ', '"'),
        (HERMES, '<tool_call>{"name": "add", "arguments": {"a": "', '\\"'),
        (LLAMA3, "", " "),
        (LLAMA3, "", "{"),
        (LLAMA3, "", '{"'),
        (LLAMA3, "", '{"name": "add", "parameters": {}};'),
        (MISTRAL, "", "[TOOL_CALLS]"),
        (MISTRAL, "", "[TOOL_CALLS]a"),
        (MISTRAL, "", "[TOOL_CALLS]["),
        (MISTRAL, "[TOOL_CALLS]a[CALL_ID]", "1"),
        (QWEN3_CODER, "<tool_call>", "<function=look><parameter=n>1</parameter></function>"),
        (QWEN3_CODER, "<tool_call><function=look><parameter=at>", "</parameter"),
        (QWEN3_CODER, "<tool_call><function=look><parameter=n>", "\n"),
        (QWEN3_CODER, "<tool_call><function=", "a"),
    ],
)
def test_long_texts_take_time_in_proportion(form: ToolFormat, head: str, unit: str) -> None:
    check_proportion(lambda text: read(form, text), head, unit, 40_000 // len(unit))
    check_proportion(lambda text: read(form, *text), head, unit, 5_000 // len(unit))


def test_ids_are_distinct_and_in_the_formats_shape() -> None:
    text = f"<tool_call>{CALL}</tool_call>" * 3
    ids = [delta.id for delta in ToolParser(HERMES, NAMES).push(text) if delta.id]
    assert len(set(ids)) == 3
    assert all(name.startswith("call_") for name in ids)
    (first,) = [delta.id for delta in ToolParser(MISTRAL, NAMES).push("[TOOL_CALLS]add{}") if delta.id]
    assert len(first) == 9
    assert first.isalnum()


def test_a_name_comes_before_its_arguments_end() -> None:
    parser = ToolParser(HERMES, NAMES)
    start = parser.push('<tool_call>{"name": "look", "arguments": {"city": "Z')[0]
    assert (start.name, start.index) == ("look", 0)
    more = parser.push("ür")
    assert [delta.arguments for delta in more] == ["ür"]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("qwen_2_5", HERMES),
        ("qwen_3", HERMES),
        ("hermes_tool_use", HERMES),
        ("qwen_3_coder", QWEN3_CODER),
        ("llama_3_1", LLAMA3),
        ("llama_3_2", LLAMA3),
        ("mistral_v3", MISTRAL),
        ("mistral_tekken", MISTRAL),
        ("smollm_2", None),
        ("gemma_3", None),
        ("llama_2", None),
        ("llama_3", None),
    ],
)
def test_a_template_tells_its_format(name: str, form: ToolFormat | None) -> None:
    assert detect_format((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")) is form


@pytest.mark.parametrize(
    "call",
    [
        "<tool_call>{{ f.name }}\n<arg_key>{{ key }}</arg_key>\n<arg_value>{{ value }}</arg_value>\n</tool_call>",
        "<|start_header_id|>assistant<|end_header_id|>{{ text }}<|eot_id|>",
        "<|start_header_id|>ipython<|end_header_id|>[{{ f.name }}({{ key }}={{ value }})]<|eot_id|>",
    ],
)
def test_a_template_with_marks_of_a_known_format_may_have_another_one(call: str) -> None:
    """GLM, and Llama 3 with tools of somebody else's making."""
    assert detect_format("{% for tool in tools %}{{ tool | tojson }}{% endfor %}" + call) is None


def test_a_grammar_names_every_tool_and_keeps_references_inside_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "integer"}}}
    tools = [{"name": "look", "parameters": schema}, {"name": "add"}]
    for form in (HERMES, LLAMA3, MISTRAL, PLAIN):
        grammar = form.grammar(tools, parallel=True)
        assert json.dumps('{"name": "look"')[1:-1] in grammar
        assert json.dumps('{"name": "add"')[1:-1] in grammar
