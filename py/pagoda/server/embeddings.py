"""POST /v1/embeddings: texts or token ids in, one vector for each out.

Called by the router. The vector is the decoder's last hidden state after the final norm, of the last token or the mean
of all.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pagoda.server import field_kinds as kinds
from pagoda.server import prompts as texts
from pagoda.server.adapter import Translation
from pagoda.server.edge import OUTCOME, read_json
from pagoda.server.errors import ApiError, invalid
from pagoda.server.field_kinds import Kind, Limits
from pagoda.server.generation import open_stream
from pagoda.server.protocol import COMMON, CompletionRequest, check_fields, make_options, make_params, parse_prompts
from pagoda.server.protocol import SAMPLING as SAMPLING_FIELDS
from pagoda.server.state import STATE, ServerState
from pagoda.vectors import unit_vector

#: Inputs of one request, as many as OpenAI takes.
MAX_INPUTS = 2048

_SHARED = ("model", "user", "timeout_s", "truncate_prompt_tokens")
_SAMPLING = ("priority", "cache_salt")
FIELDS: dict[str, Kind] = {
    "input": lambda name, value, limits: value,
    "encoding_format": kinds.word("float", "base64"),
    "dimensions": kinds.integer(1),
    "pooling": kinds.word("last", "mean"),
    "normalize": kinds.boolean,
    "add_special_tokens": kinds.boolean,
    "parse_special": kinds.boolean,
    **{name: COMMON[name] for name in _SHARED},
    **{name: SAMPLING_FIELDS[name] for name in _SAMPLING},
}


@dataclass(slots=True)
class EmbeddingRequest:
    """A checked body. `prompt` is its input as a completion would have it."""

    prompt: CompletionRequest
    pooling: str
    normalize: bool
    dimensions: int | None
    as_base64: bool


def parse_embedding(body: Mapping[str, Any], limits: Limits, hidden_size: int, strict: bool) -> EmbeddingRequest:
    """Checks a body. Raises ApiError 400."""
    values, ignored = check_fields(body, FIELDS, limits, strict)
    prompts = parse_prompts(values.get("input"), limits.vocab_size)
    if len(prompts) > MAX_INPUTS:
        text = f"input must have at most {MAX_INPUTS} entries, got {len(prompts)}"
        raise invalid("input", text, "invalid_value")
    dimensions = values.get("dimensions")
    if dimensions is not None and dimensions > hidden_size:
        text = f"dimensions must be in [1, {hidden_size}], the model's hidden size, got {dimensions}"
        raise invalid("dimensions", text, "invalid_value")
    normalize = values.get("normalize", True)
    if dimensions is not None and not normalize:
        text = "normalize must be true with dimensions: a vector that was cut is scaled to length 1"
        raise invalid("normalize", text, "invalid_value")
    prompt = CompletionRequest(
        options=make_options(values, ignored),
        prompts=prompts,
        sampling={name: values[name] for name in _SAMPLING if name in values},
        echo=False,
        logprobs=None,
        wants_prompt_logprobs=False,
        add_special_tokens=values.get("add_special_tokens", True),
        parse_special=values.get("parse_special", False),
        form=None,
    )
    pooling, form = values.get("pooling", "last"), values.get("encoding_format", "float")
    return EmbeddingRequest(prompt, pooling, normalize, dimensions, form == "base64")


async def create_embedding(request: web.Request) -> web.Response:
    """Handles POST /v1/embeddings."""
    state = request.app[STATE]
    body = await read_json(request)
    with Translation(names={"prompt": "input"}).own_names():
        parsed = parse_embedding(body, state.limits, state.client.hidden_size, state.settings.strict)
        options = parsed.prompt.options
        texts.check_model(state, options.model)
        prompts = await texts.encode_prompts(state, parsed.prompt)
        longest = max(len(prompt) for prompt in prompts)
        if longest > state.client.max_model_len:
            raise texts.context_error("input", state.client.max_model_len, f"{longest} tokens")
    vectors = await _run_all(request, state, parsed, prompts)
    request[OUTCOME] = "finished"
    entries = await state.run_in_worker(_entries, vectors, parsed)
    count = sum(len(prompt) for prompt in prompts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    rest = json.dumps({"model": options.model or state.client.model_name, "usage": usage})
    text = f'{{"object": "list", "data": [{", ".join(entries)}], {rest[1:]}'
    return web.json_response(text=text, headers=options.ignored.headers())


async def _run_all(
    request: web.Request, state: ServerState, parsed: EmbeddingRequest, prompts: Sequence[list[int]]
) -> list[list[float]]:
    """The pooled hidden state of each prompt; `max_choices` prompts are in the engine at a time. Raises ApiError."""
    answer_id, group = f"embd-{uuid.uuid4().hex}", state.limits.max_choices
    given = parsed.prompt.options.timeout_s
    timeout_s = state.settings.request_timeout_s if given is None else given
    vectors: list[list[float]] = []
    try:
        async with asyncio.timeout(timeout_s):
            for begin in range(0, len(prompts), group):
                vectors += await _run(request, state, parsed, prompts[begin : begin + group], answer_id)
    except TimeoutError:
        text = f"The request did not finish within {timeout_s:g} seconds."
        raise ApiError(504, text, code="timeout") from None
    return vectors


async def _run(
    request: web.Request, state: ServerState, parsed: EmbeddingRequest, prompts: Sequence[list[int]], answer_id: str
) -> list[list[float]]:
    """The pooled hidden state of each of some prompts. Raises ApiError, 503 for an abort from outside."""
    params = make_params(parsed.prompt.sampling | {"max_tokens": 1}, {}, state.limits.vocab_size)
    vectors: dict[int, list[float]] = {}
    async with open_stream(request, state, prompts, params, answer_id, parsed.prompt.options, parsed.pooling) as stream:
        async for item in stream.events():
            if item is not None and item[1].embedding is not None:
                vectors[item[0]] = item[1].embedding
    if len(vectors) != len(prompts):
        raise ApiError(503, "The request was aborted.", code="aborted")
    return [vectors[index] for index in range(len(prompts))]


def _entries(vectors: Sequence[list[float]], parsed: EmbeddingRequest) -> list[str]:
    """`data` of the answer, each entry as JSON: one text of them all would stop the event loop while it is made."""
    entries = []
    for index, whole in enumerate(vectors):
        vector = whole[: parsed.dimensions]
        if parsed.normalize:
            vector = unit_vector(vector)
        shown: Any = vector
        if parsed.as_base64:
            shown = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
        entries.append(json.dumps({"object": "embedding", "index": index, "embedding": shown}))
    return entries
