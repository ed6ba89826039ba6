"""Templates of all model families: byte for byte what transformers renders, and the families' published formats."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from chat_conversations import (
    CHAT,
    CONVERSATIONS,
    DOCUMENTS,
    FAMILIES,
    HI,
    TOOLS,
    WEATHER,
    Message,
    assistant,
    parts,
    result,
    system,
    user,
)
from text_tokenizers import byte_level
from transformers import PreTrainedTokenizerFast
from transformers.utils import get_json_schema

from pagoda.chat_template import ChatTemplate, TemplateError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
#: The roles whose content lists a template goes through itself; the other lists reach templates joined.
READS_PARTS = {"gemma_3": {"system", "user", "assistant"}, "mistral_tekken": {"system", "user", "assistant"}}
#: A named template serves requests that have these.
SERVES = {
    "command_r_tool_use": {"tools": TOOLS},
    "hermes_tool_use": {"tools": TOOLS},
    "command_r_rag": {"documents": DOCUMENTS},
}
RETOLD = "<think>hm</think>yes"  # some templates take it apart and write it with line breaks


@pytest.fixture(scope="module")
def templates() -> Iterator[ChatTemplate]:
    made = ChatTemplate({**FAMILIES, "default": FAMILIES["chatml"]}, **TOKENS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=byte_level(), **TOKENS)


def as_given_to_transformers(family: str, messages: list[Message]) -> list[Message]:
    """With an assistant's missing content as "" and lists joined where the template does not know them."""
    changed = []
    for message in copy.deepcopy(messages):
        content = message.get("content")
        if isinstance(content, list) and message["role"] not in READS_PARTS.get(family, set()):
            content = "\n".join(part["text"] for part in content)
        changed.append({**message, "content": "" if content is None else content})
    return changed


def expect(reference: PreTrainedTokenizerFast, source: str, messages: list[Message], **options: Any) -> str | None:
    """What transformers renders; None for an error of any kind."""
    try:
        return str(reference.apply_chat_template(messages, chat_template=source, tokenize=False, **options))
    except Exception:
        return None


def render(template: ChatTemplate, messages: list[Message], **options: Any) -> str | None:
    try:
        return template.render(messages, **options)
    except TemplateError:
        return None


@pytest.mark.parametrize("family", FAMILIES)
def test_thirty_conversations_render_as_in_transformers(
    templates: ChatTemplate, reference: PreTrainedTokenizerFast, family: str
) -> None:
    assert len(CONVERSATIONS) == 30
    num_rendered = 0
    for row in CONVERSATIONS:
        options = {**SERVES.get(family, {}), **row.options, "add_generation_prompt": row.prompt}
        messages = as_given_to_transformers(family, row.messages)
        expected = expect(reference, FAMILIES[family], messages, **options)
        assert render(templates, row.messages, chat_template=family, **options) == expected, row.name
        num_rendered += expected is not None
    assert num_rendered >= 10


FORMATS = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
    "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n",
    "command_r": "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>A<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>B<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>C<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "exaone_3_5": "[|system|]S[|endofturn|]\n[|user|]A\n[|assistant|]B[|endofturn|]\n[|user|]C\n[|assistant|]",
    "falcon_3": "<|system|>\nS\n<|user|>\nA\n<|assistant|>\nB</s>\n<|user|>\nC\n<|assistant|>\n",
    "gemma_3": "<s><start_of_turn>user\nS\n\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n"
    "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n",
    "granite_3": "<|start_of_role|>system<|end_of_role|>S<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>A<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>B<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>C<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "llama_2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST] B </s><s>[INST] C [/INST]",
    "llama_3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama_3_1": "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nA<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral_tekken": "<s>[SYSTEM_PROMPT]S[/SYSTEM_PROMPT][INST]A[/INST]B</s>[INST]C[/INST]",
    "mistral_v3": "<s>[INST] A[/INST] B</s>[INST] S\n\nC[/INST]",
    "mixtral": "<s> [INST] S\n\nA [/INST] B</s> [INST] C [/INST]",
    "olmo_2": "<s><|system|>\nS\n<|user|>\nA\n<|assistant|>\nB</s>\n<|user|>\nC\n<|assistant|>\n",
    "phi_3_5": "<|system|>\nS<|end|>\n<|user|>\nA<|end|>\n<|assistant|>\nB<|end|>\n<|user|>\nC<|end|>\n<|assistant|>\n",
    "phi_4_mini": "<|system|>S<|end|><|user|>A<|end|><|assistant|>B<|end|><|user|>C<|end|><|assistant|>",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nA</s>\n<|assistant|>\nB</s>\n<|user|>\nC</s>\n<|assistant|>\n",
}


@pytest.mark.parametrize("family", FORMATS)
def test_formats_are_those_that_the_families_publish(templates: ChatTemplate, family: str) -> None:
    chat = [system("S"), user("A"), assistant("B"), user("C")]
    assert templates.render(chat, chat_template=family) == FORMATS[family]


@pytest.mark.parametrize("family", ["llama_3_1", "qwen_3", "mistral_tekken", "gemma_3", "gpt_oss"])
@pytest.mark.parametrize(
    ("last", "field"),
    [
        (assistant("an  "), True),
        (assistant("\n an"), True),
        (assistant("CONTINUE_FROM_HERE CONTINUE_FINAL_MESSAGE_TAG"), True),
        (assistant(""), True),
        (assistant(parts("one ", "two ")), True),
        (assistant(RETOLD), True),
        (assistant("so", reasoning_content="I think"), "reasoning_content"),
        (assistant("so", thinking="I think  "), "thinking"),
        (assistant("so", reasoning="<b>"), "reasoning"),
        (assistant("so"), "reasoning_content"),
        (assistant("", tool_calls=[WEATHER]), True),
        (user("and then"), True),
    ],
)
def test_continued_messages_end_where_they_end_in_transformers(
    templates: ChatTemplate, reference: PreTrainedTokenizerFast, family: str, last: Message, field: bool | str
) -> None:
    messages = [HI, last] if last["role"] == "assistant" else [HI, assistant("an"), last]
    options = {"add_generation_prompt": False, "continue_final_message": field}
    expected = expect(reference, FAMILIES[family], as_given_to_transformers(family, messages), **options)
    assert render(templates, messages, chat_template=family, **options) == expected


def test_named_templates_are_chosen_as_in_transformers() -> None:
    sources = {
        "default": FAMILIES["command_r"],
        "tool_use": FAMILIES["command_r_tool_use"],
        "rag": FAMILIES["command_r_rag"],
    }
    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_level(), **TOKENS)
    theirs.chat_template = sources
    ours = ChatTemplate(sources, **TOKENS)
    texts = []
    for options in ({}, {"tools": TOOLS}, {"documents": DOCUMENTS}, {"chat_template": "rag", "documents": DOCUMENTS}):
        expected = theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True, **options)
        assert ours.render(CHAT, **options) == expected
        texts.append(expected)
    ours.close()
    assert texts[0] == texts[2] != texts[1]
    assert "Owls fly" in texts[3]
    assert "days: Optional[List[int]] = None" in texts[1]


def test_tools_are_given_as_the_schemas_that_transformers_makes_of_functions(
    templates: ChatTemplate, reference: PreTrainedTokenizerFast
) -> None:
    def add(first: int, second: float = 1.5, mode: str | None = None) -> float:
        """Adds <two> numbers.

        Args:
            first: The first, "ä"
            second: The second
            mode: How
        """
        return first + second

    for family in ("llama_3_1", "qwen_3", "command_r_tool_use", "gpt_oss"):
        expected = expect(reference, FAMILIES[family], [HI], tools=[add], add_generation_prompt=True)
        assert expected is not None
        assert templates.render([HI], tools=[get_json_schema(add)], chat_template=family) == expected
    with pytest.raises(TemplateError, match=r"tools\[0\] must be a JSON description of a function, got function"):
        templates.render([HI], tools=[add])  # type: ignore[list-item]


def test_arguments_that_come_as_json_text_render_like_the_object(templates: ChatTemplate) -> None:
    as_text = {**WEATHER, "function": {"name": "get_weather", "arguments": '{"city": "Köln <Süd>"}'}}
    as_object = {**WEATHER, "function": {"name": "get_weather", "arguments": {"city": "Köln <Süd>"}}}
    for family in ("llama_3_1", "qwen_2_5", "mistral_v3", "hermes_tool_use"):
        texts = [
            templates.render(
                [user("?"), assistant(None, tool_calls=[made]), result("x")], tools=TOOLS, chat_template=family
            )
            for made in (as_text, as_object)
        ]
        assert texts[0] == texts[1]
        assert "Köln <Süd>" in texts[0]
