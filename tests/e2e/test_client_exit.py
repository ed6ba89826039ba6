"""A program that ends without closing its engine ends like any other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from e2e.tiny_models import TinyModel

# The interpreter takes its time to end: whatever waits in another thread comes back meanwhile.
SLOW_END = """
import time
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.6)
slow = Slow()
"""
CLIENT = """
import asyncio, sys
from pagoda.client import EngineClient
from pagoda.config import SamplingParams, load_config
model = {"name": sys.argv[1], "skip_tokenizer": True}
client = EngineClient.create(load_config(values={"model": model, "engine": {"num_kv_blocks": 16}}))
async def main():
    async for event in client.generate([1, 2, 3], SamplingParams(max_tokens=200, ignore_eos=True)):
        break
asyncio.run(main())
print("end")
"""
LLM = """
import sys
from pagoda import LLM, SamplingParams
llm = LLM(sys.argv[1], skip_tokenizer=True, num_kv_blocks=16)
llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2), use_tqdm=False)
print("end")
"""


@pytest.mark.parametrize("program", [CLIENT, LLM], ids=["client", "llm"])
def test_a_program_may_end_without_closing_its_engine(program: str, tiny: Callable[[str], TinyModel]) -> None:
    command = [sys.executable, "-c", SLOW_END + program, str(tiny("llama-tied").path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert "terminate" not in done.stderr
