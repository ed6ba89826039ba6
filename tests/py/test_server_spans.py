"""OpenTelemetry: a span for each inference request below the caller's, the phases of its choices below that."""

from __future__ import annotations

import asyncio
import builtins
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from fake_client import FakeClient, calling, fake_api, serving
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pagoda.server.settings import ServerSettings
from pagoda.server.spans import Spans, otlp_exporter

PATH = "/v1/completions"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class TimedClient(FakeClient):
    """Has the same timelines for every request."""

    def timelines(self, request_id: str | None = None) -> list[dict[str, Any]]:
        """Those of the two choices."""
        return super().timelines("cmpl-1")


def test_a_request_is_a_span_with_its_phases_below() -> None:
    exporter = InMemorySpanExporter()

    async def run() -> None:
        async with serving(TimedClient()) as (server, client), calling(server) as session:
            server.state.spans = Spans(client, "1.0", exporter)  # type: ignore[arg-type]
            traceparent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            async with session.post(PATH, json={"prompt": "secret"}, headers=traceparent) as response:
                answer = await response.json()
            async with session.post(PATH, json={"prompt": "a", "n": 0}) as response:
                assert response.status == 400
            async with session.get("/v1/models") as response:
                assert response.status == 200
            client.raise_at = (0, RuntimeError("broken"))
            async with session.post(PATH, json={"prompt": "a"}) as response:
                assert response.status == 500
            server.state.spans.close()
            server.state.spans = None
            assert answer["id"].startswith("cmpl-")
            ids.append(answer["id"])

    ids: list[str] = []
    asyncio.run(run())
    spans = exporter.get_finished_spans()
    served, refused, failed = (span for span in spans if span.name == f"POST {PATH}")
    assert format(served.context.trace_id, "032x") == TRACE
    assert format(served.parent.span_id, "016x") == PARENT
    assert served.attributes["http.response.status_code"] == 200
    assert served.attributes["gen_ai.response.id"] == ids[0]
    assert served.attributes["gen_ai.request.model"] == "fake"
    assert served.attributes["pagoda.outcome"] == "finished"
    assert served.start_time < served.end_time
    below = [span for span in spans if span.parent is not None and span.parent.span_id == served.context.span_id]
    assert [(span.name, (span.end_time - span.start_time) / 1e9) for span in below] == [
        ("queued", 2.5),
        ("prefill", 0.5),
        ("decode", 2.0),
        ("queued", 2.5),
        ("prefill", 0.0),
    ]
    assert dict(below[2].attributes) == {"pagoda.choice": 0, "pagoda.reason": "length", "pagoda.tokens": 9}
    assert (refused.attributes["http.response.status_code"], refused.status.is_ok) == (400, True)
    assert not failed.status.is_ok
    assert "secret" not in "".join(span.to_json() for span in spans)


def test_spans_reach_a_collector_when_the_server_ends() -> None:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    async def run(url: str) -> None:
        async with fake_api(otlp_endpoint=url) as (session, _), session.post(PATH, json={"prompt": "a"}) as response:
            assert response.status == 200

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        Thread(target=collector.serve_forever, daemon=True).start()
        asyncio.run(run(f"http://127.0.0.1:{collector.server_port}/v1/traces"))
        collector.shutdown()
    (message,) = (ExportTraceServiceRequest.FromString(body) for body in bodies)
    (resource,) = message.resource_spans
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == [f"POST {PATH}"]


def test_a_broken_exporter_does_not_touch_the_answers() -> None:
    class Broken:
        def record(self, *_args: Any) -> None:
            raise RuntimeError("no collector")

        def close(self) -> None:
            pass

    async def run() -> None:
        async with serving() as (server, _), calling(server) as session:
            server.state.spans = Broken()  # type: ignore[assignment]
            async with session.post(PATH, json={"prompt": "a"}) as response:
                assert response.status == 200

    asyncio.run(run())


def test_without_the_extra_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pagoda-engine\[otel\]"):
        otlp_exporter("http://127.0.0.1:4318/v1/traces")


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="otlp_endpoint must begin with http://"):
        ServerSettings(otlp_endpoint="localhost:4318").validate()
