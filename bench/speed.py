"""Measures the engine on this machine, in process: decode, prefill, batches, a shared prefix. `make bench` runs it.

    make bench ARGS="--model smollm2-135m --case decode --case batch_16 --rounds 3"

Prompts are random token ids, outputs have exact lengths (`ignore_eos`), sampling is greedy, the prefix cache sees no
prompt twice except in `shared`. Prints one line per case, the median of the rounds, or with --json one object per line.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import time
from dataclasses import dataclass

from pagoda import LLM, SamplingParams


@dataclass(frozen=True)
class Case:
    """`num_requests` prompts of `shared` common and `own` distinct tokens, each continued by `output` tokens."""

    name: str
    num_requests: int
    own: int
    output: int
    shared: int = 0


CASES = (
    Case("decode", 1, 32, 128),
    Case("prefill_512", 1, 512, 1),
    Case("prefill_2048", 1, 2048, 1),
    Case("batch_16", 16, 128, 128),
    Case("batch_64", 64, 128, 128),
    Case("shared", 32, 32, 32, shared=1024),
)


def main() -> int:
    """Loads the model once and runs the chosen cases."""
    args = parse()
    cases = [case for case in CASES if not args.case or case.name in args.case]
    rng = random.Random(time.time_ns())
    begin = time.perf_counter()
    with LLM(args.model, num_threads=args.threads) as llm:
        load_s = time.perf_counter() - begin
        facts = llm.describe()
        run(llm, Case("warm-up", 1, 16, 4), rng, facts["vocab_size"])
        if not args.json:
            print(
                f"{args.model}: {facts['device']}, {facts['isa']}, {facts['num_threads']} threads, load {load_s:.2f} s"
            )
        for case in cases:
            rounds = [run(llm, case, rng, facts["vocab_size"]) for _ in range(args.rounds)]
            report(case, statistics.median(rounds), args.json)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_rss_mib": peak_mib, "load_s": load_s}) if args.json else f"peak memory {peak_mib:.0f} MiB")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="as for `enginectl serve` (default %(default)s)")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="repeatable; unset: all")
    parser.add_argument("--rounds", type=int, default=3, help="runs per case; the median is printed")
    parser.add_argument("--threads", type=int, default=0, help="0 = the usable physical cores")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    return args


def run(llm: LLM, case: Case, rng: random.Random, vocab_size: int) -> float:
    """Seconds that the case took."""
    head = random_tokens(rng, case.shared, vocab_size)
    prompts = [head + random_tokens(rng, case.own, vocab_size) for _ in range(case.num_requests)]
    params = SamplingParams(temperature=0, max_tokens=case.output, ignore_eos=True)
    begin = time.perf_counter()
    results = llm.generate(prompts, params, use_tqdm=False)
    elapsed = time.perf_counter() - begin
    made = sum(len(result.outputs[0].token_ids) for result in results)
    if made != case.num_requests * case.output:
        raise SystemExit(f"{case.name}: {made} tokens came out, {case.num_requests * case.output} were asked for")
    return elapsed


def random_tokens(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    """Token ids that are unlikely to be control tokens, which sit at the ends of most vocabularies."""
    return [rng.randrange(vocab_size // 8, vocab_size - vocab_size // 8) for _ in range(count)]


def report(case: Case, seconds: float, as_json: bool) -> None:
    """Prompt tokens per second for a prefill, output tokens per second (prefill included) otherwise."""
    prefill = case.output == 1
    tokens = case.own + case.shared if prefill else case.num_requests * case.output
    unit = "prompt tok/s" if prefill else "output tok/s"
    if as_json:
        print(json.dumps({"case": case.name, "seconds": seconds, "tokens_per_s": tokens / seconds, "unit": unit}))
    else:
        print(f"{case.name:<13}{tokens / seconds:>9.1f} {unit}   {seconds:.2f} s")


if __name__ == "__main__":
    sys.exit(main())
