"""Message validation: the shape templates read, and errors that name the place."""

from __future__ import annotations

from typing import Any

import pytest

from pagoda.chat_template import TemplateError, validate_messages

USER = {"role": "user", "content": "hi"}


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def test_good_messages_pass_unchanged() -> None:
    messages = [{"role": "system", "content": ""}, USER, {"role": "tool", "content": "42", "tool_call_id": "1"}]
    assert validate_messages(messages) == messages


def test_an_assistants_refusal_is_its_text() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "I will not."}
    assert validate_messages([refused])[0]["content"] == "I will not."
    part = {"type": "refusal", "refusal": "I will not."}
    (message,) = validate_messages([{"role": "assistant", "content": [part]}])
    assert message["content"] == [{"type": "text", "text": "I will not."}]
    with pytest.raises(TemplateError, match="got 'refusal'"):
        validate_messages([{"role": "user", "content": [part]}])


def test_text_parts_are_kept_and_reduced_to_their_text() -> None:
    content = [{"type": "text", "text": "a", "cache_control": {}}]
    assert validate_messages([{**USER, "content": content}])[0]["content"] == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
def test_tool_call_arguments_become_an_object(arguments: Any) -> None:
    message = validate_messages([call(arguments)])[0]
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert message["content"] == ""


@pytest.mark.parametrize(
    ("messages", "param", "text"),
    [
        (None, "messages", "must be a list, got null"),
        ("hi", "messages", "must be a list, got a string"),
        ([], "messages", "at least one message"),
        ([USER, 3], "messages[1]", "must be an object with role and content, got the number 3"),
        ([USER] * 3 + [{"role": "robot", "content": ""}], "messages[3].role", "one of system, .*, got 'robot'"),
        ([{"content": "x"}], "messages[0].role", "got null"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role", "got a list"),
        ([{"role": "user"}], "messages[0].content", "got null"),
        ([{"role": "assistant", "content": None}], "messages[0].content", "got null"),
        ([{"role": "user", "content": 3}], "messages[0].content", "got the number 3"),
        ([{"role": "user", "content": True}], "messages[0].content", "got a boolean"),
        ([{"role": "user", "content": []}], "messages[0].content", r"non-empty list of text parts, got \[\]"),
        ([{"role": "user", "content": ["a"]}], "messages[0].content[0]", "must be an object, got a string"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type", "'image_url'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "got null"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id", "is missing"),
        ([{**USER, "name": 3}], "messages[0].name", "must be a string"),
        ([{**USER, "tool_calls": []}], "messages[0].tool_calls", "assistant messages only"),
        ([{**call({}), "tool_calls": {}, "content": ""}], "messages[0].tool_calls", "must be a list, got an object"),
        ([{**call({}), "tool_calls": [3]}], "messages[0].tool_calls[0].function", "must be an object"),
        ([call("{")], "messages[0].tool_calls[0].function.arguments", "must be a JSON object"),
        ([call("[1]")], "messages[0].tool_calls[0].function.arguments", "must be a JSON object"),
    ],
)
def test_errors_name_the_message_and_the_field(messages: Any, param: str, text: str) -> None:
    with pytest.raises(TemplateError, match=text) as caught:
        validate_messages(messages)
    assert caught.value.param == param
    assert str(caught.value).startswith(param)
