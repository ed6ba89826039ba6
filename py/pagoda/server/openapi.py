"""GET /openapi.json: the OpenAPI document, made from the route table, the tables of request fields and the engine's
rows.

Nothing about a field is written here twice: types, lengths and ranges come from its kind (field_kinds.py), doc text
and ranges of sampling parameters from their rows. Here are only the shapes that the kinds do not tell: prompts,
messages, and the answers.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pagoda.config import SAMPLING_FIELDS
from pagoda.server import embeddings, protocol, security
from pagoda.server import field_kinds as kinds
from pagoda.server.field_kinds import Kind, Limits
from pagoda.server.openapi_answers import ANSWERS, BODIES, SCHEMAS
from pagoda.server.state import STATE

if TYPE_CHECKING:
    from pagoda.server.app import Route

Schema = dict[str, Any]

_PROMPT: Schema = {
    "description": "a text, token ids, or a list of either",
    "oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/TokenId"}},
        {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/TokenId"}},
        },
    ],
}
#: Fields whose kind takes any JSON, because a parser looks into them.
_SHAPES: Mapping[str, Schema] = {
    "prompt": _PROMPT,
    "input": _PROMPT,
    "messages": {
        "description": "the conversation, oldest first",
        "type": "array",
        "minItems": 1,
        "items": {"$ref": "#/components/schemas/Message"},
    },
    "stream_options": {
        "description": "what a stream carries besides the text; needs stream",
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in protocol.STREAM_OPTIONS},
    },
}
_FUNCTION: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
        "description": {"type": "string"},
        "parameters": {"type": "object"},
    },
}
#: What an output may have to look like, and the functions that it may call.
_FORMS: Mapping[str, Schema] = {
    "guided_json": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "object"}]},
    "guided_choice": {"type": "array", "minItems": 1, "items": {"type": "string"}},
    "response_format": {
        "description": "text, any JSON object, or JSON that satisfies a schema",
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "json_schema": {
                "type": "object",
                "required": ["schema"],
                "properties": {"name": {"type": "string"}, "schema": {"type": "object"}, "strict": {"type": "boolean"}},
            },
        },
    },
    "tools": {
        "description": "functions that the answer may call",
        "type": "array",
        "items": {
            "type": "object",
            "required": ["type", "function"],
            "properties": {"type": {"const": "function"}, "function": _FUNCTION},
        },
    },
    "tool_choice": {
        "description": "whether the answer calls a function, and which",
        "anyOf": [
            {"enum": ["none", "auto", "required"]},
            {
                "type": "object",
                "required": ["type", "function"],
                "properties": {
                    "type": {"const": "function"},
                    "function": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}},
                    },
                },
            },
        ],
    },
}
_DOCS: Mapping[str, str] = {
    "model": "the name of the served model",
    "stream": "answer with server-sent events",
    "user": "a label of the caller's own",
    "timeout_s": "seconds after which the request ends with an error",
    "return_token_ids": "report token ids beside the text",
    "truncate_prompt_tokens": "keep so many tokens of a longer prompt's end; -1: as many as fit",
    "echo": "put the prompt before the text",
    "logprobs": "report log probabilities",
    "best_of": "must equal n",
    "add_special_tokens": "begin the prompt as the tokenizer does",
    "parse_special": "read control tokens in the prompt as such",
    "top_logprobs": "alternatives reported for each token; needs logprobs",
    "max_completion_tokens": "another name of max_tokens",
    "add_generation_prompt": "open the assistant's turn",
    "continue_final_message": "go on with the last message instead of answering it",
    "parallel_tool_calls": "allow several calls in one answer",
    "encoding_format": "a list of numbers, or the base64 of little-endian floats",
    "dimensions": "keep so many numbers of each vector; it is then scaled to length 1",
    "pooling": "the last token's hidden state, or the mean of all",
    "normalize": "scale each vector to length 1",
    "chat_template_kwargs": "further variables of the chat template",
}
_OPEN = {"type": "object", "additionalProperties": True}
_PARAMETER = re.compile(r"\{(\w+)(?::[^{}]*)?\}")


async def get_openapi(request: web.Request) -> web.Response:
    """Handles GET /openapi.json."""
    from pagoda.server.app import ROUTES

    state = request.app[STATE]
    return web.json_response(document(ROUTES, state.limits, state.version))


def document(routes: Iterable[Route], limits: Limits, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a server with these routes and limits."""
    paths: dict[str, Any] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, limits)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pagoda", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, "TokenId": _token_id(limits)},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(route: Route, path: str, limits: Limits) -> dict[str, Any]:
    words = inspect.cleandoc(route.handler.__doc__ or "").split("\n\n")
    summary = " ".join(words[0].split())
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__ if path != "/health" else "health",
        "summary": summary.partition(": ")[2] or summary,
        "responses": {
            "200": {"description": "the answer", "content": ANSWERS.get(path, {"application/json": {"schema": {}}})},
            "default": {
                "description": "a refusal or a failure",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
        "security": [] if path in security.PUBLIC_PATHS else [{}, {"bearer": []}, {"key": []}],
    }
    if names := _PARAMETER.findall(route.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in names
        ]
    if route.method == "POST" and not route.admin and "{" not in path:
        content = {"application/json": {"schema": _body(path, limits)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _body(path: str, limits: Limits) -> Schema:
    """The schema of a POST body: the fields of its table, unknown ones allowed (the answer's headers name them)."""
    chat: tuple[Mapping[str, Kind], str] = ({**protocol.SAMPLING, **protocol.COMMON, **protocol.CHAT_ONLY}, "messages")
    tables: Mapping[str, tuple[Mapping[str, Kind], str]] = {
        "/v1/completions": ({**protocol.SAMPLING, **protocol.COMMON, **protocol.COMPLETION_ONLY}, "prompt"),
        "/v1/chat/completions": chat,
        "/v1/chat/completions/render": chat,
        "/v1/embeddings": (embeddings.FIELDS, "input"),
    }
    if path not in tables:
        return BODIES.get(path, _OPEN)
    table, required = tables[path]
    fields = {name: field_schema(name, kind, limits) for name, kind in table.items()}
    return {
        "type": "object",
        "required": [required],
        "properties": {
            name: schema if name == required else _nullable(schema) for name, schema in fields.items()
        },
    }  # fmt: skip


def field_schema(name: str, kind: Kind, limits: Limits) -> Schema:
    """What JSON a request field takes; {} for a kind that is not known here."""
    row: dict[str, Any] = next((row for row in SAMPLING_FIELDS if row["name"] == name), {})
    shape = _SHAPES.get(name) or _FORMS.get(name)
    schema = kind_schema(kind, limits) if shape is None else dict(shape)
    if row and schema.get("type") in ("integer", "number"):
        low = "exclusiveMinimum" if row["open_min"] else "minimum"
        if row["min"] is not None:
            schema[low] = row["min"] if "minimum" not in schema else max(row["min"], schema["minimum"])
        if row["max"] is not None:
            schema["maximum"] = min(row["max"], schema.get("maximum", row["max"]))
    if doc := row.get("doc") or _DOCS.get(name):
        schema.setdefault("description", doc)
    return schema


def kind_schema(kind: Kind, limits: Limits) -> Schema:
    """The schema of a kind alone."""
    match kind:
        case kinds.Integer(low, high):
            whole = (-kinds.INT64, kinds.INT64 - 1)
            return {"type": "integer"} | ({} if (low, high) == whole else {"minimum": low, "maximum": high})
        case kinds.Text(longest, shortest):
            return {"type": "string", "minLength": shortest, "maxLength": longest}
        case kinds.Word(allowed):
            return {"type": "string", "enum": list(allowed)}
        case kinds.Texts(count, longest):
            return {"type": "array", "maxItems": count, "items": _text(longest)}
    most = min(limits.max_logprobs, limits.vocab_size)
    schemas: Mapping[Kind, Schema] = {
        kinds.boolean: {"type": "boolean"},
        kinds.number: {"type": "number"},
        kinds.any_object: _OPEN,
        kinds.choice_count: {"type": "integer", "minimum": 1, "maximum": limits.max_choices},
        kinds.logprob_count: {"type": "integer", "minimum": 0, "maximum": most},
        kinds.prompt_cut: {"type": "integer", "minimum": -1, "not": {"const": 0}},
        kinds.timeout: {"type": "number", "exclusiveMinimum": 0, "maximum": limits.max_timeout_s},
        kinds.stop_strings: {
            "anyOf": [
                _text(kinds.MAX_STOP_CHARS),
                {"type": "array", "maxItems": kinds.MAX_STOP_STRINGS, "items": _text(kinds.MAX_STOP_CHARS)},
            ]
        },
        kinds.token_ids: _ids(kinds.MAX_STOP_TOKEN_IDS),
        kinds.allowed_token_ids: _ids(limits.vocab_size),
        kinds.logit_bias: {
            "type": "object",
            "maxProperties": kinds.MAX_BIASED_TOKENS,
            "propertyNames": {"pattern": "^[0-9]{1,10}$"},
            "additionalProperties": {"type": "number"},
        },
    }
    return dict(schemas.get(kind, {}))


def _text(longest: int) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": longest}


def _ids(count: int) -> Schema:
    return {"type": "array", "minItems": 1, "maxItems": count, "items": {"$ref": "#/components/schemas/TokenId"}}


def _token_id(limits: Limits) -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": limits.vocab_size - 1}


def _nullable(schema: Schema) -> Schema:
    """null is as good as leaving the field out."""
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    choices = next((key for key in ("anyOf", "oneOf") if key in schema), None)
    return {**schema, choices: [*schema[choices], {"type": "null"}]} if choices else schema
