"""Finished requests, in the shapes that vLLM made familiar. Made by `llm`."""

from __future__ import annotations

from dataclasses import dataclass, field

from pagoda.generation import Logprob, TokenEvent


@dataclass(slots=True)
class CompletionOutput:
    """One continuation. `logprobs` has one dictionary per token when asked for; `seed` is the request's.

    `finish_reason` is stop, length, abort or error; `stop_reason` the stop token or string; `error` says what failed.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] | None = None
    cumulative_logprob: float | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    seed: int | None = None
    error: str | None = None

    def add(self, event: TokenEvent) -> None:
        """Appends one step's part."""
        self.text += event.text
        self.token_ids += event.token_ids
        if event.logprobs is not None:
            self.logprobs = (self.logprobs or []) + event.logprobs
            chosen = zip(event.token_ids, event.logprobs, strict=True)
            self.cumulative_logprob = (self.cumulative_logprob or 0.0) + sum(
                row[token].logprob for token, row in chosen
            )
        self.finish_reason = event.finish_reason
        self.stop_reason = event.stop_reason
        self.seed = event.seed
        self.error = event.error


@dataclass(slots=True)
class RequestOutput:
    """One prompt with its n continuations.

    `prompt` is None for a prompt of token ids. `prompt_logprobs` has one entry per prompt token, None for the first.
    `embedding` is the pooled hidden state, for `LLM.embed`. `num_cached_tokens` are those found in the prefix cache
    when choice 0 started; the others share what it computes.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    num_cached_tokens: int = 0
    embedding: list[float] | None = None

    @property
    def finished(self) -> bool:
        """Every continuation has ended."""
        return all(output.finish_reason is not None for output in self.outputs)

    def add(self, event: TokenEvent) -> None:
        """Takes one step's part of one continuation."""
        self.outputs[event.index].add(event)
        if event.index == 0:
            self.num_cached_tokens = event.num_cached_tokens
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = event.prompt_logprobs
        if event.embedding is not None:
            self.embedding = event.embedding
