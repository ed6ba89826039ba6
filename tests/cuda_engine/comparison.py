"""How the engine tests compare the emulated GPU with the CPU: on prompts whose greedy tokens are no coin toss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from e2e.tiny_models import prompt_of

from pagoda import LLM, RequestOutput, SamplingParams

NUM_TOKENS = 8
NUM_CANDIDATES = 24  # prompts that are tried at a time
MAX_TRIES = 20
MAX_MODEL_LEN = 32  # some rotary embeddings depend on it
# Activations are bf16 on the GPU and f32 on the CPU: a logprob moves by about 1 % of the spread of the logits, seldom
# by 5 %.
# The spread is taken as the distance from the best token to the twentieth.
NUM_TOP = 20
CLEAR_MARGIN = 0.1

GREEDY = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=NUM_TOP)


def engine(path: Path, device: str, **options: Any) -> LLM:
    """Without a tokenizer and a prefix cache, with steps of few tokens, unless told otherwise.

    When the engine starts, matrix products are tried for up to as many tokens as a step holds.
    """
    plain = {
        "skip_tokenizer": True,
        "num_threads": 1,
        "num_kv_blocks": 128,
        "max_model_len": MAX_MODEL_LEN,
        "prefix_cache": False,
        "max_num_batched_tokens": 32,
        "max_num_seqs": 8,
    }
    return LLM(str(path), device=device, **{**plain, **options})


def margin(output: RequestOutput) -> float:
    """The smallest distance of the best token's logprob to the second's at any position, in parts of the spread."""
    rows = output.outputs[0].logprobs
    assert rows is not None
    smallest = float("inf")
    for row in rows:
        values = sorted((entry.logprob for entry in row.values()), reverse=True)
        smallest = min(smallest, (values[0] - values[1]) / (values[0] - values[NUM_TOP - 1]))
    return smallest


def clear_prompts(
    path: Path, lengths: Sequence[int], vocab: int, has_experts: bool = False, **options: Any
) -> tuple[list[list[int]], list[list[int]]]:
    """For each length a random prompt that the CPU continues with clear choices; and its tokens.

    Which experts a token goes to can be a coin toss too, without a trace in the logits: with `has_experts` a prompt
    must be continued alike when the weights are rounded to bf16. `options` are the engine's.
    """
    options = {"max_num_seqs": NUM_CANDIDATES, "max_num_batched_tokens": 256, **options}
    with ExitStack() as stack:
        llms = [stack.enter_context(engine(path, "cpu", **options))]
        if has_experts:
            llms.append(stack.enter_context(engine(path, "cpu", weight_format="bf16", **options)))
        found = [_clear_prompt(llms, length, vocab) for length in lengths]
    return [prompt for prompt, _ in found], [tokens for _, tokens in found]


def _clear_prompt(llms: Sequence[LLM], length: int, vocab: int) -> tuple[list[int], list[int]]:
    for first in range(0, MAX_TRIES * NUM_CANDIDATES, NUM_CANDIDATES):
        tried = [prompt_of(length, seed=first + i, vocab=vocab) for i in range(NUM_CANDIDATES)]
        runs = [llm.generate(tried, GREEDY, use_tqdm=False) for llm in llms]
        for prompt, *outputs in zip(tried, *runs, strict=True):
            tokens = tokens_of(outputs)
            if min(map(margin, outputs)) > CLEAR_MARGIN and all(other == tokens[0] for other in tokens):
                return prompt, tokens[0]
    raise AssertionError(f"no prompt of {length} tokens has clear continuations")


def tokens_of(outputs: Sequence[RequestOutput]) -> list[list[int]]:
    """The tokens of each request's only choice."""
    return [output.outputs[0].token_ids for output in outputs]
