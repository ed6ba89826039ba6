"""The Prometheus page of /metrics: the engine's numbers under vLLM's names, and the counters of the HTTP server.

Owns the server's own counters; the engine keeps its numbers itself and a collector reads them when the page is made.
Used on the event loop's thread only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pagoda.config import STATS_FIELDS

if TYPE_CHECKING:
    from pagoda.client import EngineClient

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: What an engine number is called on the page where it is not called as in the engine, without prefix and `_total`.
NAMES: Mapping[str, str] = {
    "num_running": "num_requests_running",
    "num_waiting": "num_requests_waiting",
    "num_swapped": "num_requests_swapped",
    "kv_cache_usage": "kv_cache_usage_perc",
    "num_prompt_tokens": "prompt_tokens",
    "num_generation_tokens": "generation_tokens",
    "num_numerics_errors": "numerics_errors",
    "num_steps": "engine_steps",
    "time_per_output_token_seconds": "request_time_per_output_token_seconds",
    "e2e_latency_seconds": "e2e_request_latency_seconds",
    "queue_time_seconds": "request_queue_time_seconds",
    "prefill_time_seconds": "request_prefill_time_seconds",
    "decode_time_seconds": "request_decode_time_seconds",
    "inference_time_seconds": "request_inference_time_seconds",
    "prompt_length": "request_prompt_tokens",
    "output_length": "request_generation_tokens",
    "longest_output": "request_max_num_generation_tokens",
    "max_tokens": "request_params_max_tokens",
    "num_choices": "request_params_n",
    "step_tokens": "iteration_tokens_total",
}
#: Engine numbers that are one family with a label: family, label, and the label's value for each number.
LABELLED: Mapping[str, tuple[str, str]] = {
    "request_success": ("finished_reason", "num_finished_"),
    "preemptions_by_mode": ("mode", "num_preemptions_"),
}
#: Block counts that the page has in bytes.
BYTES: Mapping[str, str] = {"num_swapped_out_blocks": "swap_out_bytes", "num_swapped_in_blocks": "swap_in_bytes"}
#: Second names, under which dashboards made for older versions of vLLM look.
OLD_NAMES: Mapping[str, str] = {
    "inter_token_latency_seconds": "time_per_output_token_seconds",
    "kv_cache_usage": "gpu_cache_usage_perc",
}

_FAMILIES: Mapping[str, Any] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class EngineCollector(Collector):
    """Makes metric families of what the engine has counted, at the moment they are asked for."""

    def __init__(self, client: EngineClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._labels = {"model_name": client.model_name, "engine": "0"}
        facts = client.describe()
        self._block_bytes = int(facts["kv_bytes_per_block"])
        config = {"block_size": facts["block_size"], "num_gpu_blocks": facts["num_blocks"]}
        self._cache_config = {name: str(value) for name, value in config.items()}

    def collect(self) -> Iterator[Metric]:
        """All families, each once."""
        values, histograms = self._client.stats(), self._client.histograms()
        labelled = {name: self._labelled(name) for name in LABELLED}
        for row in STATS_FIELDS:
            key, doc = row["name"], row["doc"]
            if key in histograms:
                for name in _names(key):
                    yield self._histogram(name, doc, row["bounds"], *histograms[key])
            elif key in values:
                family = next((name for name, (_, start) in LABELLED.items() if key.startswith(start)), None)
                if family is not None:
                    value_of_label = key.removeprefix(LABELLED[family][1])
                    labelled[family].add_metric([*self._labels.values(), value_of_label], values[key])
                elif key in BYTES:
                    yield self._number(BYTES[key], "counter", doc, values[key] * self._block_bytes)
                else:
                    for name in _names(key):
                        yield self._number(name, row["kind"], doc, values[key])
        yield from (family for family in labelled.values() if family.samples)
        yield self._info()

    def _number(self, name: str, kind: str, doc: str, value: float) -> Metric:
        family = _FAMILIES[kind](self._prefix + name, doc, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        result: Metric = family
        return result

    def _histogram(self, name: str, doc: str, bounds: list[float], counts: list[int], total: float) -> Metric:
        family = HistogramMetricFamily(self._prefix + name, doc, labels=list(self._labels))
        edges = [*(f"{bound:g}" for bound in bounds), "+Inf"]
        buckets = list(zip(edges, itertools.accumulate(counts), strict=True))
        family.add_metric(list(self._labels.values()), buckets, total)
        return family

    def _labelled(self, name: str) -> CounterMetricFamily:
        label, start = LABELLED[name]
        doc = "; ".join(row["doc"] for row in STATS_FIELDS if row["name"].startswith(start))
        return CounterMetricFamily(self._prefix + name, doc, labels=[*self._labels, label])

    def _info(self) -> Metric:
        labels = {**self._labels, **self._cache_config}
        family = GaugeMetricFamily(f"{self._prefix}cache_config_info", "sizes of the KV cache", labels=list(labels))
        family.add_metric(list(labels.values()), 1)
        return family


class Metrics:
    """All counters of one server."""

    def __init__(self, client: EngineClient, prefix: str) -> None:
        """`prefix` comes before every name, a colon between."""
        prefix += ":"
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(client, prefix))
        ProcessCollector(registry=self._registry)

        def counter(name: str, doc: str, *labels: str) -> Counter:
            return Counter(prefix + name, doc, labels, registry=self._registry)

        self.http_requests = counter("http_requests", "HTTP requests by route and status", "route", "status")
        self.requests = counter("requests", "inference requests by how they ended", "reason")
        self.client_disconnects = counter("client_disconnects", "inference requests whose client went away")
        self._gauges = _ServerGauges(prefix)
        self._registry.register(self._gauges)

    def count_request(self, reason: str) -> None:
        """An inference request ended so."""
        self.requests.labels(reason).inc()
        if reason == "client_disconnect":
            self.client_disconnects.inc()

    def render(self, in_flight: int, draining: bool) -> bytes:
        """The page in Prometheus' text format."""
        self._gauges.values = {"http_requests_in_flight": in_flight, "http_draining": int(draining)}
        page: bytes = generate_latest(self._registry)
        return page


class _ServerGauges(Collector):
    """What the server is doing right now; set just before the page is made."""

    _DOCS: Mapping[str, str] = {
        "http_requests_in_flight": "inference requests being answered",
        "http_draining": "1 while the server shuts down, else 0",
    }

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.values: dict[str, Any] = dict.fromkeys(self._DOCS, 0)

    def collect(self) -> Iterator[Metric]:
        for name, doc in self._DOCS.items():
            yield GaugeMetricFamily(self._prefix + name, doc, value=self.values[name])


def _names(key: str) -> list[str]:
    """The names of an engine number on the page."""
    return [NAMES.get(key, key), *([OLD_NAMES[key]] if key in OLD_NAMES else [])]
