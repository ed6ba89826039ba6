"""Tells in the log when sequences lose their KV blocks, and what would help. Used by `loaded_model`, on one thread."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

logger = logging.getLogger("pagoda.engine")

#: Seconds between two warnings; what happens meanwhile is counted.
INTERVAL_S = 5.0
_UTILIZATION_STEP, _UTILIZATION_MOST = 0.05, 0.95


class PreemptionLog:
    """Writes at most one warning every INTERVAL_S seconds."""

    def __init__(
        self, plan: Mapping[str, Any], options: Mapping[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`plan` is `Engine.plan`, `options` the values of the EngineOptions it was made with."""
        self._plan = plan
        self._options = options
        self._clock = clock
        self._last = -math.inf
        self._num_told = 0
        self._newest: Any = None
        self._lost: dict[tuple[str, int], int] = {}

    def write(self, notices: Sequence[Any]) -> None:
        """Takes the engine's `Preemption`s since the last call.

        To be called again and again, also with none: what comes too soon after a warning is told later.
        """
        for notice in notices:
            self._newest = notice
            self._lost[notice.request_id, notice.choice] = notice.num_blocks
        now = self._clock()
        if self._newest is None or now < self._last + INTERVAL_S:
            return
        logger.warning("%s", self._text(self._newest))
        self._last, self._num_told = now, self._newest.total
        self._newest, self._lost = None, {}

    def _text(self, notice: Any) -> str:
        choice = f" (choice {notice.choice})" if notice.choice else ""
        mode, fate = ("SWAP", "kept in host memory") if notice.swapped else ("RECOMPUTE", "lost and computed again")
        full = " (the swap space is full)" if notice.swap_was_full else ""
        num_left_out = notice.total - self._num_told - 1
        left_out = f"; {num_left_out} more since the last warning" if num_left_out > 0 else ""
        return (
            f"Request {notice.request_id}{choice} is preempted by PreemptionMode.{mode}{full} because there is not "
            "enough KV cache space. This can affect the end-to-end performance. "
            f"{notice.num_tokens} computed tokens are {fate}; free KV blocks {notice.free_blocks_before} -> "
            f"{notice.free_blocks_after} of {self._plan['num_blocks']}, {notice.num_running} sequences go on. "
            f"total_num_cumulative_preemption={notice.total}{left_out}. {self._advice(notice)}"
        )

    def _advice(self, notice: Any) -> str:
        """The parameter that made the cache as small as it is, with a value that would have held beside the others all
        sequences that lost their blocks since the last warning."""
        wanted = self._plan["num_blocks"] + sum(self._lost.values())
        fewer = f"lower max_num_seqs to {max(1, notice.num_running)}"
        if self._options.get("num_kv_blocks") is not None:
            return f"Increase num_kv_blocks to {wanted} or {fewer}."
        block_bytes = self._plan["kv_bytes_per_block"]
        if self._options.get("kv_cache_memory") is not None:
            return f"Increase kv_cache_memory to {math.ceil(wanted * block_bytes / 2**20)}MiB or {fewer}."
        more = (wanted - self._plan["num_blocks"]) * block_bytes
        share = (self._plan["budget_bytes"] + more) / self._plan["total_bytes"]
        share = math.ceil(share / _UTILIZATION_STEP) * _UTILIZATION_STEP
        if share > _UTILIZATION_MOST:
            return f"This device has no room for more KV cache: {fewer}."
        return f"Increase memory_utilization to {share:.2f} or {fewer}."
