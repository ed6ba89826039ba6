"""What the equation tests compare: everything a request gave back, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pagoda import LLM, RequestOutput, SamplingParams

# Of the models with equations, those that are tried on every instruction set and with every type of KV cache.
THOROUGH = ["llama", "mistral-window", "qwen3-bf16", "llama.q4_1", "qwen2.q8_0"]

# Per choice: its tokens, and per token the logprob and rank of every reported token.
Result = list[tuple[list[int], list[dict[int, tuple[float, int | None]]], str | None]]


def mixed_params(number: int, max_tokens: int = 24, n: int = 1, **more: Any) -> SamplingParams:
    """Parameters that differ from request to request: greedy, plain and penalised sampling, each with its own seed."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
        {
            "temperature": 1.2,
            "min_p": 0.02,
            "repetition_penalty": 1.2,
            "frequency_penalty": 0.3,
            "presence_penalty": 0.2,
        },
    ]
    kind = kinds[number % len(kinds)]
    return SamplingParams(**kind, seed=1000 + number, n=n, max_tokens=max_tokens, ignore_eos=True, logprobs=5, **more)


def result_of(output: RequestOutput) -> Result:
    """Exact content of one request's answer."""
    made: Result = []
    for choice in output.outputs:
        assert choice.logprobs is not None
        assert len(choice.logprobs) == len(choice.token_ids)
        rows = [{token: (row.logprob, row.rank) for token, row in position.items()} for position in choice.logprobs]
        made.append((choice.token_ids, rows, choice.finish_reason))
    return made


def together(llm: LLM, prompts: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[Result]:
    """All requests in one call."""
    return [result_of(output) for output in llm.generate(list(prompts), list(params), use_tqdm=False)]


def alone(llm: LLM, prompts: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[Result]:
    """One request after the other."""
    return [together(llm, [prompt], [own])[0] for prompt, own in zip(prompts, params, strict=True)]


@contextmanager
def engine(path: Path, **options: Any) -> Any:
    """A plain engine unless told otherwise: whole prompts, no prefix cache, one thread."""
    plain = {"prefix_cache": False, "num_threads": 1, "num_kv_blocks": 256, "skip_tokenizer": True}
    with LLM(str(path), **{**plain, **options}) as llm:
        yield llm
