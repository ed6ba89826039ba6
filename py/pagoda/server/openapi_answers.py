"""The shapes of answers and messages in the OpenAPI document. Data only; used by openapi.py."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def _object(required: dict[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_OBJECT: Schema = {"type": "object"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_FINISH: Schema = {"enum": ["stop", "length", "tool_calls", "abort", "error", None]}
_CHOICE = {"index": _COUNT, "finish_reason": _FINISH}
_HEAD = {"id": _TEXT, "created": _COUNT, "model": _TEXT}
_STATUS = _object({"status": _TEXT})

SCHEMAS: dict[str, Schema] = {
    "Error": _object(
        {"error": _object({"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL})}
    ),
    "Message": _object(
        {
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {
                "oneOf": [
                    _TEXT,
                    {"type": "array", "minItems": 1, "items": _object({"type": {"const": "text"}, "text": _TEXT})},
                ]
            },
        },
        name=_TEXT,
    ),
    "Turn": _object({"role": {"enum": ["user", "assistant"]}, "content": {"type": "string", "minLength": 1}}),
    "Usage": _object(
        {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
        prompt_tokens_details=_object({"cached_tokens": _COUNT}),
    ),
    "Completion": _object(
        {
            **_HEAD,
            "object": {"const": "text_completion"},
            "choices": {"type": "array", "items": _object({**_CHOICE, "text": _TEXT})},
            "usage": _reference("Usage"),
        }
    ),
    "ChatCompletion": _object(
        {
            **_HEAD,
            "object": {"const": "chat.completion"},
            "choices": {
                "type": "array",
                "items": _object({**_CHOICE, "message": _object({"role": {"const": "assistant"}})}),
            },
            "usage": _reference("Usage"),
        }
    ),
    "Model": _object({"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT}),
    "Timeline": _object(
        {
            "id": _TEXT,
            "object": {"const": "request.timeline"},
            "choices": {
                "type": "array",
                "items": _object(
                    {
                        "prompt": _COUNT,
                        "index": _COUNT,
                        "events": {
                            "type": "array",
                            "items": _object(
                                {"event": _TEXT, "time": {"type": "number"}, "offset_s": {"type": "number"}}
                            ),
                        },
                    }
                ),
            },
        }
    ),
}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _streamed(schema: Schema) -> dict[str, Any]:
    # Of one event, as tools read it: `data` is JSON or, at the end of some streams, [DONE].
    event = {"type": "object", "required": ["data"], "properties": {"event": _TEXT, "data": _TEXT}}
    return {**_json(schema), "text/event-stream": {"schema": event}}


_MESSAGES: Schema = {"type": "array", "minItems": 1, "items": _reference("Message")}
_TOKENS: Schema = {"type": "array", "items": _reference("TokenId")}

#: Bodies of POST requests that have no table of fields.
BODIES: dict[str, Schema] = {
    "/tokenize": {
        "oneOf": [
            {**_object({"prompt": _TEXT}), "not": {"required": ["messages"]}},
            _object({"messages": _MESSAGES}),
        ]
    },
    "/detokenize": _object({"tokens": _TOKENS}),
    "/v1/responses": _object({"input": {"type": "string", "minLength": 1}}),
    "/v1/messages": _object(
        {
            "max_tokens": {"type": "integer", "minimum": 1},
            "messages": {"type": "array", "minItems": 1, "items": _reference("Turn")},
        }
    ),
    "/v1/messages/count_tokens": _object({"messages": {"type": "array", "minItems": 1, "items": _reference("Turn")}}),
}

#: Content of a path's 200 answer.
ANSWERS: dict[str, dict[str, Any]] = {
    "/v1/completions": _streamed(_reference("Completion")),
    "/v1/chat/completions": _streamed(_reference("ChatCompletion")),
    "/v1/responses": _streamed(_OBJECT),
    "/v1/messages": _streamed(_OBJECT),
    "/v1/embeddings": _json(
        _object(
            {
                "object": {"const": "list"},
                "data": {
                    "type": "array",
                    "items": _object({"object": {"const": "embedding"}, "index": {"type": "integer"}}),
                },
                "model": _TEXT,
            }
        )
    ),
    "/v1/models": _json(
        _object({"object": {"const": "list"}, "data": {"type": "array", "items": _reference("Model")}})
    ),
    "/v1/models/{id}": _json(_reference("Model")),
    "/v1/requests/{id}/timeline": _json(_reference("Timeline")),
    "/health": _json(_STATUS),
    "/health/live": _json(_STATUS),
    "/health/ready": _json(_STATUS),
    "/version": _json(_object({"version": _TEXT})),
    "/metrics": {"text/plain": {"schema": _TEXT}},
}
