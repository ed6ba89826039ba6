"""The page of /metrics: vLLM's names, well-formed families, and that the shipped dashboard asks for what is there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_client import FakeClient, fake_api
from prometheus_client.parser import text_string_to_metric_families

from pagoda.config import STATS_FIELDS
from pagoda.server.metrics import BYTES, NAMES, Metrics
from pagoda.server.settings import ServerSettings

PATH = "/v1/completions"
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
LABELS = '{engine="0",model_name="fake"}'


class FullClient(FakeClient):
    """An engine whose every number is different: the index of its row."""

    def stats(self) -> dict[str, int | float]:
        """Every counter and gauge."""
        return {row["name"]: index for index, row in enumerate(STATS_FIELDS) if row["kind"] != "histogram"}

    def histograms(self) -> dict[str, tuple[list[int], float]]:
        """Every histogram, with one value in each bucket."""
        return {
            row["name"]: ([1] * (len(row["bounds"]) + 1), 7.5) for row in STATS_FIELDS if row["kind"] == "histogram"
        }


def full_page(prefix: str = "vllm") -> str:
    """The page of an engine that has every number."""
    metrics = Metrics(FullClient(), prefix)  # type: ignore[arg-type]
    metrics.count_request("client_disconnect")
    metrics.http_requests.labels(PATH, "200").inc()
    return metrics.render(in_flight=2, draining=False).decode()


def samples(page: str) -> dict[str, float]:
    """Every sample line of a page, labels sorted."""
    return {
        sample.name
        + "{"
        + ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
        + "}": sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_the_page_counts_requests_and_shows_the_engines_numbers() -> None:
    async def run() -> str:
        async with fake_api() as (session, _):
            for body in ({"prompt": "abc", "max_tokens": 4}, {"prompt": "abc", "n": 0}):
                async with session.post(PATH, json=body) as response:
                    await response.read()
            async with session.get("/metrics") as response:
                assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                return await response.text()

    page = samples(asyncio.run(run()))
    assert page["vllm:num_requests_running" + LABELS] == 0
    assert page["vllm:kv_cache_usage_perc" + LABELS] == 0.25
    assert page["vllm:num_preemptions_total" + LABELS] == 3
    assert page['vllm:request_success_total{engine="0",finished_reason="stop",model_name="fake"}'] == 5
    assert page[f'vllm:http_requests_total{{route="{PATH}",status="200"}}'] == 1
    assert page[f'vllm:http_requests_total{{route="{PATH}",status="400"}}'] == 1
    assert page['vllm:requests_total{reason="finished"}'] == 1
    assert page['vllm:requests_total{reason="invalid_value"}'] == 1
    assert page["vllm:client_disconnects_total{}"] == 0
    assert page["vllm:http_draining{}"] == 0
    bucket = "vllm:request_queue_time_seconds_bucket"
    assert page[bucket + '{engine="0",le="0.01",model_name="fake"}'] == 2
    assert page[bucket + '{engine="0",le="7680",model_name="fake"}'] == 2
    assert page[bucket + '{engine="0",le="+Inf",model_name="fake"}'] == 3
    assert page["vllm:request_queue_time_seconds_sum" + LABELS] == 12345.5
    assert page["vllm:request_queue_time_seconds_count" + LABELS] == 3


#: The names and kinds of vLLM that dashboards and autoscalers ask for.
VLLM = {
    "num_requests_running": "gauge",
    "num_requests_waiting": "gauge",
    "kv_cache_usage_perc": "gauge",
    "num_requests_swapped": "gauge",
    "num_preemptions": "counter",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "prefix_cache_queries": "counter",
    "prefix_cache_hits": "counter",
    "request_success": "counter",
    "spec_decode_num_drafts": "counter",
    "spec_decode_num_draft_tokens": "counter",
    "spec_decode_num_accepted_tokens": "counter",
    "time_to_first_token_seconds": "histogram",
    "inter_token_latency_seconds": "histogram",
    "time_per_output_token_seconds": "histogram",
    "request_time_per_output_token_seconds": "histogram",
    "e2e_request_latency_seconds": "histogram",
    "request_queue_time_seconds": "histogram",
    "request_inference_time_seconds": "histogram",
    "request_prefill_time_seconds": "histogram",
    "request_decode_time_seconds": "histogram",
    "request_prompt_tokens": "histogram",
    "request_generation_tokens": "histogram",
    "request_max_num_generation_tokens": "histogram",
    "request_params_n": "histogram",
    "request_params_max_tokens": "histogram",
    "iteration_tokens_total": "histogram",
    "cache_config_info": "gauge",
}


@pytest.mark.parametrize("prefix", ["vllm", "pagoda"])
def test_the_families_are_those_of_vllm_under_the_chosen_prefix(prefix: str) -> None:
    families = {family.name: family for family in text_string_to_metric_families(full_page(prefix))}
    for name, kind in VLLM.items():
        assert families[f"{prefix}:{name}"].type == kind, name
    own = {name for name in families if not name.startswith(("process_", "python_"))}
    assert {name.split(":")[0] for name in own} == {prefix}
    assert all(families[name].documentation for name in own)
    assert families[f"{prefix}:request_success"].samples[0].labels.keys() == {"model_name", "engine", "finished_reason"}


def test_every_number_of_the_engine_is_on_the_page_once() -> None:
    page = full_page()
    heads = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads))
    found = samples(page)
    assert len(found) == len([line for line in page.splitlines() if line and not line.startswith("#")])
    rows = {row["name"]: index for index, row in enumerate(STATS_FIELDS)}
    assert found["vllm:queue_age_seconds" + LABELS] == rows["queue_age_seconds"]
    assert found["vllm:engine_steps_total" + LABELS] == rows["num_steps"]
    assert found["vllm:swap_out_bytes_total" + LABELS] == 64 * rows["num_swapped_out_blocks"]
    mode = 'vllm:preemptions_by_mode_total{engine="0",mode="swap",model_name="fake"}'
    assert found[mode] == rows["num_preemptions_swap"]
    shown = set(found.values())
    for name, index in rows.items():
        assert name.startswith("num_swapped_") or index in shown or STATS_FIELDS[index]["kind"] == "histogram", name
    assert NAMES.keys() | BYTES.keys() <= rows.keys(), "a name for a number that the engine does not have"


def test_every_number_that_only_grows_is_a_counter() -> None:
    """Of the engine's numbers, these are the ones that go down as well."""
    gauges = {"num_running", "num_waiting", "num_kv_blocks", "num_free_blocks", "kv_cache_usage", "queue_age_seconds"}
    gauges |= {"num_swapped", "num_swap_blocks", "num_free_swap_blocks"}
    gauges |= {"last_step_tokens", "last_step_seconds"}
    kinds = {row["name"]: row["kind"] for row in STATS_FIELDS}
    assert {name for name, kind in kinds.items() if kind == "gauge"} == gauges
    assert {"num_generation_tokens", "num_finished_stop", "num_preemptions", "prefix_cache_hits"} <= kinds.keys()
    assert all(row["doc"] for row in STATS_FIELDS)


def expressions() -> Iterator[str]:
    """Every PromQL expression that is shipped."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("expr", "query") and isinstance(value, str) and ":" in value:
                    yield value
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    yield from walk(json.loads((DEPLOY / "grafana" / "dashboard.json").read_text(encoding="utf-8")))
    for line in (DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("expr:"):
            yield line.partition("expr:")[2]


def test_the_shipped_dashboard_and_alerts_ask_only_for_what_is_exported() -> None:
    page = full_page()
    exported = {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}
    asked = {name for text in expressions() for name in re.findall(r"vllm:\w+", text)}
    assert len(asked) > 20
    assert asked <= exported
    labels = {
        key for family in text_string_to_metric_families(page) for sample in family.samples for key in sample.labels
    }
    for text in expressions():
        for group in re.findall(r"by \(([^)]*)\)", text):
            assert {name.strip() for name in group.split(",")} <= labels, text


def test_prometheus_is_told_of_the_page_and_the_port_of_the_server() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{ServerSettings().port}"]
    assert config["rule_files"] == ["alerts.yml"]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert all({"alert", "expr", "annotations"} <= rule.keys() for rule in rules)


def test_a_prefix_that_prometheus_would_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="metrics_prefix must be letters"):
        ServerSettings(metrics_prefix="a-b").validate()
