"""A cache with room for a quarter of the load: requests end with the tokens they get in peace, and say why."""

import asyncio
import functools
import logging
from typing import Any

import aiohttp
import pytest
from random_llama import write_random_llama

from pagoda import LLM, SamplingParams
from pagoda.client import EngineClient
from pagoda.config import load_config
from pagoda.server.runner import Server
from pagoda.server.settings import ServerSettings

PROMPTS = [[1 + (7 * i + j * (i + 3)) % 90 for j in range(20 + i % 5)] for i in range(24)]
PARAMS = [SamplingParams(max_tokens=40, ignore_eos=True, temperature=1.0 if i % 2 else 0.0, seed=i) for i in range(24)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_random_llama(tmp_path_factory.mktemp("preemption") / "model"))


def tokens(llm):
    outputs = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    return [output.outputs[0].token_ids for output in outputs]


@functools.cache
def in_peace(model, kv_cache_dtype="auto"):
    options = {"max_model_len": 64, "prefix_cache": False, "kv_cache_dtype": kv_cache_dtype}
    with LLM(model, num_kv_blocks=256, device="cpu", **options) as llm:
        found = tokens(llm)
        assert llm.stats()["num_preemptions"] == 0
    return found


@pytest.mark.parametrize("mode", ["swap", "recompute"])
@pytest.mark.parametrize(("prefix_cache", "kv_cache_dtype"), [(True, "auto"), (False, "auto"), (True, "int8")])
def test_tokens_do_not_depend_on_preemption(model, mode, prefix_cache, kv_cache_dtype, caplog):
    options = {"num_kv_blocks": 24, "max_model_len": 64, "prefix_cache": prefix_cache, "preemption_mode": mode}
    options["kv_cache_dtype"] = kv_cache_dtype
    with caplog.at_level(logging.WARNING), LLM(model, device="cpu", swap_space=0.01, **options) as llm:
        assert tokens(llm) == in_peace(model, kv_cache_dtype)
        stats = llm.stats()
    assert stats["num_preemptions"] == stats[f"num_preemptions_{mode}"] > 0
    assert stats["num_finished_length"] == len(PROMPTS)
    assert (stats["num_swapped_out_blocks"] > 0) == (mode == "swap")
    assert stats["num_free_swap_blocks"] == stats["num_swap_blocks"]
    warnings = [record.message for record in caplog.records if record.name == "pagoda.engine"]
    assert warnings
    assert f"PreemptionMode.{mode.upper()}" in warnings[0]
    assert "Increase num_kv_blocks to" in warnings[0]


async def serve_all(client: EngineClient) -> tuple[list[list[int]], dict[str, float], list[dict[str, Any]]]:
    """All prompts over HTTP at once: their tokens, the page of metrics and the events of every request."""
    server = Server(client, ServerSettings(port=0))
    await server.start()
    try:
        async with aiohttp.ClientSession(server.url) as session:

            async def complete(index: int) -> tuple[list[int], str]:
                sampling = {
                    "temperature": PARAMS[index].temperature,
                    "seed": index,
                    "max_tokens": 40,
                    "ignore_eos": True,
                }
                body = {"prompt": PROMPTS[index], "return_token_ids": True, **sampling}
                async with session.post("/v1/completions", json=body) as response:
                    answer = await response.json()
                    return answer["choices"][0]["token_ids"], answer["id"]

            client._engine.hold()  # a fast engine would be done with some before the others have come
            try:
                answering = asyncio.gather(*(complete(index) for index in range(len(PROMPTS))))
                async with asyncio.timeout(30):
                    while len(client._streams) < len(PROMPTS):
                        await asyncio.sleep(0.001)
            finally:
                client._engine.release()
            answers = await answering
            async with session.get("/metrics") as response:
                lines = [line for line in (await response.text()).splitlines() if not line.startswith("#")]
            events = []
            for _, request_id in answers:
                async with session.get(f"/v1/requests/{request_id}/timeline") as response:
                    events += (await response.json())["choices"][0]["events"]
        page = {name.partition("{")[0]: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
        return [token_ids for token_ids, _ in answers], page, events
    finally:
        await server.stop()


@pytest.mark.parametrize("mode", ["swap", "recompute"])
def test_preemptions_are_visible_in_metrics_and_timelines(model: str, mode: str) -> None:
    options = {"num_kv_blocks": "24", "max_model_len": "64", "preemption_mode": mode, "swap_space": "0.01"}
    values = {("engine", name): value for name, value in {"device": "cpu", **options}.items()}
    client = EngineClient.create(load_config(None, [], {("model", "name"): model, **values}))
    try:
        token_ids, page, events = asyncio.run(serve_all(client))
        stats = client.stats()
    finally:
        client.close()
    assert token_ids == in_peace(model)
    assert page["vllm:num_preemptions_total"] == stats["num_preemptions"] > 0
    kinds = [event["event"] for event in events]
    assert kinds.count("preempted") == kinds.count("resumed") == stats["num_preemptions"]
    assert kinds.count("swapped_out") == (stats["num_preemptions"] if mode == "swap" else 0)
    assert kinds.count("finished") == len(PROMPTS)
