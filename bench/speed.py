"""Measures the engine on this machine, in process: decode, prefill, batches, a shared prefix. `make bench` runs it.

    make bench ARGS="--model smollm2-135m --case decode --case batch_16 --rounds 3"

The cases are those of bench/cases.py. Prints one line per case, the median of the rounds, or with --json one object per
line. bench/peers/run.py measures it beside other engines and over HTTP.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import time

from cases import CASES, NAMES, WARM_UP, measure, run

from pagoda import LLM, SamplingParams


def main() -> int:
    """Loads the model once and runs the chosen cases."""
    args = parse()
    rng = random.Random(time.time_ns())
    begin = time.perf_counter()
    with LLM(args.model, num_threads=args.threads) as llm:
        load_s = time.perf_counter() - begin
        facts = llm.describe()
        generate = lambda prompts, count: generated(llm, prompts, count)  # noqa: E731
        run(WARM_UP, generate, rng, facts["vocab_size"])
        if not args.json:
            print(
                f"{args.model}: {facts['device']}, {facts['isa']}, {facts['num_threads']} threads, load {load_s:.2f} s"
            )
        for case in CASES:
            if not args.case or case.name in args.case:
                values = [measure(case, generate, rng, facts["vocab_size"]) for _ in range(args.rounds)]
                line = {"case": case.name, "unit": case.unit, "value": statistics.median(values)}
                text = f"{case.name:<13}{line['value']:>9.1f} {case.unit}"
                print(json.dumps(line) if args.json else text, flush=True)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_rss_mib": peak_mib, "load_s": load_s}) if args.json else f"peak memory {peak_mib:.0f} MiB")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="as for `enginectl serve` (default %(default)s)")
    parser.add_argument("--case", action="append", choices=NAMES, help="repeatable; unset: all")
    parser.add_argument("--rounds", type=int, default=3, help="runs per case; the median is printed")
    parser.add_argument("--threads", type=int, default=0, help="0 = the usable physical cores")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    return args


def generated(llm: LLM, prompts: list[list[int]], count: int) -> list[int]:
    """How many tokens came out for each prompt."""
    params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
    return [len(result.outputs[0].token_ids) for result in llm.generate(prompts, params, use_tqdm=False)]


if __name__ == "__main__":
    sys.exit(main())
