"""Reads a YAML configuration with line numbers and without YAML's traps.

The dialect is YAML 1.2's core schema on top of PyYAML's safe loader: only `true`/`false` are booleans, `1e-5` is a
number, `010` is refused, and there are no tags, anchors, aliases, merge keys or second documents. Called by
`pagoda.config`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 16

_PLAIN = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_DOT_OF_INF_NAN = re.compile(r"\.(?=inf|nan)")


class YamlError(ValueError):
    """The text is not YAML that Pagoda reads. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclasses.dataclass(frozen=True, slots=True)
class Located:
    """A value and the line it starts on. Mappings hold `Located` values, lists hold `Located` items."""

    value: Any
    line: int

    def plain(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value


class _Loader(yaml.SafeLoader):
    """PyYAML's composer that refuses what a configuration has no use for, before it can grow."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Composes one node; every kind of nesting passes here."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise YamlError(line, "anchors and aliases (& and *) are not supported; write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise YamlError(line, f"tags are not supported, got {_shown_tag(tag)}")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise YamlError(line, f"nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _shown_tag(tag: str) -> str:
    short = tag.replace("tag:yaml.org,2002:", "!!", 1)
    return short if len(short) <= 60 else short[:57] + "..."


def load_yaml(data: bytes | str) -> tuple[Located | None, list[YamlError]]:
    """Parses one document. Returns its value (None when it is empty) and the faults found; after a syntax error there
    is no value.

    The first entry of a repeated key is kept and each repetition is a fault, so that a caller can go on and report
    everything at once.
    """
    try:
        text = _decode(data)
        loader = _Loader(text)
    except YamlError as error:
        return None, [error]
    except yaml.YAMLError as error:
        return None, [_syntax_error(error)]
    faults: list[YamlError] = []
    try:
        node = loader.get_single_node()
        return (None if node is None else _build(node, faults)), faults
    except YamlError as error:
        return None, [*faults, error]
    except yaml.YAMLError as error:
        return None, [*faults, _syntax_error(error)]
    finally:
        loader.dispose()


def _decode(data: bytes | str) -> str:
    if isinstance(data, str):
        data = data.encode("utf-8", errors="replace")
    if len(data) > MAX_BYTES:
        raise YamlError(1, f"is larger than {MAX_BYTES} bytes")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise YamlError(1, "must be UTF-8 text, got UTF-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlError(line, f"must be UTF-8 text, got byte 0x{data[error.start]:02x}") from None


def _syntax_error(error: yaml.YAMLError) -> YamlError:
    if isinstance(error, yaml.reader.ReaderError):
        return YamlError(1, f"must not contain the control character U+{int(error.character):04X}")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark is not None else 1
    problem = str(getattr(error, "problem", None) or error)
    if "'\\t'" in problem:
        return YamlError(line, "tabs cannot indent YAML; use spaces")
    if "but found another document" in problem:
        return YamlError(line, "a second document starts here; a configuration is one document")
    context = getattr(error, "context", None)
    return YamlError(line, f"not valid YAML: {problem}" + (f" ({context})" if context else ""))


def _build(node: yaml.Node, faults: list[YamlError]) -> Located:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Located([_build(item, faults) for item in node.value], line)
    if isinstance(node, yaml.ScalarNode):
        return Located(_scalar(node, faults), line)
    mapping: dict[Any, Located] = {}
    first_line: dict[Any, int] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            faults.append(YamlError(key_line, "a key must be a plain word, got a list or a map"))
            continue
        key = _scalar(key_node, faults)
        if key == "<<":
            faults.append(YamlError(key_line, "merge keys (<<) are not supported; write the values out"))
        elif key in mapping:
            faults.append(YamlError(key_line, f"{key} is given twice; the first is on line {first_line[key]}"))
        else:
            mapping[key] = Located(_build(value_node, faults).value, key_line)
            first_line[key] = key_line
    return Located(mapping, line)


def _scalar(node: yaml.ScalarNode, faults: list[YamlError]) -> Any:
    text: str = node.value
    if node.style is not None:
        return text
    if _LEADING_ZERO.fullmatch(text):
        line = node.start_mark.line + 1
        faults.append(
            YamlError(line, f"{text} is octal to some YAML readers and decimal to others; drop the leading 0")
        )
        return int(text.replace("_", ""))
    if _PLAIN["null"].fullmatch(text):
        return None
    if _PLAIN["bool"].fullmatch(text):
        return text.lower() == "true"
    if _PLAIN["int"].fullmatch(text) and len(text) <= 4000:
        return int(text, 16 if text.startswith("0x") else 10)
    if _PLAIN["float"].fullmatch(text):
        return float(_DOT_OF_INF_NAN.sub("", text.lower()))
    return text
