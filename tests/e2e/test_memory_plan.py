"""What is planned is what is taken: the start compares both byte for byte and fails if they differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from e2e.tiny_models import TinyModel
from e2e.tiny_table import DIRECTORIES

from pagoda import _core
from pagoda.config import EngineOptions, InvalidArgument

#: Two sets of options in turn for each of the tiny models: more than 300 configurations.
OPTIONS: list[dict[str, Any]] = [
    {"num_kv_blocks": 8},
    {"num_kv_blocks": 33, "block_size": 4, "max_num_seqs": 3},
    {"kv_cache_memory": 1 << 20, "kv_cache_dtype": "f32"},
    {"num_kv_blocks": 20, "swap_space": 0.001, "max_num_batched_tokens": 17, "kv_cache_dtype": "int8"},
    {"num_kv_blocks": 64, "weight_format": "q8_0", "max_num_seqs": 1, "max_num_batched_tokens": 1},
    {"num_kv_blocks": 5, "num_threads": 3, "block_size": 32, "kv_cache_dtype": "int8"},
    {"memory_utilization": 0.02, "max_model_len": 16},
    {"prefix_cache": False, "max_model_len": 32, "num_kv_blocks": 7, "isa": "portable"},
]


@pytest.mark.parametrize(("number", "name"), list(enumerate(sorted(DIRECTORIES))))
def test_an_engine_takes_what_was_planned(number: int, name: str, tiny: Callable[[str], TinyModel]) -> None:
    path = str(tiny(name).path)
    for options in (OPTIONS[number % len(OPTIONS)], OPTIONS[(number // 2 + 3) % len(OPTIONS)]):
        values = {"max_model_len": 32, **options, "device": "cpu"}
        planned = _core.plan_memory(path, EngineOptions(**values))
        engine = _core.Engine(path, EngineOptions(**values))
        try:
            taken = engine.plan
        finally:
            engine.stop()
        changing = ("available_bytes", "budget_bytes", "total_bytes")
        if "memory_utilization" in options:
            changing += ("num_blocks", "kv_cache_bytes", "max_concurrency")
        assert {key: taken[key] for key in taken if key not in changing} == {
            key: planned[key] for key in planned if key not in changing
        }


def test_swap_space_beyond_the_memory_is_refused_before_a_weight_is_read(tiny: Callable[[str], TinyModel]) -> None:
    with pytest.raises(InvalidArgument, match=r"besides the swap space of 65536\.00 GiB"):
        _core.Engine(str(tiny("llama").path), EngineOptions(device="cpu", swap_space=65536.0))
