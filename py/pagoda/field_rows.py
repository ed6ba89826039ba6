"""Field rows on the Python side: name, type, default, range and doc of one configurable value.

Rows come from the engine's own tables (`rows_from_core`) or from a dataclass (`rows_from_dataclass`). One row
converts a value given as YAML or as text, says what is allowed, and prints its help. Used by `pagoda.config` and
`enginectl`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)\s*")
_COUNT = re.compile(r"\s*(\d+(?:\.\d+)?)([kKmM])\s*")
_FACTORS = {"k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}
_UNITS = {"B": 1}
_UNITS |= {f"{prefix}B": 1000 ** (power + 1) for power, prefix in enumerate("KMGT")}
_UNITS |= {f"{prefix}iB": 1024 ** (power + 1) for power, prefix in enumerate("KMGT")}
_INT64 = (-(2**63), 2**63 - 1)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")


class FieldError(ValueError):
    """A value does not fit its row; the text reads `must be in (0, 1], got 1.5`."""


def show(value: Any) -> str:
    """A value as a person would write it in the YAML file, cut to 80 characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if not isinstance(value, str) else f"'{value}'"
    return text if len(text) <= 80 else text[:77] + "..."


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**63 else str(value)


@dataclasses.dataclass(frozen=True, slots=True)
class FieldRow:
    """One configurable value. `type` is bool, int, float, str, list[int], list[str], dict[int,float] or map; `?` at
    its end allows null.

    A map has the keys of its `fields`; one that is left out has the default of its row. The value of a `secret` row is
    never printed.
    """

    name: str
    type: str
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    open_minimum: bool = False
    doc: str = ""
    choices: tuple[str, ...] = ()
    secret: bool = False
    fields: tuple[FieldRow, ...] = ()

    @property
    def base_type(self) -> str:
        """The type without the mark for "may be null"."""
        return self.type.removesuffix("?")

    @property
    def is_optional(self) -> bool:
        """Whether null is a value of this field."""
        return self.type.endswith("?")

    @property
    def is_bytes(self) -> bool:
        """Whether the value counts bytes, so that `4GiB` may be written for it."""
        return self.base_type == "int" and self.name.endswith(("_bytes", "_memory"))

    @property
    def is_tokens(self) -> bool:
        """Whether the value counts tokens, so that `16k` (16,000) or `16K` (16,384) may be written for it."""
        return self.base_type == "int" and ("tokens" in self.name or self.name.endswith(("_len", "_threshold")))

    @property
    def flag(self) -> str:
        """The name as it is written on a command line, without the dashes."""
        return self.name.replace("_", "-")

    def range_text(self) -> str:
        """`in [0, 2]`, `>= 1`, `> 0`; empty when every value is allowed."""
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"in {'(' if self.open_minimum else '['}{_number(low)}, {_number(high)}]"
        if low is not None:
            return f"{'>' if self.open_minimum else '>='} {_number(low)}"
        return f"<= {_number(high)}" if high is not None else ""

    def help(self) -> str:
        """One line for `--help`: doc, range, default; of a map also those of its values."""
        default = "unset" if self.default in (None, "", [], {}, ()) else show(self.default).strip("'")
        notes = [note for note in (self.range_text(), " | ".join(self.choices), f"default {default}") if note]
        keys = "".join(f"; {field.name}: {field.help()}" for field in self.fields)
        return f"{self.doc} ({', '.join(notes)}){keys}".lstrip().replace("%", "%%")

    def from_yaml(self, value: Any) -> Any:
        """Checks a typed value (from YAML or Python) and returns it in the field's type. Raises FieldError.

        `auto` is another word for null where a number may be left out.
        """
        if value is None or (value == "auto" and self.base_type in ("int", "float")):
            if self.is_optional:
                return None
            if value is not None:
                self._refuse(value)
            raise FieldError(f"must be {self._expected()}, got null")
        return _CONVERT[self.base_type](self, value)

    def from_text(self, text: str | Sequence[str] | bool) -> Any:
        """Converts what a command line gave: one word, the words of a repeated flag, or the sign of a switch. Raises
        FieldError.
        """
        if isinstance(text, bool):
            return self.from_yaml(text)
        if self.base_type == "map":
            return self._map_from_text(text if isinstance(text, str) else text[-1])
        if self.base_type.startswith(("list", "dict")):
            return self._items_from_text([text] if isinstance(text, str) else text)
        word = text if isinstance(text, str) else text[-1]
        if self.is_optional and word.lower() in ("none", "null"):
            return None
        return self.from_yaml(word if self.base_type == "str" else self._scalar(word, self.base_type))

    def _items_from_text(self, words: Iterable[str]) -> Any:
        if self.base_type == "list[str]":
            return self.from_yaml(list(words))
        parts = [part.strip() for word in words for part in word.split(",") if part.strip()]
        if self.base_type == "list[int]":
            return self.from_yaml([self._scalar(part, "int") for part in parts])
        pairs = [part.partition(":") for part in parts]
        return self.from_yaml({self._scalar(key, "int"): self._scalar(value, "float") for key, _, value in pairs})

    def _map_from_text(self, text: str) -> Any:
        from pagoda.yaml_loader import load_yaml  # where no YAML is read, a start is spared its import

        tree, errors = load_yaml(text)
        if errors:
            raise FieldError(f"must be {self._expected()}, got {show(text)}: {errors[0]}")
        return self.from_yaml(tree.plain() if tree is not None else None)

    def _scalar(self, word: str, kind: str) -> Any:
        """`word` as bool, int or float; the word itself when it is none of them, for `from_yaml` to refuse with its
        own text.
        """
        word = word.strip()
        if kind == "bool":
            return {"true": True, "false": False}.get(word.lower(), word)
        if _INTEGER.fullmatch(word):
            return int(word) if len(word) <= 30 else word
        try:
            return float(word)
        except ValueError:
            return word

    def _expected(self) -> str:
        kind = (
            _KINDS[self.base_type]
            + ", ".join(field.name for field in self.fields)
            + (" or a size such as 4GiB" if self.is_bytes else "")
        )
        kind += " or a count such as 16K" if self.is_tokens else ""
        if self.choices:
            kind = "one of " + ", ".join(self.choices)
        text = f"{kind} {self.range_text()}".strip() if self.base_type in ("int", "float") else kind
        return text + (" or null" if self.is_optional else "")

    def _refuse(self, value: Any, hint: str = "") -> typing.NoReturn:
        shown = "(hidden)" if self.secret else show(value)
        raise FieldError(f"must be {self._expected()}, got {shown}{hint}")

    def _in_range(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        above = self.minimum is None or (value > self.minimum if self.open_minimum else value >= self.minimum)
        return above and (self.maximum is None or value <= self.maximum)


def _to_bool(row: FieldRow, value: Any) -> bool:
    if not isinstance(value, bool):
        row._refuse(value)
    return value


def _to_int(row: FieldRow, value: Any) -> int:
    if row.is_bytes and isinstance(value, str) and (size := _SIZE.fullmatch(value)):
        value = int(float(size[1]) * _UNITS[size[2]])
    if row.is_tokens and isinstance(value, str) and (count := _COUNT.fullmatch(value)):
        value = float(count[1]) * _FACTORS[count[2]]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        row._refuse(value)
    if not _INT64[0] <= value <= _INT64[1]:
        shown = value if abs(value) < 10**40 else "a number of over 40 digits"
        raise FieldError(f"must be {row._expected()} that fits 64 bits, got {shown}")
    if not row._in_range(value):
        row._refuse(value)
    return value


def _to_float(row: FieldRow, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        row._refuse(value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not row._in_range(number):
        row._refuse(number)
    return number


def _to_str(row: FieldRow, value: Any) -> str:
    if not isinstance(value, str):
        row._refuse(value, "; put it in quotes")
    if row.choices and value not in row.choices:
        row._refuse(value)
    if "\0" in value:
        raise FieldError("must not contain a NUL character")
    return value


def _to_list(row: FieldRow, value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        row._refuse(value)
    item = dataclasses.replace(row, type=row.base_type.removeprefix("list[").removesuffix("]"))
    items = []
    for position, entry in enumerate(value):
        try:
            items.append(item.from_yaml(entry))
        except FieldError as error:
            raise FieldError(f"item {position} {error}") from None
    return tuple(items) if isinstance(row.default, tuple) else items


def _to_bias(row: FieldRow, value: Any) -> dict[int, float]:
    if not isinstance(value, dict):
        row._refuse(value)
    bias = {}
    for key, number in value.items():
        if isinstance(key, str) and _INTEGER.fullmatch(key) and len(key) < 19:
            key = int(key)
        if isinstance(key, bool) or not isinstance(key, int) or key < 0:
            raise FieldError(f"must have token ids as keys, got {show(key)}")
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise FieldError(f"must map token ids to numbers, got {show(number)} for {key}")
        bias[key] = float(number)
    return bias


def _to_map(row: FieldRow, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        row._refuse(value)
    fields = {field.name: field for field in row.fields}
    values = {}
    for key, entry in value.items():
        if key not in fields:
            raise FieldError(f"has no key {show(key)}; its keys are {', '.join(fields)}")
        try:
            values[key] = fields[key].from_yaml(entry)
        except FieldError as error:
            raise FieldError(f"has a wrong value: {key} {error}") from None
    return values


_CONVERT: Mapping[str, typing.Callable[[FieldRow, Any], Any]] = {
    "bool": _to_bool,
    "int": _to_int,
    "float": _to_float,
    "str": _to_str,
    "list[int]": _to_list,
    "list[str]": _to_list,
    "dict[int,float]": _to_bias,
    "map": _to_map,
}
_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list[int]": "a list of whole numbers",
    "list[str]": "a list of texts",
    "dict[int,float]": "a map of token ids to numbers",
    "map": "a map with keys among ",
}


def rows_from_core(rows: Iterable[Mapping[str, Any]]) -> list[FieldRow]:
    """Rows of `_core.ENGINE_FIELDS` or `_core.SAMPLING_FIELDS`."""
    return [
        FieldRow(
            name=row["name"],
            type=row["type"],
            default=row["default"],
            minimum=row["min"],
            maximum=row["max"],
            open_minimum=bool(row["open_min"]),
            doc=row["doc"],
            fields=tuple(rows_from_core(row.get("fields", ()))),
        )
        for row in rows
    ]


def rows_from_dataclass(owner: type) -> list[FieldRow]:
    """Rows of a dataclass whose fields carry `doc`, `min`, `max` and `choices` in their metadata, as far as they have
    them.

    A field that is left out of the dataclass's repr is a secret.
    """
    hints = typing.get_type_hints(owner)
    rows = []
    for field in dataclasses.fields(owner):
        default = field.default if field.default is not dataclasses.MISSING else None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        meta = field.metadata
        rows.append(
            FieldRow(
                name=field.name,
                type=_type_name(hints[field.name]),
                default=default,
                minimum=meta.get("min"),
                maximum=meta.get("max"),
                open_minimum=bool(meta.get("open_min", False)),
                doc=meta.get("doc", ""),
                choices=tuple(meta.get("choices", ())),
                secret=not field.repr,
            )
        )
    return rows


def _type_name(hint: Any) -> str:
    """`int`, `int?` for `int | None`, `list[str]` for lists and tuples of text. Raises TypeError for anything without
    a row type.
    """
    if isinstance(hint, type) and hint in (bool, int, float, str):
        return hint.__name__
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union) and len(arguments) == 2 and type(None) in arguments:
        return _type_name(next(argument for argument in arguments if argument is not type(None))) + "?"
    if origin in (list, tuple, Sequence) and arguments[0] in (int, str):
        return f"list[{arguments[0].__name__}]"
    raise TypeError(f"a configuration field cannot have the type {hint}")
