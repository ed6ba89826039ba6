"""What structured output costs: the same batch free and held to a JSON schema, by turns, on this machine.

    python bench/guided.py [--model smollm2-135m] [--batch 16] [--output 128] [--rounds 5] [--json]

Every sequence makes exactly `output` tokens on both sides: the free ones ignore the end, the schema's list has no end
that soon. A round is one free and one held batch. The cost is given twice: the median of the rounds, and that of the
fastest batch of each side, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time

from pagoda import LLM, SamplingParams

SCHEMA = {
    "type": "array",
    "minItems": 10_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "kind": {"enum": ["animal", "plant", "mineral"]},
            "weight": {"type": "integer", "minimum": 0, "maximum": 5000},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
        },
        "required": ["name", "kind", "weight", "tags"],
        "additionalProperties": False,
    },
}


def main() -> int:
    """Runs the rounds and prints the two rates and the cost."""
    args = parse()
    rng = random.Random(args.seed)
    with LLM(args.model, num_threads=args.threads) as llm:
        size = llm.describe()["vocab_size"]
        prompts = [[rng.randrange(size // 8, size // 2) for _ in range(args.prompt)] for _ in range(args.batch)]
        form = json.dumps(SCHEMA)
        run(llm, prompts, args.output, form)  # compiles the schema and warms up
        run(llm, prompts, args.output, "")
        pairs = [(run(llm, prompts, args.output, ""), run(llm, prompts, args.output, form)) for _ in range(args.rounds)]
        facts = llm.describe()
    tokens = args.batch * args.output
    free, held = (tokens / min(side) for side in zip(*pairs, strict=True))
    cost = statistics.median(seconds / base for base, seconds in pairs) - 1
    best = free / held - 1
    spread = [round(seconds / base - 1, 4) for base, seconds in pairs]
    result = {"free_tokens_per_s": free, "held_tokens_per_s": held, "cost": cost, "best_cost": best, "costs": spread}
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"{args.model}: {facts['device']}, {facts['isa']}, {facts['num_threads']} threads, batch {args.batch}")
    print(f"free {free:.1f} tokens/s, held to a schema {held:.1f} tokens/s, cost {best:.1%}; rounds' median {cost:.1%}")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="as for `enginectl serve` (default %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="sequences at once (default %(default)s)")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of each prompt (default %(default)s)")
    parser.add_argument("--output", type=int, default=128, help="tokens made for each (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="0 = the usable physical cores")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser.parse_args()


def run(llm: LLM, prompts: list[list[int]], output: int, form: str) -> float:
    """Seconds that the batch took."""
    params = [
        SamplingParams(temperature=1, seed=i, max_tokens=output, ignore_eos=True, guided_json=form)
        for i in range(len(prompts))
    ]
    begin = time.perf_counter()
    results = llm.generate(prompts, params, use_tqdm=False)
    elapsed = time.perf_counter() - begin
    made = sum(len(result.outputs[0].token_ids) for result in results)
    if made != len(prompts) * output:
        raise SystemExit(f"{made} tokens came out, {len(prompts) * output} were asked for")
    return elapsed


if __name__ == "__main__":
    sys.exit(main())
