"""Random bodies: a parser either takes a body or answers 400 naming a field; it never fails in another way."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.server import adapter, embeddings, messages_body, protocol, responses_body
from pagoda.server.errors import ApiError
from pagoda.server.field_kinds import Limits

MESSAGES_FIELDS = sorted({*messages_body.TRANSLATED, *adapter.CHAT_ONLY, "temperature", "top_k", "strange"})
RESPONSES_FIELDS = sorted({*responses_body.TRANSLATED, *adapter.CHAT_ONLY, "temperature", "user", "strange"})
LIMITS = Limits(vocab_size=300, max_choices=128, max_logprobs=20, max_messages=16, max_timeout_s=60)
CHAT_FIELDS = sorted({*protocol.SAMPLING, *protocol.COMMON, *protocol.CHAT_ONLY, *protocol.UNSUPPORTED, "strange"})
COMPLETION_FIELDS = sorted({*protocol.SAMPLING, *protocol.COMMON, *protocol.COMPLETION_ONLY, *protocol.UNSUPPORTED})

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 400),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-3, 3),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("0123456789ab", max_size=4), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "x"]), "content": st.text(max_size=4) | VALUES}),
    max_size=3,
)


def refusal(parse: Any, body: dict[str, Any]) -> ApiError | None:
    """The error that the body is answered with, if any."""
    try:
        parsed = parse(body, LIMITS)
        protocol.make_params({**parsed.sampling, "max_tokens": None}, {}, LIMITS.vocab_size)
    except ApiError as error:
        return error
    return None


def check(parse: Any, body: dict[str, Any]) -> None:
    """The outcome is a request whose sampling parameters can be made, or a small 400 that names a field."""
    error = refusal(parse, body)
    if error is not None:
        assert error.status == 400
        assert error.param is not None
        assert error.param.split("[")[0].split(".")[0] in {*body, "messages", "prompt"}
        assert len(json.dumps(error.body())) <= 1024


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(CHAT_FIELDS), VALUES, max_size=4), MESSAGES)
def test_a_chat_body_is_taken_or_refused_by_name(body: dict[str, Any], messages: list[Any]) -> None:
    check(protocol.parse_chat, {"messages": messages} | body)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(COMPLETION_FIELDS), VALUES, max_size=4), VALUES)
def test_a_completion_body_is_taken_or_refused_by_name(body: dict[str, Any], prompt: Any) -> None:
    check(protocol.parse_completion, {"prompt": prompt} | body)


def through_chat(translate: Any) -> Any:
    """A parser of another API's bodies."""

    def parse(body: dict[str, Any], limits: Limits) -> Any:
        made = translate(body)
        with made.own_names():
            return protocol.parse_chat(made.chat(), limits)

    return parse


ITEMS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "x"])},
        optional={
            "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "tool_use"]),
            "content": st.text(max_size=4)
            | VALUES
            | st.lists(st.fixed_dictionaries({"type": st.text(), "text": VALUES})),
            "call_id": VALUES,
            "name": VALUES,
            "arguments": st.sampled_from(["{}", "[", 5]),
            "output": VALUES,
        },
    ),
    max_size=3,
)


def check_adapter(translate: Any, body: dict[str, Any]) -> None:
    """The outcome is a chat request, or a small 400 that names a field of the caller's."""
    error = refusal(through_chat(translate), body)
    if error is not None:
        assert error.status == 400
        assert error.param is not None
        assert error.param.split("[")[0].split(".")[0] in {*body, "max_tokens", "messages", "input"}, error.param
        assert len(json.dumps(error.body())) <= 1024


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(MESSAGES_FIELDS), VALUES, max_size=3), ITEMS)
def test_a_messages_body_is_taken_or_refused_by_name(body: dict[str, Any], turns: list[Any]) -> None:
    check_adapter(messages_body.translate, {"messages": turns, "max_tokens": 4} | body)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(RESPONSES_FIELDS), VALUES, max_size=3), ITEMS)
def test_a_responses_body_is_taken_or_refused_by_name(body: dict[str, Any], items: list[Any]) -> None:
    check_adapter(responses_body.translate, {"input": items} | body)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(embeddings.FIELDS)), VALUES, max_size=4))
def test_an_embeddings_body_is_taken_or_refused_by_name(body: dict[str, Any]) -> None:
    error = refusal(lambda body, limits: embeddings.parse_embedding(body, limits, 64, strict=True).prompt, body)
    if error is not None:
        assert error.status == 400
        assert error.param is not None
        assert error.param.split("[")[0] in {*body, "input", "prompt"}
