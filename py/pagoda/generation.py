"""What a request gives back while it runs, and the bookkeeping that turns the engine's outputs into it.

Owns, per choice, the detokenizer and the end. Pure Python over plain outputs of the engine; used by `client` (streams)
and `llm` (batches).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pagoda.detokenizer import Detokenizer
from pagoda.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural log of a token's probability under the model (raw logits: before penalties and temperature).

    `rank` is 1 for the most likely token. `decoded_token` is None when there is no tokenizer.
    """

    logprob: float
    rank: int | None
    decoded_token: str | None


@dataclass(slots=True)
class TokenEvent:
    """What one engine step produced for one choice. The last event of a choice has a finish_reason.

    `text` is newly released text; it may be empty while a character or a possible stop string is held back. `logprobs`
    has one dictionary for each of `token_ids`: the chosen token first, then the best alternatives. `prompt_logprobs`
    comes once, on the first event of choice 0: one entry per prompt token, None for the first. While a long prompt is
    computed, events of choice 0 without tokens say in `num_prompt_computed` how far it is. `embedding` is the pooled
    hidden state, as it is, on the last event of a request that asked for it.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None
    stop_reason: int | str | None
    seed: int
    error: str | None
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    num_cached_tokens: int
    num_prompt_computed: int | None = None
    embedding: list[float] | None = None


def logprob_dict(token: int, row: Any, tokenizer: Tokenizer | None) -> dict[int, Logprob]:
    """The entry of one position: `token` itself, then the best alternatives. `row` is the engine's TokenLogprobs."""

    def text(token_id: int) -> str | None:
        return tokenizer.token_text(token_id) if tokenizer is not None else None

    entry = {token: Logprob(row.logprob, row.rank, text(token))}
    for rank, (other, logprob) in enumerate(zip(row.top_tokens, row.top_logprobs, strict=True), start=1):
        if other not in entry and other >= 0:
            entry[other] = Logprob(logprob, rank, text(other))
    return entry


@dataclass(slots=True)
class _Choice:
    """One continuation: its detokenizer (None without a tokenizer) and whether its last event was made."""

    detokenizer: Detokenizer | None
    finished: bool = False


@dataclass(slots=True)
class RequestState:
    """One request in flight. `absorb` is called with its outputs in order, from one thread."""

    request_id: str
    prompt_token_ids: Sequence[int]
    params: Any
    tokenizer: Tokenizer | None
    choices: list[_Choice] = field(init=False)

    def __post_init__(self) -> None:
        self.choices = [_Choice(self._detokenizer()) for _ in range(self.params.n)]

    def _detokenizer(self) -> Detokenizer | None:
        if self.tokenizer is None:
            return None
        params = self.params
        return Detokenizer(
            self.tokenizer,
            params.stop,
            skip_special_tokens=params.skip_special_tokens,
            include_stop_str=params.include_stop_str_in_output,
            min_tokens=params.min_tokens,
            strip_leading_space=False,
        )

    @property
    def finished(self) -> bool:
        """Every choice has had its last event."""
        return all(choice.finished for choice in self.choices)

    def absorb(self, output: Any) -> TokenEvent | None:
        """The event that an engine output makes, or None when its choice has ended already.

        When a stop string ends a choice that the engine still runs, the event's finish_reason is `stop` and the caller
        aborts that choice in the engine.
        """
        choice = self.choices[output.choice]
        if choice.finished:
            return None
        tokens: list[int] = output.tokens
        finish: str | None = output.finish
        ended_by_token = output.stop_token >= 0
        stop_reason: int | str | None = output.stop_token if output.stop_token in self.params.stop_token_ids else None
        text = ""
        if choice.detokenizer is not None:
            # A token that ended the choice is not part of its text.
            shown = tokens[:-1] if ended_by_token and tokens else tokens
            num_before = choice.detokenizer.num_tokens
            text = choice.detokenizer.push(shown)
            if choice.detokenizer.stopped is not None:  # one step can draw tokens behind a stop string
                tokens = tokens[: choice.detokenizer.num_tokens - num_before]
            elif finish is not None:
                text += choice.detokenizer.finish()
            if choice.detokenizer.stopped is not None:
                finish, stop_reason = "stop", choice.detokenizer.stopped
        choice.finished = finish is not None
        return TokenEvent(
            index=output.choice,
            text=text,
            token_ids=tokens,
            logprobs=self._logprobs(tokens, output.logprobs) if self.params.logprobs is not None else None,
            finish_reason=finish,
            stop_reason=stop_reason,
            seed=self.params.seed,
            error=output.error or None,
            prompt_logprobs=self._prompt_logprobs(output.prompt_logprobs),
            num_cached_tokens=output.num_cached_tokens,
            num_prompt_computed=output.num_prompt_computed or None,
            embedding=output.embedding or None,
        )

    def _logprobs(self, tokens: Sequence[int], rows: Sequence[Any]) -> list[dict[int, Logprob]]:
        return [logprob_dict(token, row, self.tokenizer) for token, row in zip(tokens, rows, strict=False)]

    def _prompt_logprobs(self, rows: Sequence[Any]) -> list[dict[int, Logprob] | None] | None:
        if self.params.prompt_logprobs is None or (not rows and len(self.prompt_token_ids) > 1):
            return None
        entries = zip(self.prompt_token_ids[1:], rows, strict=True)
        return [None, *(logprob_dict(token, row, self.tokenizer) for token, row in entries)]
