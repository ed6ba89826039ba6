"""Keys, Host header, CORS, log records, error texts: what keeps strangers out and our insides in."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from fake_client import FakeClient, calling, fake_api, serving
from multidict import CIMultiDict, CIMultiDictProxy

from pagoda.config import DeviceError, InternalError, InvalidArgument, Overloaded
from pagoda.server.app import ROUTES
from pagoda.server.errors import ApiError, clean, from_exception, show
from pagoda.server.security import PUBLIC_PATHS, KeyCheck
from pagoda.server.settings import ServerSettings

KEY = "sk-canary-4711"
PATH = "/v1/completions"


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    """Request headers."""
    return CIMultiDictProxy(CIMultiDict(pairs))


def test_every_route_but_liveness_needs_the_key() -> None:
    async def run() -> None:
        async with fake_api(api_keys=[KEY]) as (session, _), serving(api_keys=[KEY]) as (server, _other):
            routes = {
                (route.method, route.resource.canonical) for route in server.app.router.routes() if route.resource
            }
            assert {path for _, path in routes} >= {PATH, "/metrics", "/health/live", "/health/ready"}
            for method, path in sorted(routes):
                async with session.request(method, path.replace("{id}", "fake")) as response:
                    if path in PUBLIC_PATHS:
                        assert response.status == 200, path
                        continue
                    assert response.status == 401, path
                    assert response.headers["WWW-Authenticate"].startswith("Bearer")
                    if method != "HEAD":
                        assert (await response.json())["error"]["type"] == "authentication_error"
            async with session.get("/no/such/route") as response:
                assert response.status == 401
            assert sorted(PUBLIC_PATHS) == ["/health/live"]

    asyncio.run(run())


@pytest.mark.parametrize(
    "pair",
    [
        ("Authorization", f"Bearer {KEY}"),
        ("Authorization", f"bearer   {KEY}  "),
        ("x-api-key", KEY),
        ("X-API-Key", "schlüssel"),
    ],
)
def test_any_of_several_keys_is_accepted_in_either_header(pair: tuple[str, str]) -> None:
    assert KeyCheck(["other", KEY, "schlüssel"]).accepts(headers(pair))


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer")],
        [("Authorization", f"Basic {KEY}")],
        [("Authorization", KEY)],
        [("Authorization", "Bearer wröng")],
        [("Authorization", "Bearer \udcff")],
        [("Authorization", f"Bearer {KEY}x")],
        [("x-api-key", "")],
    ],
)
def test_anything_else_is_refused(pairs: list[tuple[str, str]]) -> None:
    check = KeyCheck([KEY])
    assert not check.accepts(headers(*pairs))
    with pytest.raises(ApiError, match="API key"):
        check.check(headers(*pairs))


def test_a_key_opens_the_api() -> None:
    async def run() -> None:
        async with fake_api(api_keys=[KEY]) as (session, _):
            sent = {"Authorization": f"Bearer {KEY}", "Host": "any.example"}
            async with session.post(PATH, json={"prompt": "a"}, headers=sent) as response:
                assert response.status == 200

    asyncio.run(run())


def test_the_administration_wants_a_key_of_its_own() -> None:
    async def run() -> None:
        scopes = {"api_keys": [KEY], "admin_api_keys": ["admin-1", "admin-2"]}
        async with fake_api(**scopes) as (session, _):
            for key, inference, admin in ((KEY, 200, 403), ("admin-2", 200, 200), ("no", 401, 401), (None, 401, 401)):
                sent = {} if key is None else {"Authorization": f"Bearer {key}"}
                async with session.get("/v1/models", headers=sent) as response:
                    assert response.status == inference, key
                async with session.get("/admin/trace", headers=sent) as response:
                    assert response.status == admin, key
                    if admin == 403:
                        assert (await response.json())["error"]["code"] == "insufficient_scope"
                    if admin == 401:
                        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        for settings in ({}, {"api_keys": [KEY]}):
            async with (
                fake_api(**settings) as (session, _),
                session.get("/admin/trace", headers={"x-api-key": KEY}) as response,
            ):
                assert response.status == 403
                assert (await response.json())["error"]["code"] == "admin_disabled"
        async with fake_api(admin_api_keys=["admin-1"]) as (session, _):
            async with session.get("/v1/models") as response:
                assert response.status == 200
            async with session.get("/admin/trace") as response:
                assert response.status == 401

    asyncio.run(run())


def test_the_administration_resets_the_prefix_cache() -> None:
    async def run() -> None:
        async with serving(admin_api_keys=["admin-1"]) as (server, client), calling(server) as session:
            for key, status in (("no", 401), ("admin-1", 200)):
                assert client.cache_resets == 0
                async with session.post("/admin/reset_prefix_cache", headers={"x-api-key": key}) as response:
                    assert response.status == status
            assert client.cache_resets == 1

    asyncio.run(run())


def test_every_admin_route_is_of_that_scope() -> None:
    assert (
        {route.path for route in ROUTES if route.admin}
        == {route.path for route in ROUTES if route.path.startswith("/admin")}
        >= {"/admin/trace"}
    )
    assert not any(route.admin and (route.inference or route.path in PUBLIC_PATHS) for route in ROUTES)


def test_keys_are_read_from_a_file_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# team a\n{KEY}\n\n  second  \n")
    settings = ServerSettings(api_keys=["first"], api_key_file=str(path), host="0.0.0.0")
    settings.validate()
    assert settings.keys() == ["first", KEY, "second"]
    assert "first" not in repr(settings)
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds no key"):
        settings.validate()
    with pytest.raises(ValueError, match="cannot be read"):
        ServerSettings(api_key_file=str(tmp_path / "absent")).validate()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_other_machines_are_served_only_with_a_key_or_by_explicit_wish(host: str) -> None:
    with pytest.raises(ValueError, match="no API key is set"):
        ServerSettings(host=host).validate()
    ServerSettings(host=host, api_keys=[KEY]).validate()
    ServerSettings(host=host, allow_insecure=True).validate()


def test_all_wrong_settings_are_reported_at_once() -> None:
    settings = ServerSettings(port=70000, max_logprobs=-1, cors_origins=["example.org", "null"], api_keys=[" "])
    with pytest.raises(ValueError, match="port must be in") as caught:
        settings.validate()
    text = str(caught.value)
    assert len(text.splitlines()) == 5
    assert "max_logprobs must be in [0, 64], got -1" in text
    assert "'example.org'" in text
    assert "'null'" in text


def test_a_rebound_dns_name_is_refused_when_there_is_no_key() -> None:
    async def run() -> None:
        async with fake_api(allowed_hosts=["my.box"]) as (session, _):
            for host, expected in (
                ("evil.example", 403),
                ("evil.example:8000", 403),
                ("localhost.evil.example", 403),
                ("localhost", 200),
                ("LOCALHOST:8000", 200),
                ("127.0.0.1:1", 200),
                ("[::1]:8000", 200),
                ("192.168.0.7:8000", 200),
                ("my.box:8000", 200),
            ):
                async with session.get("/v1/models", headers={"Host": host}) as response:
                    assert response.status == expected, host
                    if expected == 403:
                        assert (await response.json())["error"]["code"] == "host_not_allowed"

    asyncio.run(run())


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


def test_cross_origin_calls_are_off_by_default() -> None:
    async def run() -> None:
        async with fake_api() as (session, _):
            async with session.options(PATH, headers={"Origin": "https://a.example", **PREFLIGHT}) as response:
                assert response.status == 403
            async with session.get("/v1/models", headers={"Origin": "https://a.example"}) as response:
                assert "Access-Control-Allow-Origin" not in response.headers

    asyncio.run(run())


def test_cross_origin_calls_are_allowed_for_listed_origins_only() -> None:
    async def run() -> None:
        async with fake_api(cors_origins=["https://a.example"], api_keys=[KEY]) as (session, _):
            for origin, expected in (("https://a.example", 204), ("https://b.example", 403), ("null", 403)):
                async with session.options(PATH, headers={"Origin": origin, **PREFLIGHT}) as response:
                    assert response.status == expected, origin
                    allowed = response.headers.get("Access-Control-Allow-Origin")
                    assert allowed == (origin if expected == 204 else None)
                    assert "Access-Control-Allow-Credentials" not in response.headers
                    assert response.headers["Vary"] == "Origin"
            sent = {"Origin": "https://a.example", "x-api-key": KEY}
            async with session.get("/v1/models", headers=sent) as response:
                assert response.status == 200
                assert response.headers["Access-Control-Allow-Origin"] == "https://a.example"
            async with session.options(PATH, headers={"Origin": "https://a.example"}) as response:
                assert response.status == 401
        async with fake_api(cors_origins=["*"]) as (session, _):
            for origin, expected in (("https://b.example", 204), ("null", 403)):
                async with session.options(PATH, headers={"Origin": origin, **PREFLIGHT}) as response:
                    assert response.status == expected

    asyncio.run(run())


def test_every_answer_carries_the_security_headers() -> None:
    async def run() -> None:
        async with fake_api() as (session, _):
            for path in ("/health/live", "/metrics", "/nope", "/v1/models"):
                async with session.get(path) as response:
                    assert response.headers["Server"] == "pagoda"
                    assert response.headers["X-Content-Type-Options"] == "nosniff"
                    assert response.headers["Referrer-Policy"] == "no-referrer"
                    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
                    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]

    asyncio.run(run())


def test_a_request_id_is_taken_over_only_when_it_is_harmless() -> None:
    async def run() -> None:
        async with fake_api() as (session, _):
            async with session.get("/health", headers={"x-request-id": "abc-1.2_3"}) as response:
                assert response.headers["x-request-id"] == "abc-1.2_3"
            for bad in ("a b", "x" * 65, "a;b", "é"):
                async with session.get("/health", headers={"x-request-id": bad}) as response:
                    assert len(response.headers["x-request-id"]) == 32

    asyncio.run(run())


def test_log_records_are_one_line_without_keys_and_prompts(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with fake_api(api_keys=[KEY]) as (session, _):
            sent = {"Authorization": f"Bearer {KEY}"}
            async with session.get("/x%0d%0aFAKE%1b[31m", headers=sent) as response:
                assert response.status == 404
            body = {"prompt": "my-secret-prompt", "user": "u\r\nFAKE", "model": "m\r\nFAKE"}
            async with session.post(PATH, json=body, headers=sent) as response:
                assert response.status == 404

    with caplog.at_level(logging.DEBUG, logger="pagoda"):
        asyncio.run(run())
    records = [record for record in caplog.records if record.name.startswith("pagoda")]
    assert len(records) == 2
    for record in records:
        text = record.getMessage()
        assert text.isprintable()
        assert KEY not in text
        assert "my-secret-prompt" not in text
    assert r"/x\r\nFAKE\x1b[31m 404" in records[0].getMessage()


def test_the_access_log_can_be_turned_off(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with fake_api(access_log=False) as (session, _), session.get("/health") as response:
            assert response.status == 200

    with caplog.at_level(logging.DEBUG, logger="pagoda"):
        asyncio.run(run())
    assert not [record for record in caplog.records if record.name == "pagoda.server.access"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidArgument("prompt must have fewer tokens"), 400, "invalid_value"),
        (Overloaded("the waiting queue is full (1024 requests)"), 429, "overloaded"),
        (DeviceError("cuda error 700 at /src/x.cu"), 503, "engine_unavailable"),
        (InternalError("bad state at 0x7ffe12345678"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_engines_refusals_have_their_status_even_for_streams(
    error: Exception, status: int, code: str, stream: bool
) -> None:
    async def run() -> tuple[int, Any, Any]:
        client = FakeClient()
        client.refusal = error
        async with fake_api(client) as (session, _):
            body = {"prompt": ["a", "b"], "stream": stream}
            async with session.post(PATH, json=body) as response:
                return response.status, await response.json(), response.headers

    got, answer, sent = asyncio.run(run())
    assert got == status
    assert answer["error"]["code"] == code
    if status == 429:
        assert int(sent["Retry-After"]) >= 1
    if status >= 500:
        assert str(error) not in answer["error"]["message"]


def test_an_engine_text_names_its_parameter() -> None:
    known = from_exception(InvalidArgument("top_p must be in (0, 1], got 1.5"))
    assert known is not None
    assert (known.status, known.param) == (400, "top_p")
    assert from_exception(KeyError("x")) is None


def test_error_texts_lose_paths_and_addresses_and_excess() -> None:
    text = clean("open /home/me/model.gguf failed at 0x7f00deadbeef\n\x1b[31m" + "x" * 5000)
    assert "/home" not in text
    assert "0x7f" not in text
    assert text.isprintable()
    assert len(text) <= 480
    assert clean("use /v1/completions and 1/2") == "use /v1/completions and 1/2"


def test_echoed_values_are_short() -> None:
    for value in ("x" * 10**6, list(range(10**5)), {"a": 1}, 10**5000, ["y" * 10**6], [10**5000], None, [[[]]], 1.5):
        assert len(show(value)) <= 64
