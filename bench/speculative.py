"""What speculative decoding gives: the same requests with and without it, by turns, on this machine.

    python bench/speculative.py [--model smollm2-135m] [--case edit --case prose] [--rounds 5] [--json]

`edit` writes a program again with a name changed and `quote` summarises a text in quotes, both greedy; `prose` is drawn
at temperature 1 and repeats hardly anything; `_16` is 16 of them at once. The prompts are in the prefix cache. A round
is one run of each side; both must give the same tokens. Prints output tokens per second of the median rounds, the
median of the rounds' ratios with their range, and the share of draft tokens that came true.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pagoda import LLM, SamplingParams

PROGRAM = """class Basket:
    def __init__(self, owner):
        self.owner = owner
        self.items = {}

    def add(self, name, price, count=1):
        old_price, old_count = self.items.get(name, (price, 0))
        self.items[name] = (price, old_count + count)

    def remove(self, name, count=1):
        price, old_count = self.items[name]
        if old_count <= count:
            del self.items[name]
        else:
            self.items[name] = (price, old_count - count)

    def total(self):
        return sum(price * count for price, count in self.items.values())

    def describe(self):
        lines = [f"Basket of {self.owner}"]
        for name, (price, count) in sorted(self.items.items()):
            lines.append(f"{count} x {name} at {price:.2f}")
        lines.append(f"total: {self.total():.2f}")
        return "\\n".join(lines)
"""
TEXT = """The lighthouse keeper wrote in his book every evening. On the third of March the wind turned to the north and
two boats came in late. On the fourth there was fog until noon, and the bell was rung four hundred times. On the fifth a
stranger asked for the key of the tower and was refused. On the sixth the lamp was cleaned with vinegar and chalk, and
the glass was found to be cracked at the lower edge. On the seventh the stranger came back with a letter of the harbour
master, and the door was opened for him."""


@dataclass(frozen=True)
class Case:
    """`batch` times the same question, whose answer begins with `answer` and goes on for `output` tokens; drawn ones
    have seeds of their own.
    """

    name: str
    question: str
    answer: str
    temperature: float = 0
    batch: int = 1
    output: int = 192

    def messages(self) -> list[dict[str, str]]:
        """The conversation, its last message unfinished."""
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


EDIT = (
    f"```python\n{PROGRAM}```\nWrite this program again with Basket renamed to Cart. Change nothing else.",
    "```python\n",
)
QUOTE = (f"{TEXT}\n\nSummarise the text in quotes of its sentences.", '"The lighthouse keeper')
PROSE = ("Tell me a story.", "It was late in the year when the two of them decided")
CASES = (
    Case("edit", *EDIT),
    Case("quote", *QUOTE),
    Case("prose", *PROSE, temperature=1),
    Case("edit_16", *EDIT, batch=16),
    Case("prose_16", *PROSE, temperature=1, batch=16),
)


def main() -> int:
    """Loads the model twice, runs the chosen cases by turns and prints a line for each."""
    args = parse()
    speculative = {"method": "ngram", "num_speculative_tokens": args.tokens}
    common: dict[str, Any] = {"num_threads": args.threads, "weight_format": args.weight_format}
    with LLM(args.model, **common) as plain, LLM(args.model, **common, speculative=speculative) as drafting:
        facts = plain.describe()
        if not args.json:
            print(f"{args.model}: {facts['device']}, {facts['isa']}, {facts['num_threads']} threads")
        for case in CASES:
            if args.case and case.name not in args.case:
                continue
            measure(case, plain, drafting, 1)  # warms up
            report(case, measure(case, plain, drafting, args.rounds), args.json)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="as for `enginectl serve` (default %(default)s)")
    parser.add_argument("--weight-format", default="auto", help="as for `enginectl serve` (default %(default)s)")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="repeatable; unset: all")
    parser.add_argument("--tokens", type=int, default=5, help="num_speculative_tokens (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="0 = the usable physical cores")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    return args


def measure(case: Case, plain: LLM, drafting: LLM, rounds: int) -> dict[str, Any]:
    """Seconds of each side in each round, and what became of the draft tokens."""
    pairs = []
    before = drafting.stats()
    for _ in range(rounds):
        expected, base = run(case, plain)
        got, seconds = run(case, drafting)
        if got != expected:
            raise SystemExit(f"{case.name}: other tokens came out with speculation than without")
        pairs.append((base, seconds))
    counts = {name: drafting.stats()[name] - before[name] for name in before if name.startswith("spec_decode_")}
    return {"pairs": pairs, **counts}


def run(case: Case, llm: LLM) -> tuple[list[Sequence[int]], float]:
    """The tokens of all requests, and the seconds they took."""
    params = [
        SamplingParams(temperature=case.temperature, seed=seed, max_tokens=case.output, ignore_eos=True)
        for seed in range(case.batch)
    ]
    conversations = [case.messages()] * case.batch
    begin = time.perf_counter()
    results = llm.chat(conversations, params, use_tqdm=False, add_generation_prompt=False, continue_final_message=True)
    return [result.outputs[0].token_ids for result in results], time.perf_counter() - begin


def report(case: Case, measured: Mapping[str, Any], as_json: bool) -> None:
    """One line: rates of both sides, ratio, acceptance."""
    tokens = case.batch * case.output
    rates = [tokens / statistics.median(side) for side in zip(*measured["pairs"], strict=True)]
    ratios = sorted(base / seconds for base, seconds in measured["pairs"])
    drafted, accepted = measured["spec_decode_num_draft_tokens"], measured["spec_decode_num_accepted_tokens"]
    result = {
        "case": case.name,
        "plain_tokens_per_s": rates[0],
        "speculative_tokens_per_s": rates[1],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "num_draft_tokens": drafted,
        "num_accepted_tokens": accepted,
    }
    if as_json:
        print(json.dumps(result))
        return
    share = f"{accepted / drafted:.0%} of {drafted}" if drafted else "none"
    print(
        f"{case.name:<10}{rates[0]:>9.1f} -> {rates[1]:>8.1f} output tok/s, ratio {result['ratio']:.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}), drafts that came true: {share}"
    )


if __name__ == "__main__":
    sys.exit(main())
