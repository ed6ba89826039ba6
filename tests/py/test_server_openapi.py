"""The OpenAPI document is true: a seeded schemathesis run against a server, and checks of the document itself."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus

import pytest
import schemathesis
from fake_client import FakeClient, fake_api, serving
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pagoda.server import embeddings, protocol
from pagoda.server.app import ROUTES
from pagoda.server.openapi import document, field_schema
from pagoda.server.settings import ServerSettings
from pagoda.server.state import ServerState

LIMITS = asyncio.run(asyncio.to_thread(lambda: ServerState(FakeClient(), ServerSettings()).limits))  # type: ignore[arg-type]
DOCUMENT = document(ROUTES, LIMITS, "1.0")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with a short context on a thread of its own."""
    started, address = threading.Event(), ""
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def run() -> None:
        nonlocal address
        async with serving(FakeClient(max_model_len=256)) as (server, _):
            address = server.url
            started.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert started.wait(20)
    yield address
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()


OPERATIONS = {found.ok().label: found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()}
CHANGED_BY_POST = [
    label for label in OPERATIONS if label.startswith("POST") and "/admin" not in label and "{id" not in label
]
bounded = settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
#: Requests made from the document are served here, or the tests would see refusals only.
SERVED = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")
SERVED += ("/tokenize", "/detokenize", "/v1/models", "/metrics")


def check(case: schemathesis.Case, url: str) -> int:
    """Sends a request and compares the answer with the document. Returns the status."""
    if isinstance(case.body, dict) and isinstance(case.body.get("n"), int):
        case.body["n"] = min(case.body["n"], 4)  # the schema allows 128: true, but slow
    response = case.call(base_url=url, timeout=20)
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    if response.status_code == HTTPStatus.GATEWAY_TIMEOUT:  # what a short timeout_s asks for
        assert case.body["timeout_s"] < 20
        assert response.json()["error"]["code"] == "timeout"
    else:
        checks.append(not_a_server_error)
    case.validate_response(response, checks=checks)
    return int(response.status_code)


@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_as_the_document_says(label: str, url: str) -> None:
    statuses: Counter[int] = Counter()

    @bounded
    @given(OPERATIONS[label].as_strategy(GenerationMode.POSITIVE))
    def run(case: schemathesis.Case) -> None:
        statuses[check(case, url)] += 1

    run()
    assert statuses[200] > 0 or OPERATIONS[label].path not in SERVED, statuses


@pytest.mark.parametrize("label", CHANGED_BY_POST)
def test_a_request_that_the_document_excludes_is_no_server_error(label: str, url: str) -> None:
    @bounded
    @given(OPERATIONS[label].as_strategy(GenerationMode.NEGATIVE))
    def run(case: schemathesis.Case) -> None:
        check(case, url)

    run()


def test_the_document_is_served_and_has_every_route() -> None:
    async def run() -> dict[str, dict[str, object]]:
        async with fake_api() as (session, _), session.get("/openapi.json") as response:
            assert response.status == 200
            return (await response.json())["paths"]

    paths = asyncio.run(run())
    assert sum(len(operations) for operations in paths.values()) == len(ROUTES)
    assert "/v1/models/{id}" in paths
    names = [operation["operationId"] for operations in DOCUMENT["paths"].values() for operation in operations.values()]
    assert len(names) == len(set(names))
    assert all(operation["summary"] for operations in DOCUMENT["paths"].values() for operation in operations.values())


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(DOCUMENT)
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in DOCUMENT["components"]["schemas"]


@pytest.mark.parametrize(
    "table",
    [protocol.SAMPLING, protocol.COMMON, protocol.COMPLETION_ONLY, protocol.CHAT_ONLY, embeddings.FIELDS],
)
def test_every_field_has_a_type_and_a_text(table: dict[str, protocol.Kind]) -> None:
    for name, kind in table.items():
        described = field_schema(name, kind, LIMITS)
        assert described.keys() & {"type", "anyOf", "oneOf"}, name
        assert described["description"], name


def test_ranges_of_sampling_parameters_are_those_of_the_engine() -> None:
    described = DOCUMENT["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    ranges = {
        name: {key: field[key] for key in ("minimum", "exclusiveMinimum", "maximum") if key in field}
        for name, field in described["properties"].items()
    }
    assert ranges["temperature"] == {"minimum": 0, "maximum": 2}
    assert ranges["top_p"] == {"exclusiveMinimum": 0, "maximum": 1}
    assert ranges["top_k"] == {"minimum": -1}
    assert ranges["n"] == {"minimum": 1, "maximum": 128}
    assert ranges["logprobs"] == {"minimum": 0, "maximum": 20}
    assert ranges["seed"] == {}
    assert described["properties"]["temperature"]["type"] == ["number", "null"]
    assert described["properties"]["stop"]["anyOf"][1]["maxItems"] == 16
    assert described["required"] == ["prompt"]
