"""POST /v1/chat/completions: messages in, an assistant's message out, whole or streamed.

Called by the router, and by the adapters of other APIs through run_chat. Parsing is in protocol.py, templates in
prompts.py, running in generation.py, tool calls and reasoning in answer_plan.py and chat_message.py; here is the JSON
shape.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pagoda.server import logprobs as lp
from pagoda.server import prompts as texts
from pagoda.server.answer_plan import plan_answer
from pagoda.server.chat_message import delta_of, whole_message
from pagoda.server.edge import read_json
from pagoda.server.generation import Answer, Choice, Format, open_stream, respond
from pagoda.server.protocol import ChatRequest, make_params, parse_chat
from pagoda.server.state import STATE, ServerState
from pagoda.server.structured import compile_form

if TYPE_CHECKING:
    from pagoda.client import TokenEvent
    from pagoda.config import SamplingParams
    from pagoda.replies.message_parser import Reading


async def create_chat_completion(request: web.Request) -> web.StreamResponse:
    """Handles POST /v1/chat/completions."""
    return await run_chat(request, await read_json(request), f"chatcmpl-{uuid.uuid4().hex}", lambda form: form)


async def run_chat(
    request: web.Request, body: Mapping[str, Any], request_id: str, adapt: Callable[[ChatFormat], Format]
) -> web.StreamResponse:
    """Answers a chat body under an id, in the form that `adapt` makes of the chat's own. Raises ApiError."""
    state = request.app[STATE]
    parsed = parse_chat(body, state.limits, state.settings.strict)
    texts.check_model(state, parsed.options.model)
    defaults = state.defaults
    make_params(parsed.sampling, defaults, state.limits.vocab_size)
    prompt = await texts.encode_messages(state, parsed)
    longest = texts.fit_max_tokens(
        state, "messages", [prompt], parsed.sampling.get("max_tokens"), defaults.get("max_tokens")
    )
    plan = plan_answer(state, parsed, prompt, parsed.sampling | {"max_tokens": longest})
    params = make_params(plan.sampling, defaults, state.limits.vocab_size)
    await compile_form(state, params, plan.form)
    form = ChatFormat(state, parsed, Answer([prompt], params.n), request_id, params, plan.reading)
    stream = open_stream(request, state, [prompt], params, request_id, parsed.options)
    return await respond(request, state, stream, parsed.options, adapt(form))


class ChatFormat(Format):
    """JSON of chat completions. A stream opens with one role chunk for each choice."""

    def __init__(
        self,
        state: ServerState,
        request: ChatRequest,
        answer: Answer,
        request_id: str,
        params: SamplingParams,
        reading: Reading,
    ) -> None:
        self.answer = answer
        self._reading = reading
        self._parsers = [reading.parser() for _ in answer.choices]  # of a stream
        self.params = params
        self.created = state.now()
        self._request = request
        self._tokenizer = state.client.tokenizer
        self.model = request.options.model or state.client.model_name
        self._head = {
            "id": request_id,
            "object": "chat.completion.chunk" if request.options.stream else "chat.completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": state.fingerprint,
        }

    def whole(self) -> dict[str, Any]:
        """The complete answer."""
        body: dict[str, Any] = self._head | {
            "choices": [self._whole_choice(choice) for choice in self.answer.choices],
            "usage": self.answer.usage(),
        }
        if 0 in self.answer.prompt_logprobs:
            body["prompt_logprobs"] = lp.prompt_entries(self.answer.prompt_logprobs[0], self._tokenizer)
        if self._request.options.return_token_ids:
            body["prompt_token_ids"] = self.answer.prompts[0]
        return body

    def opening(self) -> list[dict[str, Any]]:
        """The role chunks."""
        delta = {"role": "assistant", "content": ""}
        chunks = [
            self._chunk({"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None})
            for choice in self.answer.choices
        ]
        if self._request.options.return_token_ids:
            chunks[0]["prompt_token_ids"] = self.answer.prompts[0]
        return chunks

    def chunks(self, prompt: int, event: TokenEvent) -> list[dict[str, Any]]:
        """A chunk with the new text, and one with the finish reason after the last token."""
        choice = self.answer.add(prompt, event, keep_logprobs=False)
        parser = self._parsers[choice.index]
        pieces = parser.push(event.text) + (parser.finish() if event.finish_reason is not None else [])
        deltas = [delta_of(piece) for piece in pieces]
        with_ids = bool(event.token_ids) and self._request.options.return_token_ids
        if not deltas and (event.logprobs or with_ids or event.prompt_logprobs is not None):
            deltas = [{"content": ""}]
        result = []
        for number, delta in enumerate(deltas):  # the first one tells of the event's tokens
            entries = self._logprobs(event.token_ids, event.logprobs) if number == 0 else None
            piece = {"index": choice.index, "delta": delta, "logprobs": entries, "finish_reason": None}
            if self._request.options.return_token_ids:
                piece["token_ids"] = event.token_ids if number == 0 else []
            result.append(self._chunk(piece))
        if event.prompt_logprobs is not None:
            result[0]["prompt_logprobs"] = lp.prompt_entries(event.prompt_logprobs, self._tokenizer)
        if event.finish_reason is not None:
            ending = _ending(choice, parser.num_calls)
            result.append(self._chunk({"index": choice.index, "delta": {}, "logprobs": None} | ending))
        return result

    def closing(self) -> list[dict[str, Any]]:
        """The usage chunk, when asked for."""
        if not self._request.options.include_usage:
            return []
        return [self._head | {"choices": [], "usage": self.answer.usage()}]

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return self._head | {"choices": [choice]} | self.answer.chunk_usage(self._request.options)

    def _whole_choice(self, choice: Choice) -> dict[str, Any]:
        parser = self._reading.parser()
        message = whole_message(parser.push(choice.text) + parser.finish())
        body: dict[str, Any] = {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(choice.token_ids, choice.logprobs),
        } | _ending(choice, parser.num_calls)
        if self._request.options.return_token_ids:
            body["token_ids"] = choice.token_ids
        return body

    def _logprobs(self, token_ids: list[int], entries: list[dict[int, Any]] | None) -> dict[str, Any] | None:
        top = self._request.top_logprobs
        if top is None or entries is None:
            return None
        return lp.chat_content(token_ids, entries, top, self._tokenizer)


def _ending(choice: Choice, num_calls: int) -> dict[str, Any]:
    reason = "tool_calls" if num_calls and choice.finish_reason == "stop" else choice.finish_reason
    return {"finish_reason": reason, "stop_reason": choice.stop_reason, "seed": choice.seed}
