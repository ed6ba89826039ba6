"""Chat templates: text and ids, continued messages, the worker process, and messages that try to write control tokens.

Families, the environment, control tokens and hostile templates have test files of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tokenizers import CHAT_TEMPLATE, CONTROLS, byte_level, byte_level_gguf
from transformers import PreTrainedTokenizerFast

from pagoda.chat_template import ChatTemplate, TemplateError, encode_chat
from pagoda.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_gguf(byte_level_gguf())
PARTS_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content | trim }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)
TOOLS = [{"type": "function", "function": {"name": "größe", "parameters": {"type": "object", "properties": {}}}}]
USER = [{"role": "user", "content": "hi"}]
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "the quick <b>brown</b> 日本 fox"},
    {"role": "assistant", "content": " jumps  "},
    {"role": "user", "content": "over\n\n"},
]
SPELLING = st.lists(
    st.one_of(st.text(max_size=6), st.sampled_from([*CONTROLS, "<", "<|", "<|im_", "start|>", "end|>", "|>", "\ue000"]))
).map("".join)


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    made = ChatTemplate.for_tokenizer(TOKENIZER)
    assert made is not None
    yield made
    made.close()


@pytest.fixture(scope="module")
def parts_template() -> Iterator[ChatTemplate]:
    made = ChatTemplate(PARTS_TEMPLATE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<|im_start|>", eos_token="<|im_end|>")
    made.chat_template = CHAT_TEMPLATE
    return made


def render_once(source: str, **kwargs: Any) -> str:
    template = ChatTemplate(source, "<s>", "</s>", time_budget_s=1.0, max_output_chars=100_000)
    try:
        return template.render(USER, **kwargs)
    finally:
        template.close()


@pytest.mark.parametrize("prompt", [True, False])
def test_text_and_ids_equal_those_of_transformers(
    template: ChatTemplate, reference: PreTrainedTokenizerFast, prompt: bool
) -> None:
    text = reference.apply_chat_template(CONVERSATION, add_generation_prompt=prompt, tokenize=False)
    assert template.render(CONVERSATION, add_generation_prompt=prompt) == text
    ids = reference.apply_chat_template(CONVERSATION, add_generation_prompt=prompt, return_dict=False)
    assert encode_chat(TOKENIZER, template, CONVERSATION, add_generation_prompt=prompt) == ids


@pytest.mark.parametrize("content", [" jumps", "jumps  ", "end", "<|im_end|>"])
@pytest.mark.parametrize("source", [CHAT_TEMPLATE, PARTS_TEMPLATE])
def test_continue_final_message_ends_with_the_last_content(source: str, content: str) -> None:
    template = ChatTemplate(source)
    messages = [*USER, {"role": "assistant", "content": content}]
    text = template.render(messages, add_generation_prompt=False, continue_final_message=True)
    template.close()
    shown = content if source == CHAT_TEMPLATE else content.strip()
    assert text == f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{shown}"


def test_continuing_excludes_a_generation_prompt_and_needs_the_content_shown(template: ChatTemplate) -> None:
    with pytest.raises(TemplateError, match="exclude each other"):
        template.render(USER, continue_final_message=True)
    with pytest.raises(TemplateError, match="does not write the final message as it is"):
        render_once("fixed", add_generation_prompt=False, continue_final_message=True)


@settings(max_examples=80, deadline=None)
@given(contents=st.lists(SPELLING, min_size=1, max_size=3))
def test_only_the_template_writes_control_tokens(template: ChatTemplate, contents: list[str]) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    ids = encode_chat(TOKENIZER, template, messages)
    special = [i for i in ids if TOKENIZER.is_special(i)]
    assert special == [1, 2] * len(contents) + [1]
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == template.render(messages)


@settings(max_examples=80, deadline=None)
@given(parts=st.lists(SPELLING, min_size=2, max_size=4))
def test_parts_that_a_template_joins_cannot_form_a_control_token(
    parts_template: ChatTemplate, parts: list[str]
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": part} for part in parts]}]
    ids = encode_chat(TOKENIZER, parts_template, messages)
    assert [i for i in ids if TOKENIZER.is_special(i)] == [1, 2]
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == "<|im_start|>user\n" + "".join(parts) + "<|im_end|>\n"


def test_tools_and_arguments_cannot_write_control_tokens() -> None:
    template = ChatTemplate("<|im_start|>{{ tools | tojson }}{{ note }}<|im_end|>")
    tools = [{"type": "function", "function": {"name": "<|im_end|>", "parameters": {"<|im_start|>": 1}}}]
    ids = encode_chat(TOKENIZER, template, USER, tools=tools, note="<|endoftext|>")
    template.close()
    assert [i for i in ids if TOKENIZER.is_special(i)] == [1, 2]
    assert '"name": "<|im_end|>"' in TOKENIZER.decode(ids, skip_special_tokens=False)


def test_a_content_list_is_joined_for_templates_that_know_only_strings(
    template: ChatTemplate, parts_template: ChatTemplate
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert "user\na\nb<|im_end|>" in template.render(messages)
    assert "user\nab<|im_end|>" in parts_template.render(messages)


def test_requests_with_tools_use_the_tool_template() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "{{ tools[0].function.name }}"})
    assert template.render(USER) == "plain"
    assert template.render(USER, tools=TOOLS) == "größe"
    template.close()
    with pytest.raises(TemplateError, match="no chat template named"):
        ChatTemplate({"a": "", "b": ""})


def test_a_template_that_had_to_be_ended_leaves_the_next_rendering_unharmed() -> None:
    source = (
        "{% if loops %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
        "{% set ns = namespace(x='ab') %}{% if grows %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
        "{% endif %}fine"
    )
    template = ChatTemplate(source, time_budget_s=1.5, memory_bytes=400 << 20)
    assert template.render(USER) == "fine"
    with pytest.raises(TemplateError, match=r"ran longer than 1.5 s"):
        template.render(USER, loops=True)
    assert template.render(USER) == "fine"
    with pytest.raises(TemplateError, match=r"too much memory|ran longer"):
        template.render(USER, grows=True)
    assert template.render(USER) == "fine"
    template.close()
    assert template.render(USER) == "fine"
    template.close()


def test_renderings_from_several_threads_get_their_own_answers(template: ChatTemplate) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if f"user\n{number}<|im_end|>" not in template.render([{"role": "user", "content": str(number)}]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", ["tokenize", "return_dict", "bos_token"])
def test_reserved_arguments_are_refused(template: ChatTemplate, name: str) -> None:
    with pytest.raises(TemplateError, match=f"{name} is reserved") as caught:
        template.render(USER, **{name: True})
    assert caught.value.param == "chat_template_kwargs"


def test_values_that_are_not_json_are_refused(template: ChatTemplate) -> None:
    with pytest.raises(TemplateError, match="must be JSON values"):
        template.render(USER, thing=object())


def test_a_model_without_a_template_has_none() -> None:
    metadata = byte_level_gguf()
    del metadata["tokenizer.chat_template"]
    assert ChatTemplate.for_tokenizer(Tokenizer.from_gguf(metadata)) is None
