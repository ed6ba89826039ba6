"""Every request field's bad values get a 400 that names the field, in OpenAI's error body; good edge values pass."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import aiohttp
import pytest
from fake_client import ByteTokenizer, FakeClient, fake_api

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]


def post(path: str, body: dict[str, Any], **settings: Any) -> tuple[int, dict[str, Any], Any]:
    """Status, JSON body and headers of one request to a fresh server with a 64-token context."""

    async def run() -> tuple[int, dict[str, Any], Any]:
        async with fake_api(FakeClient(max_model_len=64), **settings) as (session, client):
            base = {"prompt": "hi"} if path == COMPLETIONS else {"messages": USER}
            async with session.post(path, json={"max_tokens": 2} | base | body) as response:
                answer = await response.json() if response.content_type == "application/json" else {}
                await response.read()
            assert client.running == 0
            return response.status, answer, response.headers

    return asyncio.run(run())


def check_error(answer: dict[str, Any], param: str | None, code: str | None = None) -> None:
    """The body has OpenAI's shape, is small, and tells nothing about our insides."""
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    text = json.dumps(answer)
    assert len(text) <= 1024
    assert "Traceback" not in text
    assert ".py" not in text
    assert "0x" not in text
    assert answer["error"]["param"] == param, answer
    if code is not None:
        assert answer["error"]["code"] == code


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((path, {"n": value}, "n") for path in (COMPLETIONS, CHAT) for value in (0, -1, 10**9, 2**63, 1.5, "2", True)),
    *((COMPLETIONS, {"best_of": value}, "best_of") for value in (0, -1, 2, 10**9, 2**63, 1.5, "2", True)),
    *((CHAT, {"n": value}, "n") for value in (129, 10**400)),
    *((CHAT, {"max_tokens": value}, "max_tokens") for value in (0, -1, "5", 2.0, 10**400)),
    *((COMPLETIONS, {"max_tokens": value}, "max_tokens") for value in (0, -1, 10**400)),
    *((COMPLETIONS, {"max_tokens": value, "echo": True}, "max_tokens") for value in (-1, 10**400)),
    (COMPLETIONS, {"max_tokens": 2**31}, "prompt"),
    (CHAT, {"max_tokens": 2**31}, "messages"),
    (CHAT, {"max_completion_tokens": 2**31, "max_tokens": None}, "messages"),
    *(
        (CHAT, {"max_completion_tokens": value, "max_tokens": None}, "max_completion_tokens")
        for value in (0, -1, 1.5, 10**400)
    ),
    (CHAT, {"max_completion_tokens": 3, "max_tokens": 4}, "max_completion_tokens"),
    *((CHAT, {"temperature": value}, "temperature") for value in (-0.1, 2.1, 1e30, "hot", True, 10**400)),
    *((CHAT, {"top_p": value}, "top_p") for value in (0, -1, 1.0001)),
    *((CHAT, {"min_p": value}, "min_p") for value in (-0.1, 1.1)),
    *((CHAT, {"top_k": value}, "top_k") for value in (-2, 1.5, "1")),
    *((COMPLETIONS, {"logprobs": value}, "logprobs") for value in (-1, 21, 10**6, True)),
    *((COMPLETIONS, {"prompt_logprobs": value}, "prompt_logprobs") for value in (-1, 21)),
    *((CHAT, {"logprobs": True, "top_logprobs": value}, "top_logprobs") for value in (-1, 21, 10**6, 259)),
    (CHAT, {"top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"logprobs": 2}, "logprobs"),
    *(
        (CHAT, {"logit_bias": value}, "logit_bias")
        for value in (
            {"-1": 1},
            {"999999": 1},
            {"foo": 1},
            {"²": 1},
            [],
            {"1": "x"},
            {str(i): 1 for i in range(100_000)},
        )
    ),
    *((CHAT, {"stop": value}, "stop") for value in (5, ["x"] * 17, ["x"] * 10_000, {"a": 1})),
    *((CHAT, {"stop": value}, "stop[0]") for value in ([""], "", [5], ["x" * 257], "x" * 1_000_000)),
    *((CHAT, {name: []}, name) for name in ("stop_token_ids", "allowed_token_ids")),
    *(
        (CHAT, {name: [value]}, name)
        for name in ("stop_token_ids", "allowed_token_ids")
        for value in (-1, 258, 1.5, True)
    ),
    (CHAT, {"stop_token_ids": list(range(129))}, "stop_token_ids"),
    (CHAT, {"allowed_token_ids": [0] * 259}, "allowed_token_ids"),
    *((CHAT, {"bad_words": value}, "bad_words[0]") for value in ([""], [1])),
    *((CHAT, {"seed": value}, "seed") for value in (2**64, "a", 1.5, -(2**63) - 1)),
    *(
        (CHAT, {name: value}, name)
        for name in ("frequency_penalty", "presence_penalty")
        for value in (2.01, -2.01, "x")
    ),
    *((CHAT, {"repetition_penalty": value}, "repetition_penalty") for value in (0, -1)),
    *((CHAT, {"cache_salt": value}, "cache_salt") for value in ("", "x" * 257, 1)),
    *((CHAT, {"priority": value}, "priority") for value in (2**40, "high")),
    *((CHAT, {"min_tokens": value}, "min_tokens") for value in (-1, "1")),
    *((CHAT, {"stream": value}, "stream") for value in ("yes", 1)),
    (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, {"stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
    (CHAT, {"stream": True, "stream_options": []}, "stream_options"),
    (CHAT, {"stream": True, "stream_options": {"continuous_usage_stats": "yes"}}, "stream_options"),
    *((CHAT, {"truncate_prompt_tokens": value}, "truncate_prompt_tokens") for value in (0, -2, 1.5, "3", True)),
    *((CHAT, {"timeout_s": value}, "timeout_s") for value in (0, -1, 10**9, "1")),
    *((CHAT, {name: value}, name) for name, value in (("ignore_eos", 1), ("skip_special_tokens", "no"), ("user", 7))),
    (CHAT, {"structured_outputs": {"json": {}}}, "structured_outputs"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"audio": {"voice": "x"}}, "audio"),
    (CHAT, {"modalities": ["audio"]}, "modalities"),
    (CHAT, {"chat_template": "{{ 1 }}"}, "chat_template"),
    (CHAT, {"logit_processors": ["x"]}, "logit_processors"),
    (COMPLETIONS, {"suffix": "x"}, "suffix"),
    (COMPLETIONS, {"prompt_embeds": "x"}, "prompt_embeds"),
    *(
        (CHAT, {"chat_template_kwargs": value}, "chat_template_kwargs")
        for value in ({"tokenize": True}, {"messages": []}, {"chat_template": "x"}, {"tokenizer": 1}, {"a-b": 1}, [])
    ),
    (CHAT, {"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
    *((COMPLETIONS, {"prompt": value}, "prompt") for value in (None, [], [[]], 5, {"a": 1}, [[1], []])),
    *((COMPLETIONS, {"prompt": [value]}, "prompt") for value in (-1, 258, 2**31, 1.5, True, None)),
    *((COMPLETIONS, {"prompt": value}, "prompt") for value in ([1, "a"], ["a", 1], [[1, [2]]], [[1], "a"])),
    (COMPLETIONS, {"prompt": "", "add_special_tokens": False}, "prompt"),
    (COMPLETIONS, {"prompt": ["a"] * 129}, "prompt"),
    (COMPLETIONS, {"prompt": ["a", "b"], "n": 65}, "prompt"),
    *((CHAT, {"messages": value}, "messages") for value in (None, [], "hi", {"role": "user"}, USER * 4097)),
    (CHAT, {"messages": [*USER, 5]}, "messages[1]"),
    (CHAT, {"messages": [*USER, {"role": "king", "content": "x"}]}, "messages[1].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    *((CHAT, {"messages": [{"role": "user", "content": value}]}, "messages[0].content") for value in (5, None)),
    (CHAT, {"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    (CHAT, {"messages": [*USER, *USER, *USER, {"role": 5, "content": "x"}]}, "messages[3].role"),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}
            ]
        },
        "messages[0].content[0].type",
    ),
]


def test_bad_values_get_a_400_that_names_the_field() -> None:
    async def run() -> None:
        async with fake_api(FakeClient(max_model_len=64)) as (session, client):
            for path, body, param in REFUSED:
                base = {"prompt": "hi"} if path == COMPLETIONS else {"messages": USER}
                async with session.post(path, json={"max_tokens": 2} | base | body) as response:
                    answer = await response.json()
                assert response.status == 400, (path, str(body)[:200], answer)
                check_error(answer, param)
                assert answer["error"]["type"] == "invalid_request_error"
                assert response.headers["x-request-id"]
            assert client.started == 0

    asyncio.run(run())


ALL_CHARS = "".join(map(chr, range(256)))
ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    *((CHAT, {"temperature": value}) for value in (0, 1e-9, 2, None)),
    *((CHAT, {"top_p": value}) for value in (1, 1e-12)),
    *((CHAT, {"top_k": value}) for value in (-1, 0, 1, 258, 259, 10**9)),
    *((CHAT, {"seed": value}) for value in (-9007199254740991, 2**63 - 1, None)),
    (CHAT, {"logit_bias": {"5": 1e30, "6": -1e30}}),
    (CHAT, {"stop": []}),
    (CHAT, {"stop": ["x"] * 16}),
    (CHAT, {"response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "modalities": ["text"]}),
    (CHAT, {"user": "me", "metadata": {}, "store": False}),
    *((COMPLETIONS, {"truncate_prompt_tokens": value}) for value in (-1, 1, 3, 10**6, None)),
    (CHAT, {"messages": [{"role": "developer", "content": "be short"}, *USER]}),
    (CHAT, {"stream": True, "stream_options": {"include_usage": None, "continuous_usage_stats": True}}),
    (CHAT, {"max_completion_tokens": 2, "max_tokens": 2}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}),
    (CHAT, {"messages": [*USER, {"role": "system", "content": "late"}]}),
    (COMPLETIONS, {"best_of": 2, "n": 2}),
    (COMPLETIONS, {"suffix": ""}),
    (COMPLETIONS, {"prompt": "a\x00b \u202e " + "z" * 20}),
    *((COMPLETIONS, {"prompt": text, "truncate_prompt_tokens": 8}) for text in (ALL_CHARS, list(range(256)))),
    *((COMPLETIONS, {"prompt": empty}) for empty in ("", [""])),  # the token for the beginning alone
]


def test_edge_values_are_accepted() -> None:
    async def run() -> None:
        async with fake_api(FakeClient(max_model_len=64)) as (session, client):
            for path, body in ACCEPTED:
                base = {"prompt": "hi"} if path == COMPLETIONS else {"messages": USER}
                async with session.post(path, json={"max_tokens": 2} | base | body) as response:
                    assert response.status == 200, (body, await response.text())
                    assert "x-pagoda-warning" not in response.headers, body
            biased = next(params for _, params in client.requests if params.logit_bias)
            assert dict(biased.logit_bias) == {5: 100.0, 6: -100.0}
            assert max(params.top_k for _, params in client.requests) == 258

    asyncio.run(run())


def test_an_unknown_field_gets_a_warning_header_with_a_suggestion() -> None:
    status, _, headers = post(CHAT, {"temprature": 1, 'x\r\ny"': 1, "é" * 1000: 1})
    assert status == 200
    assert headers["x-pagoda-ignored"].startswith(r'temprature, "x\r\ny\"", "\u00e9')
    assert len(headers["x-pagoda-ignored"]) < 200
    assert 'unknown field "temprature" was ignored; did you mean temperature?' in headers["x-pagoda-warning"]
    assert "\r" not in headers["x-pagoda-warning"]


def test_a_field_of_openais_bookkeeping_is_named_in_the_headers_and_strict_takes_it() -> None:
    for strict in (False, True):
        body = {"service_tier": "priority", "stream": True, "stream_options": {"include_obfuscation": False}}
        status, _, headers = post(CHAT, body, strict=strict)
        assert status == 200
        assert headers["x-pagoda-ignored"] == "service_tier, stream_options.include_obfuscation"
        assert headers["x-pagoda-warning"].startswith("service_tier has no effect here; ")


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b", "foo": 1}]},
            "messages[1].foo",
        ),
    ],
)
def test_an_unknown_field_inside_another_is_named_and_refused_when_strict(more: dict[str, Any], name: str) -> None:
    status, _, headers = post(CHAT, {"max_tokens": 1, **more})
    assert status == 200
    assert name in headers["x-pagoda-ignored"]
    status, answer, _ = post(CHAT, more, strict=True)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, name, "unknown_parameter")


def test_an_unknown_field_is_refused_when_strict() -> None:
    status, answer, _ = post(CHAT, {"temprature": 1}, strict=True)
    assert status == 400
    check_error(answer, "temprature", "unknown_parameter")


def test_a_prompt_that_leaves_room_for_one_token_fits() -> None:
    for length, expected in ((62, 200), (63, 200), (64, 400), (65, 400)):
        status, answer, _ = post(COMPLETIONS, {"prompt": [7] * length, "max_tokens": None})
        assert status == expected, (length, answer)
        if expected == 200:
            assert answer["usage"]["completion_tokens"] == 64 - length
        else:
            check_error(answer, "prompt", "context_length_exceeded")


def test_prompt_and_max_tokens_together_must_fit_the_context() -> None:
    status, answer, _ = post(COMPLETIONS, {"prompt": [7] * 60, "max_tokens": 5})
    assert status == 400
    check_error(answer, "prompt", "context_length_exceeded")
    assert answer["error"]["message"].startswith(
        "This model's maximum context length is 64 tokens. However, your request has 65 tokens"
    )
    assert post(COMPLETIONS, {"prompt": [7] * 60, "max_tokens": 4})[0] == 200


def test_a_chat_without_max_tokens_may_use_the_rest_of_the_context() -> None:
    status, answer, _ = post(CHAT, {"max_tokens": None})
    assert status == 200
    assert answer["usage"]["total_tokens"] == 64


def test_a_huge_prompt_is_refused_before_it_is_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(self: object, *args: Any, **kwargs: Any) -> list[int]:
        raise AssertionError("the prompt was tokenised")

    monkeypatch.setattr("fake_client.ByteTokenizer.encode", encode)
    status, answer, _ = post(COMPLETIONS, {"prompt": "x" * 10_000_000})
    assert status == 400
    check_error(answer, "prompt", "context_length_exceeded")
    status, answer, _ = post(CHAT, {"messages": [{"role": "user", "content": "x" * 10_000_000}]})
    assert status == 400
    check_error(answer, "messages", "context_length_exceeded")


def test_prompts_are_tokenised_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded_in: list[str] = []
    encode, protected = ByteTokenizer.encode, ByteTokenizer.encode_protected

    def noted(plain: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> list[int]:
            encoded_in.append(threading.current_thread().name)
            return list(plain(*args, **kwargs))

        return run

    monkeypatch.setattr(ByteTokenizer, "encode", noted(encode))
    monkeypatch.setattr(ByteTokenizer, "encode_protected", noted(protected))
    assert post(COMPLETIONS, {})[0] == post(CHAT, {})[0] == 200
    assert len(encoded_in) == 2
    assert threading.current_thread().name not in encoded_in


def test_the_operators_defaults_stand_between_the_models_and_the_requests() -> None:
    async def run() -> None:
        client = FakeClient()
        client.default_params = {"temperature": 0.1, "top_p": 0.5, "max_tokens": 3, "no_such": 1}
        async with fake_api(client, {"temperature": 0.25, "min_p": 0.05}) as (session, _):
            for body in ({}, {"temperature": 0.75, "max_tokens": 2}):
                async with session.post(COMPLETIONS, json={"prompt": "abc", **body}) as response:
                    assert response.status == 200
            (_, first), (_, second) = client.requests
            assert (first.temperature, first.top_p, first.max_tokens) == (0.25, 0.5, 3)
            assert first.min_p == second.min_p == 0.05
            assert (second.temperature, second.top_p, second.max_tokens) == (0.75, 0.5, 2)

    asyncio.run(run())


def test_another_models_name_is_not_found() -> None:
    for model in ("gpt-4", "../../etc/passwd", "x" * 500):
        status, answer, _ = post(CHAT, {"model": model})
        assert status == 404
        check_error(answer, "model", "model_not_found")
    assert post(CHAT, {"model": "fake"})[0] == 200


def test_a_template_that_refuses_its_messages_is_a_400() -> None:
    status, answer, _ = post(CHAT, {"messages": [*USER, {"role": "tool", "content": "x", "tool_call_id": "1"}]})
    assert status == 400
    check_error(answer, "messages", "template_error")
    assert "no tools here" in answer["error"]["message"]


def test_models_without_tokenizer_or_template_say_so() -> None:
    async def run() -> None:
        client = FakeClient()
        client.chat_template = None
        async with fake_api(client) as (session, _):
            async with session.post(CHAT, json={"messages": USER}) as response:
                assert response.status == 400
                answer = await response.json()
                check_error(answer, "messages", "no_chat_template")
                assert "use /v1/completions or set model.chat_template" in answer["error"]["message"]
            client.tokenizer = None
            async with session.post(COMPLETIONS, json={"prompt": "hi"}) as response:
                assert response.status == 400
                check_error(await response.json(), "prompt", "no_tokenizer")
            async with session.post(COMPLETIONS, json={"prompt": [104, 105], "logprobs": 1, "echo": True}) as response:
                assert response.status == 200
                tokens = (await response.json())["choices"][0]["logprobs"]["tokens"]
                assert tokens[:2] == ["token_id:104", "token_id:105"]

    asyncio.run(run())


async def _raw(session: aiohttp.ClientSession, data: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.post(CHAT, data=data, headers=sent) as response:
        assert response.headers["Content-Type"].startswith("application/json")
        return response.status, await response.json()


BAD_JSON = [
    b"{",
    b"",
    b"nul",
    b"{'a': 1}",
    b'{"a": 1,}',
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    b'{"seed": ' + b"9" * 5000 + b"}",
    b'{"temperature": NaN}',
    b'{"temperature": -Infinity}',
    b'{"temperature": 1e999}',
    b'{"user": "\\ud800"}',
    b'{"user": "\xed\xa0\x80"}',
    b'{"user": "\xff"}',
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b"[]",
    b"42",
    b'"x"',
    b"null",
    b"true",
]


def test_bodies_that_are_not_one_json_object_are_refused() -> None:
    async def run() -> None:
        async with fake_api() as (session, client):
            for body in BAD_JSON:
                status, answer = await _raw(session, body)
                assert status == 400, body[:40]
                check_error(answer, None, "invalid_json")
            status, answer = await _raw(session, b'{"messages": [}')
            assert "line 1 column 15" in answer["error"]["message"]
            status, answer = await _raw(session, b"[1]")
            assert answer["error"]["message"] == "The request body must be a JSON object."
            assert client.started == 0

    asyncio.run(run())


def test_the_last_of_repeated_keys_counts_and_escaped_pairs_are_text() -> None:
    async def run() -> None:
        async with fake_api() as (session, client):
            body = b'{"messages":[{"role":"user","content":"\\ud83d\\ude00"}],"max_tokens":5,"max_tokens":1}'
            status, answer = await _raw(session, body)
            assert status == 200
            assert answer["usage"]["completion_tokens"] == 1
            assert bytes(t for t in client.requests[0][0] if t < 256).decode() == "user:😀assistant:"

    asyncio.run(run())


def test_only_uncompressed_json_is_read() -> None:
    async def run() -> None:
        async with fake_api() as (session, _):
            good = json.dumps({"messages": USER, "max_tokens": 1}).encode()
            for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"):
                status, answer = await _raw(session, good, Content_Type=kind)
                assert status == 415, kind
                check_error(answer, None, "unsupported_media_type")
            status, answer = await _raw(session, b"\x1f\x8b\x08", Content_Encoding="gzip")
            assert status == 415
            check_error(answer, None, "unsupported_content_encoding")
            assert (await _raw(session, good, Content_Type="application/json; charset=UTF-8"))[0] == 200

    asyncio.run(run())


def test_a_body_beyond_the_limit_is_refused_with_and_without_a_length() -> None:
    async def chunks(size: int) -> Any:
        for _ in range(size // 512):
            yield b" " * 512

    async def run() -> None:
        async with fake_api(max_body_bytes=4096) as (session, _):
            for data in (b" " * 4097, chunks(8192)):
                status, answer = await _raw(session, data)
                assert status == 413
                check_error(answer, None, "body_too_large")
                assert "4096" in answer["error"]["message"]
            fitting = json.dumps({"messages": USER, "max_tokens": 1}).encode().ljust(4096)
            assert (await _raw(session, fitting))[0] == 200

    asyncio.run(run())


def test_unknown_routes_and_methods_have_error_bodies() -> None:
    async def run() -> None:
        async with fake_api() as (session, _):
            for path in ("/nope", "/v1", "/ui/../../etc/passwd", "/%2e%2e/etc/passwd", "/v1/models/..%2fx"):
                async with session.get(path) as response:
                    assert response.status == 404, path
                    answer = await response.json()
                    check_error(answer, None if "models" not in path else "model")
                    assert answer["error"]["type"] == "not_found_error"
            async with session.get(CHAT) as response:
                assert response.status == 405
                assert response.headers["Allow"] == "POST"
                check_error(await response.json(), None, "method_not_allowed")
            async with session.put("/v1/models", json={}) as response:
                assert response.status == 405
                assert "GET" in response.headers["Allow"]

    asyncio.run(run())
