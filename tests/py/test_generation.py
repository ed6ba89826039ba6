"""What the engine's outputs become when a step gives several tokens of a choice at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from text_tokenizers import byte_level_gguf

from pagoda._core import SamplingParams
from pagoda.generation import RequestState, TokenEvent
from pagoda.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_gguf(byte_level_gguf())
SINGLE = {TOKENIZER.token_bytes(token): token for token in range(TOKENIZER.vocab_size)}
EOS = TOKENIZER.vocab_size - 1


def tokens_of(text: bytes) -> list[int]:
    """One token for each byte."""
    return [SINGLE[bytes([byte])] for byte in text]


def output(tokens: list[int], **changes: Any) -> Any:
    """One output of the engine; each logprob says which token it belongs to."""
    logprobs = [SimpleNamespace(logprob=-float(token), rank=1, top_tokens=[], top_logprobs=[]) for token in tokens]
    values = {"choice": 0, "tokens": tokens, "logprobs": logprobs, "prompt_logprobs": [], "finish": None}
    values |= {"stop_token": -1, "num_cached_tokens": 0, "num_prompt_computed": 0, "embedding": [], "error": ""}
    return SimpleNamespace(**(values | changes))


def absorb(one: Any) -> TokenEvent:
    """The event of a request with the stop string STOP."""
    state = RequestState("a", [1], SamplingParams(seed=1, logprobs=0, stop=["STOP"]), TOKENIZER)
    event = state.absorb(one)
    assert event is not None
    assert event.logprobs is not None
    assert [next(iter(entry.values())).logprob for entry in event.logprobs] == [-float(t) for t in event.token_ids]
    return event


def test_tokens_behind_a_stop_string_are_cut_off() -> None:
    event = absorb(output(tokens_of(b"abcSTOPdef")))
    assert (event.text, event.token_ids) == ("abc", tokens_of(b"abcSTOP"))
    assert (event.finish_reason, event.stop_reason) == ("stop", "STOP")


def test_a_stop_string_wins_over_an_end_behind_it() -> None:
    tokens = tokens_of(b"abSTOPc")
    for one in (output(tokens, finish="length"), output([*tokens, EOS], finish="stop", stop_token=EOS)):
        event = absorb(one)
        assert (event.text, event.token_ids) == ("ab", tokens_of(b"abSTOP"))
        assert (event.finish_reason, event.stop_reason) == ("stop", "STOP")


def test_without_a_stop_string_all_tokens_count() -> None:
    tokens = [*tokens_of(b"abSTO"), EOS]
    event = absorb(output(tokens, finish="stop", stop_token=EOS))
    assert (event.text, event.token_ids, event.stop_reason) == (
        "abSTO",
        tokens,
        None,
    )  # the end is no stop of the request's
