"""The warning of a preemption: its words, its advice, and how often it comes."""

import logging
from types import SimpleNamespace

import pytest

from pagoda.preemption_log import INTERVAL_S, PreemptionLog

PLAN = {"num_blocks": 100, "kv_bytes_per_block": 2**20, "budget_bytes": 10 * 2**30, "total_bytes": 100 * 2**30}


def notice(**changes):
    values = {
        "request_id": "chat-1",
        "choice": 0,
        "swapped": True,
        "swap_was_full": False,
        "num_tokens": 320,
        "num_blocks": 20,
        "free_blocks_before": 0,
        "free_blocks_after": 20,
        "num_running": 4,
        "total": 1,
    }
    return SimpleNamespace(**{**values, **changes})


def texts(caplog):
    return [record.message for record in caplog.records if record.name == "pagoda.engine"]


def test_the_warning_says_who_lost_what_and_what_helps(caplog):
    log = PreemptionLog(PLAN, {"num_kv_blocks": 100})
    log.write([notice()])
    assert texts(caplog) == [
        "Request chat-1 is preempted by PreemptionMode.SWAP because there is not enough KV cache space. "
        "This can affect the end-to-end performance. "
        "320 computed tokens are kept in host memory; free KV blocks 0 -> 20 of 100, 4 sequences go on. "
        "total_num_cumulative_preemption=1. Increase num_kv_blocks to 120 or lower max_num_seqs to 4."
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_recompute_and_a_full_swap_space_are_named(caplog):
    PreemptionLog(PLAN, {}).write([notice(swapped=False, swap_was_full=True, choice=2)])
    text = texts(caplog)[0]
    assert "Request chat-1 (choice 2) is preempted by PreemptionMode.RECOMPUTE (the swap space is full)" in text
    assert "320 computed tokens are lost and computed again" in text


@pytest.mark.parametrize(
    ("options", "plan", "advice"),
    [
        ({"kv_cache_memory": 100 * 2**20}, {}, "Increase kv_cache_memory to 120MiB or lower max_num_seqs to 4."),
        ({}, {}, "Increase memory_utilization to 0.15 or lower max_num_seqs to 4."),
        ({}, {"budget_bytes": 95 * 2**30}, "This device has no room for more KV cache: lower max_num_seqs to 4."),
    ],
)
def test_the_advice_names_the_parameter_that_set_the_size(caplog, options, plan, advice):
    PreemptionLog({**PLAN, **plan}, options).write([notice()])
    assert texts(caplog)[0].endswith(advice)


def test_a_storm_is_one_line_in_a_while_with_a_count(caplog):
    now = [0.0]
    log = PreemptionLog(PLAN, {}, lambda: now[0])
    log.write([])
    for total in range(1, 8):
        log.write([notice(total=total)])
        now[0] += INTERVAL_S / 10
    now[0] = INTERVAL_S
    log.write([notice(total=8), notice(total=9)])
    first, second = texts(caplog)
    assert "more since" not in first
    assert "total_num_cumulative_preemption=9; 7 more since the last warning." in second


def test_the_last_burst_is_told_when_nothing_follows_and_counts_what_the_engine_dropped(caplog):
    now = [0.0]
    log = PreemptionLog(PLAN, {"num_kv_blocks": 100}, lambda: now[0])
    log.write([notice()])
    log.write([notice(total=90, request_id="a"), notice(total=91, request_id="b"), notice(total=92, request_id="b")])
    log.write([])
    now[0] = INTERVAL_S
    for _ in range(3):
        log.write([])
    _, second = texts(caplog)
    assert "total_num_cumulative_preemption=92; 90 more since the last warning." in second
    assert second.endswith("Increase num_kv_blocks to 140 or lower max_num_seqs to 4.")  # a and b, each counted once
