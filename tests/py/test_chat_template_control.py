"""Control tokens come from the template alone, whatever a request says, in every family's template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from chat_conversations import CONVERSATIONS, FAMILIES, HI, Message, assistant, call, parts, result, system, user
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tokenizers import byte_level_gguf, sentencepiece_gguf

from pagoda.chat_template import ChatTemplate, TemplateError, encode_chat
from pagoda.control_guard import ControlGuard
from pagoda.tokenizer import Tokenizer

#: The control tokens of all families as their templates spell them; each template meets all of them.
SPELLED = re.compile(r"<\|[/\w]+\|>|\[/?[A-Z_]+\]|<\w+_of_\w+>")
BY_ROLE = [
    form % role for form in ("<|%s|>", "[|%s|]") for role in ("system", "user", "assistant", "tool", "endofturn")
]
CONTROLS = sorted({"<s>", "</s>", *BY_ROLE, *(token for text in FAMILIES.values() for token in SPELLED.findall(text))})
PIECES = [*CONTROLS, *(token[:cut] for token in CONTROLS for cut in (1, 2, 3)), *(token[2:] for token in CONTROLS)]
HOSTILE = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=5).map("".join)
TOKENIZERS = ["byte level", "sentencepiece"]


@cache
def tokenizer(kind: str) -> Tokenizer:
    metadata = byte_level_gguf() if kind == "byte level" else sentencepiece_gguf()
    added = [token for token in CONTROLS if token not in metadata["tokenizer.ggml.tokens"]]
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], *added]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], *[3] * len(added)]
    if "tokenizer.ggml.scores" in metadata:
        metadata["tokenizer.ggml.scores"] = [*metadata["tokenizer.ggml.scores"], *[0.0] * len(added)]
    return Tokenizer.from_gguf(metadata)


@pytest.fixture(scope="module")
def templates() -> Iterator[ChatTemplate]:
    made = ChatTemplate({**FAMILIES, "default": FAMILIES["chatml"]}, "<s>", "</s>")
    yield made
    made.close()


def special_ids(kind: str, ids: list[int]) -> list[int]:
    return [i for i in ids if tokenizer(kind).is_special(i)]


def chat(texts: list[str], tools: bool) -> tuple[list[Message], dict[str, Any]]:
    """A conversation that says `texts` in all places where a request can say something."""
    first, second, third, key = texts
    if not tools:
        return [system(first), user(second), assistant(third), user(parts(key, second))], {}
    schema = {"type": "object", "properties": {f"a{key}": {"type": "string", "description": first}}, "required": [key]}
    function = {"type": "function", "function": {"name": second, "description": third, "parameters": schema}}
    messages = [
        system(first),
        user(second),
        assistant(third, tool_calls=[call(f"f{first}", {f"k{key}": [second, {"deep": third}]})]),
        result(first, name=key),
    ]
    return messages, {"tools": [function]}


def encode(kind: str, template: ChatTemplate, family: str, texts: list[str], tools: bool) -> list[int]:
    """Ids of the first form of the chat that the template takes: some know no system prompt."""
    messages, options = chat(texts, tools)
    try:
        return encode_chat(tokenizer(kind), template, messages, chat_template=family, **options)
    except TemplateError:
        return encode_chat(tokenizer(kind), template, messages[1:], chat_template=family, **options)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_request_writes_control_tokens(templates: ChatTemplate, family: str, kind: str) -> None:
    shapes = [tools for tools in (False, True) if takes(kind, templates, family, tools)]
    assert shapes

    @settings(max_examples=8, deadline=None, database=None)
    @given(texts=st.lists(HOSTILE, min_size=4, max_size=4), tools=st.sampled_from(shapes))
    def check(texts: list[str], tools: bool) -> None:
        plain = ["x" if text.strip() else text for text in texts]
        expected = special_ids(kind, encode(kind, templates, family, plain, tools))
        assert special_ids(kind, encode(kind, templates, family, texts, tools)) == expected

    check()


def takes(kind: str, template: ChatTemplate, family: str, tools: bool) -> bool:
    """Whether the template takes calls of tools, or talk without them (some serve one of them only)."""
    try:
        encode(kind, template, family, ["x"] * 4, tools)
    except TemplateError:
        return False
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_protection_changes_no_ids_of_ordinary_text(templates: ChatTemplate, family: str) -> None:
    model = tokenizer("byte level")
    for row in CONVERSATIONS:
        options = {**row.options, "add_generation_prompt": row.prompt, "chat_template": family}
        try:
            text = templates.render(row.messages, **options)
        except TemplateError:
            continue
        ids = encode_chat(model, templates, row.messages, **options)
        assert ids == model.encode(text, add_special_tokens=False, parse_special=True), row.name


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("source", "content"),
    [
        # The template cuts a piece out of the middle of the text.
        ("{{ m.split('<think>')[0] + m.split('</think>')[-1] }}", "<|im_<think>hm</think>end|>"),
        ("{{ m.split('<think>')[0] + m.split('</think>')[-1] }}", "<<think>hm</think>|im_end|>"),
        ("{{ m.split('<think>')[0] + m.split('</think>')[-1] }}", "<|<think></think>im_end|>"),
        ("{{ m | replace('-', '') }}", "<-|im_end|>"),
        # It puts its own text around.
        ("<{{ m }}>", "|im_end|"),
        ("{{ '<' ~ m ~ '>' }}", "s"),
        ("<|im_{{ m }}", "end|>"),
        ("{{ '<|im_end|' ~ m }}", ">"),
        ("<|{{ m }}|>", "im_end"),
        # It says the text twice.
        ("{{ m }}{{ m }}", "|im_end|><"),
        # It writes JSON.
        ("{{ m | tojson }}", "<|im_end|>"),
        ("{{ m | tojson(ensure_ascii=true) }}", "<|im_end|>ä"),
        ("{{ {m: m} | tojson | tojson }}", "<|im_end|>"),
    ],
)
def test_templates_that_take_texts_apart_make_no_control_tokens_of_them(kind: str, source: str, content: str) -> None:
    template = ChatTemplate("{% set m = messages[0].content %}" + source, "<s>", "</s>")
    try:
        ids = encode_chat(tokenizer(kind), template, [user(content)])
        text = template.render([user(content)])
    finally:
        template.close()
    assert special_ids(kind, ids) == []
    if kind == "byte level":
        assert tokenizer(kind).decode(ids, skip_special_tokens=False) == text


def test_names_of_message_fields_write_no_control_tokens() -> None:
    template = ChatTemplate("{{ messages | tojson }}{{ note }}")
    ids = encode_chat(tokenizer("byte level"), template, [{**HI, "<|im_end|>": {"</s>": 1}}], note=["<s>"])
    template.close()
    assert special_ids("byte level", ids) == []
    assert "<|im_end|>" in tokenizer("byte level").decode(ids)


def test_texts_that_a_template_looks_for_stay_readable() -> None:
    guard = ControlGuard(["<|im_end|>", "</s>"], ["<think>", "</think>", "<", "</", "<|im_end|>\n"])
    assert guard.protect("<think>a</think> b", "#") == "<think>a</think> b"
    assert guard.protect("a < b", "#") == "a <# b"
    assert guard.protect("<|im_end|> </s> <<think>", "#") == "<#|im_end|> <#/s> <#<think>"
    assert guard.protect("|im_end|> says", "#") == "#|im_end|> says"
    assert guard.protect("plain", "#") == "plain"


def test_a_vocabulary_with_thousands_of_control_tokens_is_guarded_quickly() -> None:
    tokens = [f"<|reserved_special_token_{i}|>" for i in range(6000)]
    guard = ControlGuard(tokens, ["<|", "<|reserved_special_token_"])
    text = json.dumps({"a": "<|reserved_special_token_77|>" * 3, "b": "x" * 100_000})
    assert guard.protect(text, "#").replace("#", "") == text
    assert guard.protect(text, "#").count("<#|reserved") == 3
    assert guard.protect("5999|>", "#") == "#5999|>"
