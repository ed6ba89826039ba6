"""A cache with room for a quarter of the load: requests end with the tokens they get in peace, and say why."""

import logging

import pytest
from random_llama import write_random_llama

from pagoda import LLM, SamplingParams

PROMPTS = [[1 + (7 * i + j * (i + 3)) % 90 for j in range(20 + i % 5)] for i in range(24)]
PARAMS = [SamplingParams(max_tokens=40, ignore_eos=True, temperature=1.0 if i % 2 else 0.0, seed=i) for i in range(24)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_random_llama(tmp_path_factory.mktemp("preemption") / "model"))


def tokens(llm):
    outputs = llm.generate(PROMPTS, PARAMS, use_tqdm=False)
    return [output.outputs[0].token_ids for output in outputs]


@pytest.fixture(scope="module")
def in_peace(model):
    with LLM(model, num_kv_blocks=256, max_model_len=64, prefix_cache=False, device="cpu") as llm:
        found = tokens(llm)
        assert llm.stats()["num_preemptions"] == 0
    return found


@pytest.mark.parametrize("mode", ["swap", "recompute"])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_tokens_do_not_depend_on_preemption(model, in_peace, mode, prefix_cache, caplog):
    options = {"num_kv_blocks": 24, "max_model_len": 64, "prefix_cache": prefix_cache, "preemption_mode": mode}
    with caplog.at_level(logging.WARNING), LLM(model, device="cpu", swap_space=0.01, **options) as llm:
        assert tokens(llm) == in_peace
        stats = llm.stats()
    assert stats["num_preemptions"] == stats[f"num_preemptions_{mode}"] > 0
    assert stats["num_finished_length"] == len(PROMPTS)
    assert (stats["num_swapped_out_blocks"] > 0) == (mode == "swap")
    assert stats["num_free_swap_blocks"] == stats["num_swap_blocks"]
    warnings = [record.message for record in caplog.records if record.name == "pagoda.engine"]
    assert warnings
    assert f"PreemptionMode.{mode.upper()}" in warnings[0]
    assert "Increase num_kv_blocks to" in warnings[0]
