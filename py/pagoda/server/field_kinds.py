"""The kinds of request fields: each checks one JSON value and returns it normalised, or raises a 400 naming the field.

A kind is a function `(name, value, limits) -> value`. Type and size are checked here; the numeric ranges of sampling
parameters live in the engine's field rows and are checked when SamplingParams is made. Used by protocol.py and
messages.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pagoda.server.errors import invalid, show

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_BAD_WORDS = 256
MAX_STOP_TOKEN_IDS = 128
MAX_BIASED_TOKENS = 1024
MAX_BIAS = 100.0
MAX_SALT_CHARS = 256
MAX_LABEL_CHARS = 512
INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask of this server and this model."""

    vocab_size: int
    max_choices: int
    max_logprobs: int
    max_messages: int
    max_timeout_s: float


Kind = Callable[[str, Any, Limits], Any]


@dataclass(frozen=True, slots=True)
class Integer:
    """A JSON integer in [low, high]; `true`, `1.0` and `"1"` are none."""

    low: int = -INT64
    high: int = INT64 - 1

    def __call__(self, name: str, value: Any, limits: Limits) -> int:
        """The integer. Raises ApiError 400."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(name, f"{name} must be an integer, got {show(value)}", "invalid_type")
        if not self.low <= value <= self.high:
            raise invalid(name, f"{name} must be in [{self.low}, {self.high}], got {show(value)}", "invalid_value")
        return value


def integer(low: int = -INT64, high: int = INT64 - 1) -> Integer:
    """A JSON integer in [low, high]; `true`, `1.0` and `"1"` are none."""
    return Integer(low, high)


def number(name: str, value: Any, limits: Limits) -> float:
    """A finite JSON number; `true` is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid(name, f"{name} must be a number, got {show(value)}", "invalid_type")
    try:
        return float(value)
    except OverflowError:
        raise invalid(name, f"{name} must be a number, got {show(value)}", "invalid_value") from None


def boolean(name: str, value: Any, limits: Limits) -> bool:
    """`true` or `false`."""
    if not isinstance(value, bool):
        raise invalid(name, f"{name} must be true or false, got {show(value)}", "invalid_type")
    return value


@dataclass(frozen=True, slots=True)
class Text:
    """A string of min_chars..max_chars characters."""

    max_chars: int
    min_chars: int = 0

    def __call__(self, name: str, value: Any, limits: Limits) -> str:
        """The string. Raises ApiError 400."""
        if not isinstance(value, str):
            raise invalid(name, f"{name} must be a string, got {show(value)}", "invalid_type")
        if not self.min_chars <= len(value) <= self.max_chars:
            text = f"{name} must have {self.min_chars} to {self.max_chars} characters, got {len(value)}"
            raise invalid(name, text, "invalid_value")
        return value


def string(max_chars: int, min_chars: int = 0) -> Text:
    """A string of min_chars..max_chars characters."""
    return Text(max_chars, min_chars)


@dataclass(frozen=True, slots=True)
class Word:
    """One of the allowed words."""

    allowed: tuple[str, ...]

    def __call__(self, name: str, value: Any, limits: Limits) -> str:
        """The word. Raises ApiError 400."""
        if value not in self.allowed:
            raise invalid(name, f"{name} must be one of {', '.join(self.allowed)}, got {show(value)}", "invalid_value")
        return str(value)


def word(*allowed: str) -> Word:
    """One of the allowed words."""
    return Word(allowed)


def any_object(name: str, value: Any, limits: Limits) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise invalid(name, f"{name} must be an object, got {show(value)}", "invalid_type")
    return value


def choice_count(name: str, value: Any, limits: Limits) -> int:
    """How many choices are asked for: 1..max_choices."""
    return int(integer(1, limits.max_choices)(name, value, limits))


def logprob_count(name: str, value: Any, limits: Limits) -> int:
    """How many alternatives are reported for a token: 0..max_logprobs, never more than the vocabulary."""
    return int(integer(0, min(limits.max_logprobs, limits.vocab_size))(name, value, limits))


def prompt_cut(name: str, value: Any, limits: Limits) -> int:
    """How many tokens of a longer prompt's end are kept: >= 1, or -1 for as many as fit."""
    count = int(integer(-1)(name, value, limits))
    if count == 0:
        raise invalid(name, f"{name} must be -1 or >= 1, got 0", "invalid_value")
    return count


def timeout(name: str, value: Any, limits: Limits) -> float:
    """Seconds in (0, the server's request_timeout_s]."""
    seconds = number(name, value, limits)
    if not 0 < seconds <= limits.max_timeout_s:
        raise invalid(name, f"{name} must be in (0, {limits.max_timeout_s:g}], got {show(value)}", "invalid_value")
    return seconds


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of at most max_count non-empty strings."""

    max_count: int
    max_chars: int

    def __call__(self, name: str, value: Any, limits: Limits) -> list[str]:
        """The strings. Raises ApiError 400."""
        one = string(self.max_chars, 1)
        items = _list(name, value, self.max_count, "strings")
        return [one(f"{name}[{index}]", item, limits) for index, item in enumerate(items)]


def texts(max_count: int, max_chars: int) -> Texts:
    """A list of at most max_count non-empty strings."""
    return Texts(max_count, max_chars)


def stop_strings(name: str, value: Any, limits: Limits) -> list[str]:
    """One stop string or a list of up to 16; an empty list means none."""
    return list(texts(MAX_STOP_STRINGS, MAX_STOP_CHARS)(name, [value] if isinstance(value, str) else value, limits))


def token_ids(name: str, value: Any, limits: Limits, max_count: int = MAX_STOP_TOKEN_IDS) -> list[int]:
    """A non-empty list of token ids inside the vocabulary."""
    items = _list(name, value, max_count, "token ids")
    if not items:
        raise invalid(name, f"{name} must not be empty", "invalid_value")
    return check_token_ids(name, items, limits.vocab_size)


def allowed_token_ids(name: str, value: Any, limits: Limits) -> list[int]:
    """A non-empty list of token ids, up to the whole vocabulary."""
    return token_ids(name, value, limits, limits.vocab_size)


def check_token_ids(name: str, items: list[Any], vocab_size: int) -> list[int]:
    """Returns `items` when every one is a token id in [0, vocab_size)."""
    for index, item in enumerate(items):
        if type(item) is not int or not 0 <= item < vocab_size:
            text = f"{name}[{index}] must be a token id in [0, {vocab_size - 1}], got {show(item)}"
            raise invalid(name, text, "invalid_value")
    return items


def logit_bias(name: str, value: Any, limits: Limits) -> dict[int, float]:
    """An object from token id (as a string of digits) to a number, clamped to [-100, 100]."""
    entries = any_object(name, value, limits)
    if len(entries) > MAX_BIASED_TOKENS:
        raise invalid(
            name, f"{name} must have at most {MAX_BIASED_TOKENS} entries, got {len(entries)}", "invalid_value"
        )
    result: dict[int, float] = {}
    for key, bias in entries.items():
        token = int(key) if key.isascii() and key.isdigit() and len(key) <= 10 else -1
        if not 0 <= token < limits.vocab_size:
            text = f"{name} must have token ids in [0, {limits.vocab_size - 1}] as keys, got {show(key)}"
            raise invalid(name, text, "invalid_value")
        result[token] = min(MAX_BIAS, max(-MAX_BIAS, number(name, bias, limits)))
    return result


def _list(name: str, value: Any, max_count: int, of_what: str) -> list[Any]:
    if not isinstance(value, list):
        raise invalid(name, f"{name} must be a list of {of_what}, got {show(value)}", "invalid_type")
    if len(value) > max_count:
        raise invalid(name, f"{name} must have at most {max_count} entries, got {len(value)}", "invalid_value")
    return value
