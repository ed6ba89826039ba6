"""Field rows: how a value given as YAML, as Python or as command-line text becomes the field's type, or is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pagoda.field_rows import FieldError, FieldRow, rows_from_core, rows_from_dataclass


def row(kind: str, default: Any = None, **changes: Any) -> FieldRow:
    return FieldRow(**{"name": "x", "type": kind, "default": default, **changes})


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "8", 8),
        ("int", "-1", -1),
        ("int", "1e3", 1000),
        ("int?", "none", None),
        ("float", "1e-5", 1e-5),
        ("float", "2", 2.0),
        ("str", "8", "8"),
        ("str?", "null", None),
        ("bool", "true", True),
        ("list[int]", ["1,2", "3"], [1, 2, 3]),
        ("list[str]", ["a,b", "c"], ["a,b", "c"]),
        ("dict[int,float]", ["5:1.5,6:-1"], {5: 1.5, 6: -1.0}),
    ],
)
def test_command_line_text_becomes_the_type_of_the_row(kind: str, text: Any, value: Any) -> None:
    got = row(kind).from_text(text)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("kind", "value", "part"),
    [
        ("int", "8", "must be a whole number, got '8'"),
        ("int", True, "must be a whole number, got true"),
        ("int", 1.5, "must be a whole number, got 1.5"),
        ("int", 2**63, "fits 64 bits"),
        ("int", 10**400, "over 40 digits"),
        ("int", None, "must be a whole number, got null"),
        ("int?", [], "must be a whole number or null, got []"),
        ("float", "hot", "must be a number, got 'hot'"),
        ("float", float("nan"), "must be a number, got nan"),
        ("float", 10**400, "must be a number, got inf"),
        ("bool", "yes", "must be true or false, got 'yes'"),
        ("bool", 1, "must be true or false, got 1"),
        ("str", 12, "must be text, got 12; put it in quotes"),
        ("str", "a\0b", "NUL"),
        ("list[int]", 5, "must be a list of whole numbers, got 5"),
        ("list[int]", [1, "a"], "item 1 must be a whole number, got 'a'"),
        ("dict[int,float]", {"a": 1}, "token ids as keys, got 'a'"),
        ("dict[int,float]", {-1: 1}, "token ids as keys, got -1"),
        ("dict[int,float]", {5: "x"}, "got 'x' for 5"),
    ],
)
def test_a_value_of_another_type_is_refused(kind: str, value: Any, part: str) -> None:
    with pytest.raises(FieldError) as caught:
        row(kind).from_yaml(value)
    assert part in str(caught.value)


def test_a_range_is_checked_at_both_ends() -> None:
    share = row("float", minimum=0, maximum=1, open_minimum=True)
    assert share.from_yaml(1) == 1.0
    for outside in (0, 1.0001, -1):
        with pytest.raises(FieldError, match=r"must be a number in \(0, 1\], got"):
            share.from_yaml(outside)


@pytest.mark.parametrize(
    ("text", "value"), [("4GiB", 4 << 30), ("1.5 MiB", 3 << 19), ("2GB", 2 * 10**9), ("512B", 512), ("4096", 4096)]
)
def test_a_field_of_bytes_takes_sizes(text: str, value: int) -> None:
    assert row("int?", name="kv_cache_memory").from_text(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("16k", 16000), ("32K", 32768), ("1.5k", 1500), ("1M", 1 << 20), ("4096", 4096), ("auto", None)]
)
def test_a_field_of_tokens_takes_counts(text: str, value: int | None) -> None:
    assert row("int?", name="max_model_len").from_text(text) == value


def test_only_a_field_of_tokens_takes_counts() -> None:
    with pytest.raises(FieldError, match="got '16k'"):
        row("int", name="num_threads").from_yaml("16k")
    with pytest.raises(FieldError, match="or a count such as 16K, got '16Q'"):
        row("int", name="max_model_len").from_yaml("16Q")
    with pytest.raises(FieldError, match=r"got 1000\.1"):
        row("int", name="max_model_len").from_yaml("1.0001k")


def test_auto_means_unset_where_a_number_may_be_unset() -> None:
    assert row("float?").from_yaml("auto") is None
    with pytest.raises(FieldError, match="got 'auto'"):
        row("float").from_yaml("auto")


def test_only_a_field_of_bytes_takes_sizes() -> None:
    with pytest.raises(FieldError, match="got '4GiB'"):
        row("int").from_yaml("4GiB")
    with pytest.raises(FieldError, match="a size such as 4GiB"):
        row("int", name="x_bytes").from_yaml("4G")


def test_a_secret_is_not_repeated_in_an_error() -> None:
    with pytest.raises(FieldError) as caught:
        row("list[str]", name="api_keys", secret=True).from_yaml([12345])
    assert "12345" not in str(caught.value)


PAIR = row(
    "map?", name="pair", fields=(row("str", "a", name="method"), row("int", 5, name="k", minimum=1, doc="how many"))
)


def test_a_map_is_read_as_yaml_and_its_values_by_their_rows() -> None:
    assert PAIR.from_text("{method: b, k: 3}") == {"method": "b", "k": 3}
    assert PAIR.from_text("null") is None
    assert PAIR.from_yaml({"k": 2.0}) == {"k": 2}, "what is left out is left to the owner's default"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("3", "must be a map with keys among method, k or null, got 3"),
        ("{k: 0}", "has a wrong value: k must be a whole number >= 1, got 0"),
        ("{n: 1}", "has no key 'n'; its keys are method, k"),
        ("{k: 1", "must be a map with keys among method, k or null, got '{k: 1'"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(text: str, error: str) -> None:
    with pytest.raises(FieldError) as caught:
        PAIR.from_text(text)
    assert str(caught.value).startswith(error)


def test_the_help_of_a_map_tells_its_keys() -> None:
    assert "k: how many (>= 1, default 5)" in PAIR.help()


def test_rows_of_a_dataclass_carry_its_metadata() -> None:
    @dataclasses.dataclass
    class Options:
        port: int = dataclasses.field(default=1, metadata={"doc": "a port", "min": 0, "max": 9})
        names: list[str] = dataclasses.field(default_factory=list, repr=False)
        path: str | None = None

    globals()["Options"] = Options
    port, names, path = rows_from_dataclass(Options)
    assert (port.type, port.minimum, port.maximum, port.doc) == ("int", 0, 9, "a port")
    assert (names.type, names.default, names.secret) == ("list[str]", [], True)
    assert (path.type, path.default) == ("str?", None)


def test_help_states_range_and_default_and_escapes_percent() -> None:
    text = row("int", 8, doc="50 % of it", minimum=1, maximum=9).help()
    assert text == "50 %% of it (in [1, 9], default 8)"


def test_every_row_of_the_engine_accepts_its_own_default() -> None:
    from pagoda.config import ENGINE_FIELDS, SAMPLING_FIELDS

    for entry in rows_from_core([*ENGINE_FIELDS, *SAMPLING_FIELDS]):
        assert entry.from_yaml(entry.default) == entry.default, entry.name
        assert entry.doc, entry.name
