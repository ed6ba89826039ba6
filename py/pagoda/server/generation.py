"""The way of one inference request after parsing: run the events, gather choices, answer whole or as a stream.

Both endpoints use it with a `Format` of their own. Owns the accumulated choices and the usage numbers; knows no JSON
shape of an endpoint.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from aiohttp import web

from pagoda.server.edge import ANSWER_ID, KEYS, OUTCOME, REQUEST_ID
from pagoda.server.errors import ApiError, internal_error
from pagoda.server.events import EventStream, Identity, Item
from pagoda.server.protocol import Options
from pagoda.server.sse import SseWriter
from pagoda.server.state import ServerState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pagoda.client import Logprob, TokenEvent
    from pagoda.config import SamplingParams

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Choice:
    """What one choice has produced so far. `index` is its place in the answer."""

    index: int
    prompt: int
    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    seed: int | None = None
    offset: int = 0

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self.pieces)


class Answer:
    """All choices of one request and its usage. Choice `prompt * n + index` belongs to choice `index` of `prompt`.

    With `prompt_only`, tokens that were generated do not count.
    """

    def __init__(self, prompts: Sequence[list[int]], n: int, prompt_only: bool = False) -> None:
        self.prompts = prompts
        self.n = n
        self.choices = [Choice(index, index // n) for index in range(len(prompts) * n)]
        self.prompt_logprobs: dict[int, list[dict[int, Logprob] | None]] = {}
        self._prompt_only = prompt_only
        self._cached = [0] * len(prompts)

    def add(self, prompt: int, event: TokenEvent, keep_logprobs: bool) -> Choice:
        """Takes in one event and returns its choice. A stream does not keep the logprobs it has sent."""
        choice = self.choices[prompt * self.n + event.index]
        choice.pieces.append(event.text)
        choice.token_ids += event.token_ids
        if keep_logprobs and event.logprobs is not None:
            choice.logprobs += event.logprobs
        if event.finish_reason is not None:
            choice.finish_reason, choice.stop_reason = event.finish_reason, event.stop_reason
        if choice.seed is None and event.finish_reason != "abort":
            choice.seed = event.seed
        if event.prompt_logprobs is not None:
            self.prompt_logprobs[prompt] = event.prompt_logprobs
        if event.index == 0:
            self._cached[prompt] = max(self._cached[prompt], event.num_cached_tokens)
        return choice

    def usage(self) -> dict[str, Any]:
        """The `usage` object; each prompt counts once, whatever n is.

        Choice 0 starts first, so its cached tokens are those of the prompt; the others share what it computes.
        """
        num_prompt = sum(len(prompt) for prompt in self.prompts)
        num_completion = 0 if self._prompt_only else sum(len(choice.token_ids) for choice in self.choices)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_completion,
            "total_tokens": num_prompt + num_completion,
            "prompt_tokens_details": {"cached_tokens": sum(self._cached)},
        }

    def chunk_usage(self, options: Options) -> dict[str, Any]:
        """The `usage` field of a stream chunk that has choices: absent, null, or the numbers so far."""
        if not options.include_usage:
            return {}
        return {"usage": self.usage() if options.continuous_usage else None}


class Format(ABC):
    """How one endpoint writes its answer.

    `named_events`: the events of a stream begin with their names. `ping`: the event of a silent stream, None for a
    comment.
    """

    answer: Answer
    named_events = False
    ping: ClassVar[Mapping[str, Any] | None] = None

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""

    @abstractmethod
    def chunks(self, prompt: int, event: TokenEvent) -> list[dict[str, Any]]:
        """The stream chunks for one event, which this call takes into the answer."""

    @abstractmethod
    def opening(self) -> list[dict[str, Any]]:
        """The chunks before the first event."""

    @abstractmethod
    def closing(self) -> list[dict[str, Any]]:
        """The chunks after the last event."""

    def failure(self, error: ApiError) -> list[dict[str, Any]]:
        """The last chunks of a stream that fails."""
        return [error.body()]


def open_stream(
    request: web.Request,
    state: ServerState,
    prompts: Sequence[list[int]],
    params: SamplingParams,
    answer_id: str,
    options: Options,
    pooling: str = "none",
) -> EventStream:
    """The events of a request for its prompts, in the name of whoever sent it."""
    request[ANSWER_ID] = answer_id
    caller = request.app[KEYS].caller(request.headers)
    identity = Identity((answer_id, request[REQUEST_ID]), caller, caller or options.user)
    return EventStream(state, prompts, params, identity, options.timeout_s, pooling)


async def respond(
    request: web.Request, state: ServerState, stream: EventStream, options: Options, form: Format
) -> web.StreamResponse:
    """Runs the request to its end and answers it. Raises ApiError while the status can still be chosen."""
    headers = options.ignored.headers()
    async with stream:
        if options.stream:
            return await _respond_stream(request, state, stream, form, headers)
        async for item in stream.events():
            if item is not None and item[1].num_prompt_computed is None:
                form.answer.add(*item, keep_logprobs=True)
    request[OUTCOME] = outcome(form.answer)
    return web.json_response(form.whole(), headers=headers)


def outcome(answer: Answer) -> str:
    """How a request that ran to its end is counted."""
    return "abort" if any(choice.finish_reason == "abort" for choice in answer.choices) else "finished"


async def _respond_stream(
    request: web.Request, state: ServerState, stream: EventStream, form: Format, headers: dict[str, str]
) -> web.StreamResponse:
    """Waits for the first event, so that a refusal still gets its own status, then streams."""
    settings = state.settings
    events = stream.events(settings.sse_keep_alive_s)
    first = await anext(events)
    writer = SseWriter(request, settings.write_timeout_s, headers, form.named_events)
    try:
        await writer.start()
        await writer.send(*form.opening())
        try:
            await _send_item(writer, form, first)
            async for item in events:
                await _send_item(writer, form, item)
            await writer.send(*form.closing())
            request[OUTCOME] = outcome(form.answer)
        except ApiError as error:
            request[OUTCOME] = error.code or "error"
            await writer.send(*form.failure(error))
        except ConnectionError:
            raise
        except Exception:
            logger.exception("a stream failed")
            request[OUTCOME] = "internal_error"
            await writer.send(*form.failure(internal_error()))
        await writer.done()
    except ConnectionError:
        request[OUTCOME] = "client_disconnect"
    finally:
        await _close(events)
    return writer.response


async def _send_item(writer: SseWriter, form: Format, item: Item) -> None:
    """Writes what an event makes. While a prompt is computed, comments say how far it is."""
    if item is None and form.ping is not None:
        await writer.send(form.ping)
    elif item is None:
        await writer.comment("keep-alive")
    elif item[1].num_prompt_computed is not None:
        prompt, event = item
        await writer.comment(f"prefill {event.num_prompt_computed}/{len(form.answer.prompts[prompt])}")
    else:
        await writer.send(*form.chunks(*item))


async def _close(events: AsyncIterator[Item]) -> None:
    aclose = getattr(events, "aclose", None)
    if aclose is not None:
        await aclose()
