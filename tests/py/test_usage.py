"""What a finished request says of its prompt: the tokens that were in the cache before it, not those it put there."""

from __future__ import annotations

from pagoda.generation import TokenEvent
from pagoda.outputs import CompletionOutput, RequestOutput
from pagoda.server.events import abort_event
from pagoda.server.generation import Answer


def event(choice: int, num_cached_tokens: int) -> TokenEvent:
    """One token of a choice whose prompt was in the cache this far when the choice started."""
    return TokenEvent(choice, "a", [1], None, None, None, 7, None, None, num_cached_tokens)


def test_what_the_first_choice_computes_and_the_others_share_was_not_cached() -> None:
    answer = Answer([[1] * 40], 3)
    output = RequestOutput("id", None, [1] * 40, [CompletionOutput(index) for index in range(3)])
    for choice, cached in ((1, 32), (0, 0), (2, 32), (0, 0)):
        answer.add(0, event(choice, cached), keep_logprobs=True)
        output.add(event(choice, cached))
    assert answer.usage()["prompt_tokens_details"] == {"cached_tokens": 0}
    assert output.num_cached_tokens == 0


def test_what_was_cached_before_is_counted_once_for_each_prompt() -> None:
    answer = Answer([[1] * 40, [1] * 40], 2)
    for prompt in (0, 1):
        for choice in (0, 1):
            answer.add(prompt, event(choice, 32), keep_logprobs=True)
            answer.add(prompt, abort_event(choice), keep_logprobs=True)
    assert answer.usage()["prompt_tokens_details"] == {"cached_tokens": 64}
