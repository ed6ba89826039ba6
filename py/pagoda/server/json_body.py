"""Reading and parsing request bodies: bounded in bytes and in time, strict JSON.

Owns the answers to bad media types, oversized or stalled bodies and malformed JSON. Called by every POST handler.
A key that is repeated inside one object keeps its last value.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any, NoReturn

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pagoda.server.errors import ApiError

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def check_media_type(request: web.Request) -> None:
    """Raises 415 unless the body is plain, uncompressed `application/json` in UTF-8."""
    charset = (request.charset or "utf-8").lower()
    if request.content_type != "application/json" or charset not in ("utf-8", "utf8"):
        raise ApiError(
            415, "The Content-Type must be application/json in UTF-8.", code="unsupported_media_type", close=True
        )
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ApiError(
            415, "A compressed request body is not supported.", code="unsupported_content_encoding", close=True
        )


async def read_body(request: web.Request, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body. Raises 413 as soon as it exceeds `max_bytes`, 408 after `timeout_s`, 400 for broken framing."""
    too_large = ApiError(
        413, f"The request body is larger than the limit of {max_bytes} bytes.", code="body_too_large", close=True
    )
    if request.content_length is not None and request.content_length > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError:
        raise ApiError(
            408, f"The request body did not arrive within {timeout_s:g} seconds.", code="timeout", close=True
        ) from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise ApiError(
            400, "The request body is not framed as HTTP demands.", code="invalid_body", close=True
        ) from None
    return bytes(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises 400 `invalid_json` for anything that is not one strict, well-formed JSON
    object.
    """
    if body.startswith(b"\xef\xbb\xbf"):
        raise _invalid("it starts with a byte order mark")
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_reject_constant, parse_float=_finite_float)
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise _invalid(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise _invalid(f"byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise _invalid("a string holds half of a surrogate pair") from None
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except ValueError:
        raise _invalid("a number is out of range") from None
    if not isinstance(value, dict):
        raise ApiError(400, "The request body must be a JSON object.", code="invalid_json")
    return value


async def read_object(request: web.Request, max_bytes: int, timeout_s: float) -> dict[str, Any]:
    """Checks the media type, reads the body and parses it."""
    check_media_type(request)
    return parse_object(await read_body(request, max_bytes, timeout_s))


def _invalid(reason: str) -> ApiError:
    return ApiError(400, f"The request body is not valid JSON: {reason}.", code="invalid_json")


def _reject_constant(name: str) -> NoReturn:
    raise ApiError(400, f"The request body is not valid JSON: {name} is not a JSON number.", code="invalid_json")


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("number out of range")
    return value
