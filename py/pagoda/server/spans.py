"""Spans: one OpenTelemetry span for each inference request, with the phases of its choices below it.

Made when `otlp_endpoint` is set; needs the extra `otel`. A span joins the caller's trace by the header `traceparent`.
Used on the event loop's thread; sending is done by the SDK's own thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDictProxy

from pagoda.phases import phases

if TYPE_CHECKING:
    from pagoda.client import EngineClient

_FLUSH_MS = 2000
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """What is known of a request that has ended. Times are seconds since 1970; `answer_id` is "" without an answer."""

    route: str
    status: str
    outcome: str
    begin: float
    end: float
    answer_id: str


class Spans:
    """Sends spans to one collector."""

    def __init__(self, client: EngineClient, version: str, exporter: Any) -> None:
        """`exporter` is a SpanExporter of the SDK, such as `otlp_exporter` makes."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._client = client
        self._provider = TracerProvider(resource=Resource({"service.name": "pagoda", "service.version": version}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("pagoda.server")

    def record(self, request: RequestSpan, headers: CIMultiDictProxy[str]) -> None:
        """Adds the span of a request, and those of its phases as far as their timelines are kept."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract({name.lower(): value for name, value in headers.items()})
        attributes = {
            "http.request.method": "POST",
            "http.route": request.route,
            "http.response.status_code": int(request.status),
            "gen_ai.request.model": self._client.model_name,
            "gen_ai.response.id": request.answer_id,
            "pagoda.outcome": request.outcome,
        }
        span = self._tracer.start_span(
            f"POST {request.route}", parent, trace.SpanKind.SERVER, attributes, start_time=_nanos(request.begin)
        )
        if int(request.status) >= _SERVER_ERROR:
            span.set_status(trace.StatusCode.ERROR, request.outcome)
        below = trace.set_span_in_context(span)
        for timeline in self._client.timelines(request.answer_id) if request.answer_id else []:
            for phase in phases(timeline):
                facts = {
                    "pagoda.choice": timeline["choice"],
                    **{f"pagoda.{key}": fact for key, fact in phase.facts.items()},
                }
                child = self._tracer.start_span(phase.name, below, attributes=facts, start_time=_nanos(phase.begin))
                child.end(_nanos(phase.end))
        span.end(_nanos(request.end))

    def close(self) -> None:
        """Sends what is left, for at most two seconds, and ends the SDK's thread."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()


def otlp_exporter(endpoint: str) -> Any:
    """Sends to the collector at this URL by OTLP over HTTP. Raises ValueError when the extra is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ValueError("otlp_endpoint needs the extra otel: pip install 'pagoda-engine[otel]'") from None
    return OTLPSpanExporter(endpoint=endpoint, timeout=_FLUSH_MS / 1000)


def _nanos(seconds: float) -> int:
    return int(seconds * 1e9)
