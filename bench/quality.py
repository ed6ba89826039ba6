"""How near an engine's probabilities are to those of the same file's weights, dequantised and computed in f32.

    python bench/quality.py [--model FILE.gguf] [--tokens 20480] [--engine kv_cache_dtype=f32 ...] [--no-llama-cpp]

The text (bench/data) is cut into windows, each a text of its own; every token of a window but the first is scored.
The reference is transformers in f32. `--engine` is a set of engine options ("a=1,b=2", or "" for the defaults) and can
be repeated. Columns:
  ppl      perplexity: exp of the mean negative log probability of the text's tokens
  |dlogp|  mean absolute difference of those log probabilities and the reference's
  KL-top   mean KL(reference || engine) over the engine's 64 likeliest tokens and one class for all others: a lower
           bound of KL, taken for every engine alike
  KL       the same over the whole vocabulary, where the engine gives all of it: llama.cpp does, Pagoda reports 64
  top-1    share of the positions where both find the same token likeliest
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import transformers
import yaml

from pagoda import LLM, SamplingParams, models

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "bench" / "data" / "alice.txt"
LLAMA_LOGITS = ROOT / "build" / "peers" / "llama.cpp" / "llama_logits"
TOP = 64  # the most alternatives that the engine reports
TINY = 1e-12  # less mass than this in the class of all other tokens is rounding


@dataclass
class Rows:
    """What an engine says at consecutive positions; natural logarithms."""

    chosen: np.ndarray  # [n] of the token that follows
    top_ids: np.ndarray  # [n, TOP] likeliest first
    top: np.ndarray  # [n, TOP]
    full: torch.Tensor | None = None  # [n, vocab], where known


@dataclass
class Score:
    """Sums over positions of one engine beside the reference."""

    count: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("nll", "error", "kl_top", "kl", "same"), 0.0))
    has_full: bool = False

    def add(self, rows: Rows, reference: torch.Tensor, tokens: np.ndarray) -> None:
        """`reference` [n, vocab]: log probabilities; `tokens` [n]: those that follow."""
        theirs = reference[torch.arange(len(tokens)), torch.from_numpy(tokens)].double().numpy()
        known = reference.gather(1, torch.from_numpy(rows.top_ids)).double().numpy()
        self.count += len(tokens)
        self.sums["nll"] -= rows.chosen.sum()
        self.sums["error"] += np.abs(rows.chosen - theirs).sum()
        self.sums["kl_top"] += coarse_kl(known, rows.top.astype(np.float64)).sum()
        self.sums["same"] += float((reference.argmax(1).numpy() == rows.top_ids[:, 0]).sum())
        if rows.full is not None:
            self.has_full = True
            self.sums["kl"] += float((reference.exp() * (reference - rows.full)).sum(dtype=torch.float64))

    def means(self) -> dict[str, float | None]:
        """The columns of the table."""
        mean = {name: value / self.count for name, value in self.sums.items()}
        return {
            "perplexity": float(np.exp(mean["nll"])),
            "mean_abs_logprob_error": mean["error"],
            "kl_top": mean["kl_top"],
            "kl": mean["kl"] if self.has_full else None,
            "top1_agreement": mean["same"],
        }


def coarse_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) in nats per row of log probabilities [n, k]; what is missing to 1 is one more class."""
    rest_p, rest_q = (np.maximum(1 - np.exp(side).sum(1), TINY) for side in (p, q))
    return (np.exp(p) * (p - q)).sum(1) + rest_p * (np.log(rest_p) - np.log(rest_q))


def main() -> int:
    """Scores every engine on the same windows and prints a table, or with --json one object per line."""
    args = parse()
    path = Path(models.resolve(args.model).path)
    windows = tokenize(path, args.text, args.tokens, args.window)
    ours = {f"pagoda {options}".strip(): ask_engine(path, windows, options, args.threads) for options in args.engine}
    torch.set_num_threads(args.threads)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    peer = None if args.no_llama_cpp else LlamaCpp(args.llama_cpp, path, windows, args.threads)
    scores = {name: Score() for name in ["reference", *ours, *(["llama.cpp"] if peer else [])]}
    for index, window in enumerate(windows):
        with torch.inference_mode():
            logits = reference(torch.from_numpy(window)[None].long()).logits[0, :-1].float()
        truth, tokens = torch.log_softmax(logits, -1), window[1:].astype(np.int64)
        scores["reference"].add(rows_of(logits, tokens), truth, tokens)
        for name, parts in ours.items():
            scores[name].add(parts[index], truth, tokens)
        if peer:
            scores["llama.cpp"].add(rows_of(peer.next(logits.shape[1]), tokens), truth, tokens)
    report(path, windows, scores, args.json)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="GGUF file, or alias of one (default %(default)s)")
    parser.add_argument("--text", type=Path, default=TEXT, help="UTF-8 file (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=20480, help="at most so many of the text's (default %(default)s)")
    parser.add_argument("--window", type=int, default=512, help="tokens that are one text (default %(default)s)")
    parser.add_argument("--engine", action="append", help="engine options; unset: the defaults, and an f32 KV cache")
    parser.add_argument("--no-llama-cpp", action="store_true", help="leave llama.cpp out")
    parser.add_argument("--llama-cpp", type=Path, default=LLAMA_LOGITS, help="program (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of every engine (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    args = parser.parse_args()
    if not 2 <= args.window <= args.tokens:
        parser.error(f"--window must be from 2 to --tokens ({args.tokens}), got {args.window}")
    if not args.no_llama_cpp and not args.llama_cpp.exists():
        parser.error(f"{args.llama_cpp} is missing: `python bench/peers/run.py --setup llama.cpp`, or --no-llama-cpp")
    args.engine = ["", "kv_cache_dtype=f32"] if args.engine is None else args.engine
    return args


def tokenize(model: Path, text: Path, limit: int, window: int) -> list[np.ndarray]:
    """Whole windows of the text's tokens, int32. Exits when there is not one."""
    with LLM(str(model), num_kv_blocks=64, max_model_len=64) as llm:
        ids = llm.get_tokenizer().encode(text.read_text(encoding="utf-8"))[:limit]
    if len(ids) < window:
        raise SystemExit(f"{text} has {len(ids)} tokens, fewer than one window of {window}")
    return [np.array(ids[at : at + window], dtype=np.int32) for at in range(0, len(ids) - window + 1, window)]


def ask_engine(model: Path, windows: list[np.ndarray], options: str, threads: int) -> list[Rows]:
    """The engine's rows of every window; `options` is "name=value,..."."""
    given: dict[str, Any] = yaml.safe_load("\n".join(options.replace("=", ": ").split(","))) or {}
    params = SamplingParams(prompt_logprobs=TOP, max_tokens=1, temperature=0)
    with LLM(str(model), skip_tokenizer=True, num_threads=threads, max_model_len=len(windows[0]) + 1, **given) as llm:
        return [engine_rows(llm, window, params) for window in windows]


def engine_rows(llm: LLM, window: np.ndarray, params: SamplingParams) -> Rows:
    """One window's."""
    tokens = window.tolist()
    answers = llm.generate([tokens], params, use_tqdm=False)[0].prompt_logprobs
    if answers is None or len(answers) != len(tokens):
        raise SystemExit("the engine gave no log probabilities of the prompt")
    chosen, ids, top = [], [], []
    for answer, token in zip(answers[1:], tokens[1:], strict=True):
        best = sorted(answer.items(), key=lambda item: item[1].rank)[:TOP]
        chosen.append(answer[token].logprob)
        ids.append([key for key, _ in best])
        top.append([value.logprob for _, value in best])
    return Rows(np.array(chosen), np.array(ids, dtype=np.int64), np.array(top))


def rows_of(logits: torch.Tensor, tokens: np.ndarray) -> Rows:
    """The rows of logits [n, vocab]."""
    full = torch.log_softmax(logits, -1)
    top = full.topk(TOP, dim=1)
    chosen = full[torch.arange(len(tokens)), torch.from_numpy(tokens)]
    return Rows(chosen.double().numpy(), top.indices.numpy(), top.values.double().numpy(), full)


class LlamaCpp:
    """llama.cpp's logits, window by window, from a process of its own."""

    def __init__(self, program: Path, model: Path, windows: list[np.ndarray], threads: int) -> None:
        """Starts it and feeds it all windows."""
        command = [str(program), str(model), str(threads), str(len(windows[0]))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._window = len(windows[0])
        ids = b"".join(window.tobytes() for window in windows)
        threading.Thread(target=self._feed, args=(self._process.stdin, ids), daemon=True).start()

    @staticmethod
    def _feed(pipe: IO[bytes], ids: bytes) -> None:
        with pipe:
            pipe.write(ids)

    def next(self, vocab: int) -> torch.Tensor:
        """[window - 1, vocab] of the next window. Exits when the process ended early."""
        size = self._window * vocab * 4
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise SystemExit(f"llama.cpp ended with status {self._process.wait()}")
        return torch.from_numpy(np.frombuffer(data, dtype=np.float32).reshape(self._window, vocab)[:-1].copy())


def report(path: Path, windows: list[np.ndarray], scores: dict[str, Score], as_json: bool) -> None:
    """Prints the table or the lines."""
    if as_json:
        for name, score in scores.items():
            print(json.dumps({"model": path.name, "engine": name, "positions": score.count, **score.means()}))
        return
    print(f"{path.name}, {len(windows)} windows of {len(windows[0])} tokens, {scores['reference'].count} positions")
    print(f"{'':<32}{'ppl':>9}{'|dlogp|':>10}{'KL-top':>11}{'KL':>11}{'top-1':>8}")
    for name, score in scores.items():
        mean = score.means()
        full = "-" if mean["kl"] is None else f"{mean['kl']:.6f}"
        print(
            f"{name:<32}{mean['perplexity']:>9.4f}{mean['mean_abs_logprob_error']:>10.5f}{mean['kl_top']:>11.6f}{full:>11}"
            f"{mean['top1_agreement']:>8.4f}"
        )


if __name__ == "__main__":
    sys.exit(main())
