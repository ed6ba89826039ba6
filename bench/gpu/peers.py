"""Times other people's kernels on the shapes of kernels_bench.cc.

    python3 bench/gpu/peers.py [--out FILE] [--commit HASH]

torch, and FlashInfer and FlashAttention 3 where they are installed. Rows have the fields of kernels_bench's rows and
`peer`, so that both files can be laid side by side. Weights and caches rotate through more memory than the cache holds;
a row is the median of several recorded passes. A peer that is not installed or fails is named with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HEADS, KV_HEADS, HEAD_DIM, PAGE = 32, 8, 128, 16
SHAPES = {
    "qkv": (6144, 4096),
    "out": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "head": (128256, 4096),
}
FA3_MODULES = ("flash_attn_interface", "fa3_fwd_interface", "flash_attn_3.flash_attn_interface")
REPEATS = 9
PASS_US = 3000

Work = Callable[[int], Any]
Row = dict[str, Any]


class Bench:
    """The device as torch sees it, and the rows so far."""

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        if not self.torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU")
        self.l2_bytes = self.torch.cuda.get_device_properties(0).L2_cache_size
        self.rows: list[Row] = []

    def random(self, *shape: int, scale: float = 1.0) -> Any:
        """Normally distributed bf16."""
        return self.torch.randn(shape, device="cuda", dtype=self.torch.bfloat16) * scale

    def copies(self, num_bytes: int) -> int:
        """So many sets of data do not fit in the cache together."""
        return max(2, min(256, 2 * self.l2_bytes // max(1, num_bytes) + 1))

    def _between(self, work: Callable[[], Any]) -> float:
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1000

    def microseconds(self, num_different: int, work: Work) -> float:
        """Of one run; runs count through the sets of data."""
        for run in range(2):
            work(run % num_different)
        self.torch.cuda.synchronize()
        first = self._between(lambda: work(0))
        num_runs = max(1, min(500, int(PASS_US / max(first, 1))), min(num_different, 500))

        def row() -> None:
            for run in range(num_runs):
                work(run % num_different)

        replay = row
        try:
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                row()
            replay = graph.replay
        except RuntimeError:  # it cannot be recorded: the CPU's launches count too
            self.torch.cuda.synchronize()
        replay()
        return statistics.median(self._between(replay) / num_runs for _ in range(REPEATS))

    def add(self, family: str, peer: str, case: Row, run: Callable[[], tuple[int, Work]]) -> None:
        """Measures what `run` prepares: the number of sets of data, and the work on one."""
        row: Row = {"family": family, "peer": peer, **case}
        try:
            row["microseconds"] = self.microseconds(*run())
        except Exception as error:  # whatever a peer throws, the next one is measured
            row["missing"] = f"{type(error).__name__}: {error}"[:300]
        self.torch.cuda.empty_cache()
        self.rows.append(row)
        print(json.dumps(row), flush=True)


def decode_cases() -> Iterator[tuple[int, int]]:
    for batch in (1, 8, 64):
        for context in (1024, 8192, 32768):
            if batch * context <= 64 * 8192:
                yield batch, context


def bench_torch(bench: Bench) -> None:
    """Attention, products and sampling by torch itself."""
    torch = bench.torch
    attention = torch.nn.functional.scaled_dot_product_attention

    def decode(batch: int, context: int) -> tuple[int, Work]:
        copies = bench.copies(batch * context * 2 * KV_HEADS * HEAD_DIM * 2)
        q = bench.random(batch, HEADS, 1, HEAD_DIM)
        kv = [bench.random(2, batch, KV_HEADS, context, HEAD_DIM) for _ in range(copies)]
        return copies, lambda run: attention(q, kv[run][0], kv[run][1], enable_gqa=True)

    def prefill(tokens: int) -> tuple[int, Work]:
        q, kv = bench.random(1, HEADS, tokens, HEAD_DIM), bench.random(2, 1, KV_HEADS, tokens, HEAD_DIM)
        return 1, lambda _: attention(q, kv[0], kv[1], is_causal=True, enable_gqa=True)

    def linear(rows: int, cols: int, tokens: int) -> tuple[int, Work]:
        copies = bench.copies(rows * cols * 2)
        x, weights = bench.random(tokens, cols), [bench.random(rows, cols, scale=0.02) for _ in range(copies)]
        return copies, lambda run: torch.nn.functional.linear(x, weights[run])

    def sample(batch: int, vocab: int) -> tuple[int, Work]:
        logits = torch.randn(batch, vocab, device="cuda")

        def work(_: int) -> Any:
            best, ids = (logits / 0.8).sort(dim=-1, descending=True)
            best[:, 50:] = float("-inf")
            mass = best.softmax(dim=-1)
            mass[mass.cumsum(dim=-1) - mass > 0.9] = 0
            noise = torch.empty_like(mass).exponential_()
            return ids.gather(1, (mass / noise).argmax(dim=-1, keepdim=True))

        return 1, work

    for batch, context in decode_cases():
        case = {"batch": batch, "context": context, "kv": "bf16"}
        bench.add("decode_attention", "torch SDPA, dense", case, lambda b=batch, c=context: decode(b, c))
    for tokens in (2048, 4096, 8192, 16384):
        case = {"batch": 1, "queries": tokens, "context": tokens}
        bench.add("prefill_attention", "torch SDPA, dense", case, lambda t=tokens: prefill(t))
    for name, (rows, cols) in SHAPES.items():
        for tokens in (1, 8, 16, 64, 256, 2048)[: 5 if name == "head" else 6]:
            case = {"weight": name, "rows": rows, "cols": cols, "format": "bf16", "tokens": tokens}
            bench.add("linear", "torch", case, lambda r=rows, c=cols, t=tokens: linear(r, c, t))
    for batch in (1, 64, 256):
        case = {"batch": batch, "vocabulary": 151936, "kind": "temperature 0.8, top-k 50, top-p 0.9"}
        bench.add("sampler", "torch, sort", case, lambda b=batch: sample(b, 151936))


def bench_flashinfer(bench: Bench) -> None:
    """Paged decode, prefill, sampling and norms. The first call of each compiles."""
    torch, flashinfer = bench.torch, importlib.import_module("flashinfer")

    def decode(batch: int, context: int) -> tuple[int, Work]:
        pages = context // PAGE
        copies = bench.copies(batch * context * 2 * KV_HEADS * HEAD_DIM * 2)
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            torch.empty(128 << 20, dtype=torch.uint8, device="cuda"), "HND", use_tensor_cores=True
        )
        indptr = torch.arange(batch + 1, dtype=torch.int32, device="cuda") * pages
        indices = torch.randperm(batch * pages, device="cuda").int()
        last = torch.full((batch,), PAGE, dtype=torch.int32, device="cuda")
        types = {"q_data_type": torch.bfloat16, "kv_data_type": torch.bfloat16}
        wrapper.plan(indptr, indices, last, HEADS, KV_HEADS, HEAD_DIM, PAGE, **types)
        q = bench.random(batch, HEADS, HEAD_DIM)
        caches = [bench.random(batch * pages, 2, KV_HEADS, PAGE, HEAD_DIM) for _ in range(copies)]
        return copies, lambda run: wrapper.run(q, caches[run])

    def prefill(tokens: int) -> tuple[int, Work]:
        q, kv = bench.random(tokens, HEADS, HEAD_DIM), bench.random(2, tokens, KV_HEADS, HEAD_DIM)
        return 1, lambda _: flashinfer.single_prefill_with_kv_cache(q, kv[0], kv[1], causal=True)

    def sample(batch: int) -> tuple[int, Work]:
        logits = torch.randn(batch, 151936, device="cuda") / 0.8
        return 1, lambda _: flashinfer.sampling.top_k_top_p_sampling_from_logits(logits, 50, 0.9)

    def add_norm(tokens: int) -> tuple[int, Work]:
        copies = bench.copies(tokens * 4096 * 8)
        sets = [(bench.random(tokens, 4096), bench.random(tokens, 4096)) for _ in range(copies)]
        weight = bench.random(4096)
        return copies, lambda run: flashinfer.norm.fused_add_rmsnorm(*sets[run], weight)

    for batch, context in decode_cases():
        case = {"batch": batch, "context": context, "kv": "bf16"}
        bench.add("decode_attention", "FlashInfer", case, lambda b=batch, c=context: decode(b, c))
    for tokens in (2048, 8192, 16384):
        case = {"batch": 1, "queries": tokens, "context": tokens}
        bench.add("prefill_attention", "FlashInfer, dense", case, lambda t=tokens: prefill(t))
    for batch in (1, 64, 256):
        case = {"batch": batch, "vocabulary": 151936, "kind": "temperature 0.8, top-k 50, top-p 0.9"}
        bench.add("sampler", "FlashInfer", case, lambda b=batch: sample(b))
    for tokens in (1, 16, 256, 2048, 8192):
        bench.add("add_rms_norm", "FlashInfer", {"tokens": tokens}, lambda t=tokens: add_norm(t))


def bench_fa3(bench: Bench) -> None:
    """Dense prefill by FlashAttention 3."""
    for name in FA3_MODULES:
        try:
            attention = importlib.import_module(name).flash_attn_func
            break
        except (ImportError, AttributeError):
            continue
    else:
        raise ImportError(f"none of {', '.join(FA3_MODULES)} is there")

    def prefill(tokens: int) -> tuple[int, Work]:
        q, kv = bench.random(1, tokens, HEADS, HEAD_DIM), bench.random(2, 1, tokens, KV_HEADS, HEAD_DIM)
        return 1, lambda _: attention(q, kv[0], kv[1], causal=True)

    for tokens in (2048, 4096, 8192, 16384):
        case = {"batch": 1, "queries": tokens, "context": tokens}
        bench.add("prefill_attention", "FlashAttention 3, dense", case, lambda t=tokens: prefill(t))


def main() -> int:
    """Measures every peer that is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--commit", default="unknown", help="of the sources beside which the peers are measured")
    options = parser.parse_args()
    try:
        bench = Bench()
    except (ImportError, RuntimeError) as error:
        print(f"no peers were measured: {error}")
        return 0
    missing: dict[str, str] = {}
    for name, run in (("torch", bench_torch), ("FlashInfer", bench_flashinfer), ("FlashAttention 3", bench_fa3)):
        try:
            run(bench)
        except ImportError as error:
            missing[name] = str(error)
            print(f"{name} is not installed: {error}")
        if options.out is not None:  # after every peer: the time for the next one may run out
            facts = {
                "benchmark": "peers",
                "device": bench.torch.cuda.get_device_name(0),
                "torch": bench.torch.__version__,
            }
            report = {**facts, "commit": options.commit, "missing": missing, "rows": bench.rows}
            options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
