"""The YAML dialect of configuration files: lines are kept, traps are refused, all faults of a document are found."""

from __future__ import annotations

import pytest

from pagoda.yaml_loader import MAX_BYTES, load_yaml


def parsed(text: str | bytes) -> object:
    tree, faults = load_yaml(text)
    assert faults == []
    return None if tree is None else tree.plain()


def faults_of(text: str | bytes) -> list[tuple[int, str]]:
    return [(fault.line, str(fault)) for fault in load_yaml(text)[1]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("0x10", 16),
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("'8'", "8"),
        ('"true"', "true"),
        ("[1, a, 2.5]", [1, "a", 2.5]),
        ("{5: 1.0}", {5: 1.0}),
    ],
)
def test_a_plain_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    got = parsed(text)
    assert got == value
    assert type(got) is type(value)


def test_every_value_knows_its_line() -> None:
    tree, faults = load_yaml("a:\n  b: 1\n\n  c: [x]\n")
    assert faults == []
    assert tree is not None
    inner = tree.value["a"].value
    assert (tree.value["a"].line, inner["b"].line, inner["c"].line) == (1, 2, 4)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_document_has_no_value(text: str) -> None:
    assert parsed(text) is None


def test_a_byte_order_mark_is_skipped() -> None:
    assert parsed(b"\xef\xbb\xbfa: 1\n") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb:\n\tc: 2\n", 3, "tabs cannot indent"),
        ("a: 1\na: 2\n", 2, "a is given twice; the first is on line 1"),
        ("a: 010\n", 1, "drop the leading 0"),
        ("a: &x [1]\nb: *x\n", 1, "anchors and aliases"),
        ("a: 1\nb: *x\n", 2, "anchors and aliases"),
        (
            "a: !!python/object/apply:os.system ['id']\n",
            1,
            "tags are not supported, got !!python/object/apply:os.system",
        ),
        ("a: !!str 5\n", 1, "tags are not supported"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("<<: {a: 1}\n", 1, "merge keys"),
        ("? [a, b]\n: 1\n", 1, "a key must be a plain word"),
        ("a: [1, 2\nb: 3\n", 2, "not valid YAML"),
        ("a: 'x\n", 2, "not valid YAML"),
        ("a: \x07\n", 1, "control character U+0007"),
        (b"a: 1\nb: \xff\n", 2, "must be UTF-8 text, got byte 0xff"),
        ("a: 1".encode("utf-16"), 1, "got UTF-16"),
        (b"#" * (MAX_BYTES + 1), 1, "larger than"),
        ("[" * 100_000, 1, "nested deeper than 16"),
    ],
)
def test_a_trap_is_refused_with_its_line(text: str | bytes, line: int, part: str) -> None:
    faults = faults_of(text)
    assert [fault[0] for fault in faults] == [line]
    assert part in faults[0][1]


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert "anchors and aliases" in faults_of("\n".join(levels))[0][1]


def test_all_faults_that_leave_the_document_readable_are_found() -> None:
    faults = faults_of("a: 1\na: 2\nb: 08\nc: {d: 1, d: 2}\n")
    assert [line for line, _ in faults] == [2, 3, 4]


def test_the_first_of_two_equal_keys_is_kept() -> None:
    tree, _ = load_yaml("a: 1\na: 2\n")
    assert tree is not None
    assert tree.plain() == {"a": 1}
