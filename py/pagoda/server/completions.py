"""POST /v1/completions: prompts in, texts out, whole or streamed.

Called by the router. Parsing is in protocol.py, tokenising in prompts.py, running in generation.py; here is the JSON
shape.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pagoda.server import logprobs as lp
from pagoda.server import prompts as texts
from pagoda.server.edge import read_json
from pagoda.server.generation import Answer, Choice, Format, open_stream, respond
from pagoda.server.protocol import CompletionRequest, make_params, parse_completion
from pagoda.server.state import STATE, ServerState
from pagoda.server.structured import compile_form

if TYPE_CHECKING:
    from pagoda.client import TokenEvent


async def create_completion(request: web.Request) -> web.StreamResponse:
    """Handles POST /v1/completions."""
    state = request.app[STATE]
    parsed = parse_completion(await read_json(request), state.limits, state.settings.strict)
    texts.check_model(state, parsed.options.model)
    defaults = state.defaults
    make_params(parsed.sampling | {"max_tokens": None}, defaults, state.limits.vocab_size)
    prompts = await texts.encode_prompts(state, parsed)
    asked = parsed.sampling.get("max_tokens")
    echo_only = asked == 0
    default = defaults.get("max_tokens", texts.DEFAULT_COMPLETION_TOKENS)
    longest = texts.fit_max_tokens(state, "prompt", prompts, 1 if echo_only else asked, default)
    params = make_params(parsed.sampling | {"max_tokens": longest}, defaults, state.limits.vocab_size)
    await compile_form(state, params, parsed.form)
    request_id = f"cmpl-{uuid.uuid4().hex}"
    form = CompletionFormat(state, parsed, Answer(prompts, params.n, echo_only), request_id, echo_only)
    stream = open_stream(request, state, prompts, params, request_id, parsed.options)
    return await respond(request, state, stream, parsed.options, form)


class CompletionFormat(Format):
    """JSON of completions. With echo, the prompt's text and logprobs come before each choice's own.

    `echo_only` (max_tokens 0) runs one token through the engine for the prompt's logprobs and reports none of it.
    """

    def __init__(
        self, state: ServerState, request: CompletionRequest, answer: Answer, request_id: str, echo_only: bool
    ) -> None:
        self.answer = answer
        self._request = request
        self._tokenizer = state.client.tokenizer
        self._echo_only = echo_only
        self._echoed: set[int] = set()
        self._named: set[int] = set()  # choices of a stream that have told the ids of their prompt
        self._held: list[tuple[int, TokenEvent]] = []
        self._head = {
            "id": request_id,
            "object": "text_completion",
            "created": state.now(),
            "model": request.options.model or state.client.model_name,
            "system_fingerprint": state.fingerprint,
        }

    def whole(self) -> dict[str, Any]:
        """The complete answer."""
        return self._head | {
            "choices": [self._whole_choice(choice) for choice in self.answer.choices],
            "usage": self.answer.usage(),
        }

    def opening(self) -> list[dict[str, Any]]:
        """A completion stream starts with its first text."""
        return []

    def chunks(self, prompt: int, event: TokenEvent) -> list[dict[str, Any]]:
        """Chunks for one event. An echo with logprobs waits for choice 0, whose first event has those of the prompt."""
        request = self._request
        needs_prompt = request.echo and request.logprobs is not None and prompt not in self.answer.prompt_logprobs
        if needs_prompt and event.prompt_logprobs is None and event.finish_reason != "abort":
            self._held.append((prompt, event))
            return []
        result = self._event_chunks(prompt, event)
        ready = [item for item in self._held if item[0] == prompt]
        self._held = [item for item in self._held if item[0] != prompt]
        for item in ready:
            result += self._event_chunks(*item)
        return result

    def closing(self) -> list[dict[str, Any]]:
        """The usage chunk, when asked for."""
        if not self._request.options.include_usage:
            return []
        return [self._head | {"choices": [], "usage": self.answer.usage()}]

    def _event_chunks(self, prompt: int, event: TokenEvent) -> list[dict[str, Any]]:
        choice = self.answer.add(prompt, event, keep_logprobs=False)
        request, body = self._request, []
        if request.echo and choice.index not in self._echoed:
            self._echoed.add(choice.index)
            body.append(self._echo_piece(choice))
        with_ids = bool(event.token_ids) and request.options.return_token_ids
        with_prompt = event.prompt_logprobs is not None and not request.echo
        if not self._echo_only and (event.text or event.logprobs or with_ids or with_prompt):
            body.append(self._event_piece(choice, event))
        if event.finish_reason is not None:
            body = body or [{"text": "", "logprobs": None}]
            body[-1] |= self._ending(choice)
        if body and request.options.return_token_ids and choice.index not in self._named:
            self._named.add(choice.index)
            body[0]["prompt_token_ids"] = self.answer.prompts[prompt]
        usage = self.answer.chunk_usage(request.options)
        return [
            self._head | {"choices": [{"index": choice.index, "finish_reason": None} | piece]} | usage for piece in body
        ]

    def _whole_choice(self, choice: Choice) -> dict[str, Any]:
        request = self._request
        token_ids = [] if self._echo_only else choice.token_ids
        text = "" if self._echo_only else choice.text
        logprobs = None
        if request.logprobs is not None:
            entries: list[Any] = [] if self._echo_only else list(choice.logprobs)
            shown = list(token_ids)
            if request.echo:
                shown = self.answer.prompts[choice.prompt] + shown
                entries = self.answer.prompt_logprobs.get(choice.prompt, []) + entries
            logprobs = lp.completion_lists(shown, entries, 0, self._tokenizer)
        result: dict[str, Any] = {
            "index": choice.index,
            "text": self._prompt_text(choice.prompt) + text if request.echo else text,
            "logprobs": logprobs,
        } | self._ending(choice)
        if request.options.return_token_ids:
            result |= {"token_ids": token_ids, "prompt_token_ids": self.answer.prompts[choice.prompt]}
        return result | self._prompt_logprobs(choice.prompt)

    def _echo_piece(self, choice: Choice) -> dict[str, Any]:
        """The part of a stream that repeats the prompt."""
        text = self._prompt_text(choice.prompt)
        logprobs = None
        if self._request.logprobs is not None:
            ids, entries = self.answer.prompts[choice.prompt], self.answer.prompt_logprobs.get(choice.prompt)
            if entries is not None:
                logprobs = lp.completion_lists(ids, entries, 0, self._tokenizer)
                choice.offset = sum(len(token) for token in logprobs["tokens"])
        return {"text": text, "logprobs": logprobs} | self._prompt_logprobs(choice.prompt)

    def _event_piece(self, choice: Choice, event: TokenEvent) -> dict[str, Any]:
        piece: dict[str, Any] = {"text": event.text, "logprobs": None}
        if self._request.logprobs is not None and event.logprobs is not None:
            lists = lp.completion_lists(event.token_ids, event.logprobs, choice.offset, self._tokenizer)
            choice.offset += sum(len(token) for token in lists["tokens"])
            piece["logprobs"] = lists
        if self._request.options.return_token_ids:
            piece["token_ids"] = event.token_ids
        if event.prompt_logprobs is not None and not self._request.echo:
            piece |= self._prompt_logprobs(choice.prompt)
        return piece

    def _ending(self, choice: Choice) -> dict[str, Any]:
        reason = "length" if self._echo_only and choice.finish_reason == "stop" else choice.finish_reason
        return {
            "finish_reason": reason,
            "stop_reason": None if self._echo_only else choice.stop_reason,
            "seed": choice.seed,
        }

    def _prompt_text(self, prompt: int) -> str:
        given = self._request.prompts[prompt]
        if isinstance(given, str):
            return given
        return "" if self._tokenizer is None else self._tokenizer.decode(given, skip_special_tokens=False)

    def _prompt_logprobs(self, prompt: int) -> dict[str, Any]:
        """The extension field, for requests that asked for it by name and not through echo."""
        entries = self.answer.prompt_logprobs.get(prompt)
        if entries is None or not self._request.wants_prompt_logprobs:
            return {}
        return {"prompt_logprobs": lp.prompt_entries(entries, self._tokenizer)}
