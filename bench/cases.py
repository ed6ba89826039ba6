"""The cases that every engine is measured in, and how. Standard library only: peers run it in their own environments.

Prompts are random token ids, outputs have exact lengths, sampling is greedy; no engine sees a prompt twice, except for
the common part in `shared`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Prompts of token ids and a number of tokens: continues each by exactly so many, returns how many came out for each.
Generate = Callable[[list[list[int]], int], Sequence[int]]


@dataclass(frozen=True)
class Case:
    """`num_requests` prompts of `shared` common and `own` distinct tokens, each continued by `output` tokens."""

    name: str
    num_requests: int
    own: int
    output: int
    shared: int = 0

    @property
    def is_prefill(self) -> bool:
        """One token out: the time is the prompt's."""
        return self.output == 1

    @property
    def unit(self) -> str:
        """Of the value that `measure` returns."""
        return "prompt tok/s" if self.is_prefill else "output tok/s"


DECODE = Case("decode", 1, 32, 128)
CASES = (
    DECODE,
    Case("prefill_512", 1, 512, 1),
    Case("prefill_2048", 1, 2048, 1),
    Case("batch_16", 16, 128, 128),
    Case("batch_64", 64, 128, 128),
    Case("shared", 32, 32, 32, shared=1024),
)
NAMES = tuple(case.name for case in CASES)
WARM_UP = Case("warm-up", 4, 32, 8)


def measure(case: Case, generate: Generate, rng: random.Random, vocab_size: int) -> float:
    """Runs the case once. Prompt tokens per second for a prefill; output tokens per second otherwise, with the prompts'
    time in it, except for `decode`, where the time of another such prompt with one token out is taken off.
    """
    seconds = run(case, generate, rng, vocab_size)
    if case.is_prefill:
        return (case.own + case.shared) / seconds
    if case == DECODE:
        first = run(Case("first", 1, case.own, 1), generate, rng, vocab_size)
        return (case.output - 1) / (seconds - first)
    return case.num_requests * case.output / seconds


def run(case: Case, generate: Generate, rng: random.Random, vocab_size: int) -> float:
    """Seconds that the case took. Exits when an engine made another number of tokens."""
    head = random_tokens(rng, case.shared, vocab_size)
    prompts = [head + random_tokens(rng, case.own, vocab_size) for _ in range(case.num_requests)]
    begin = time.perf_counter()
    made = generate(prompts, case.output)
    seconds = time.perf_counter() - begin
    if list(made) != [case.output] * case.num_requests:
        raise SystemExit(f"{case.name}: {sorted(set(made))} tokens came out, {case.output} were asked for")
    return seconds


def random_tokens(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    """Token ids that are unlikely to be control tokens, which sit at the ends of most vocabularies."""
    return [rng.randrange(vocab_size // 8, vocab_size - vocab_size // 8) for _ in range(count)]
