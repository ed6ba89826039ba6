"""A view of C++ source that is good enough to lint: comments and literals blanked, outermost function bodies found."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A quote after a word character is a digit separator (1'000), not a character literal.
_NOISE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|R"(?P<tag>[^()\\\s]*)\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<!\w)'(?:\\.|[^'\\\n])+'""",
    re.DOTALL,
)
_PREPROCESSOR = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)
_LEAD = re.compile(r"\s*(?:(?:public|private|protected)\s*:(?!:)\s*)*")
_INITIALIZER_LIST = re.compile(r"\)[\w\s]*:(?!:)")


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match.group())


def without_noise(source: str, keep_preprocessor: bool = False) -> str:
    """`source` with comments, string and character literals (and preprocessor lines) as spaces; offsets stay."""
    text = _NOISE.sub(_blank, source)
    return text if keep_preprocessor else _PREPROCESSOR.sub(_blank, text)


@dataclass(frozen=True)
class FunctionBody:
    """An outermost function: its header's text and the 1-based lines from its header to its closing brace."""

    header: str
    first_line: int
    last_line: int


def _kind(header: str) -> str:
    """What the brace after `header` opens: "function", "scope" (holds functions) or "initializer"."""
    if header.endswith("=") or (
        _INITIALIZER_LIST.search(header) and re.search(r"\w$", header) and not _is_specifier(header)
    ):
        return "initializer"
    if ")" in header and not re.match(
        r"(?:template\s*<.*>\s*)?(?:class|struct|union|enum)\b[^()]*$", header, re.DOTALL
    ):
        return "function"
    if not header or re.search(r"\b(?:namespace|class|struct|union|enum|extern)\b", header):
        return "scope"
    return "initializer"


def _is_specifier(header: str) -> bool:
    return re.search(r"\b(?:const|noexcept|override|final|mutable|try)$", header) is not None


def function_bodies(source: str) -> Iterator[FunctionBody]:
    """The function bodies of namespaces and classes, in order. A lambda belongs to the function around it."""
    text = without_noise(source)
    stack: list[str] = []
    header_start = function_start = 0
    header = ""
    for match in re.finditer(r"[{};]", text):
        position, symbol = match.start(), match.group()
        if symbol == "{":
            start = position - len(_LEAD.sub("", text[header_start:position], count=1))
            candidate = text[start:position].strip()
            kind = "initializer" if "function" in stack or "initializer" in stack else _kind(candidate)
            if kind == "function":
                function_start, header = start, " ".join(candidate.split())
            stack.append(kind)
        elif symbol == "}" and stack:
            kind = stack.pop()
            if kind == "function":
                lines = text.count("\n", 0, function_start) + 1, text.count("\n", 0, position) + 1
                yield FunctionBody(header, *lines)
            if kind == "initializer" and "function" not in stack:
                continue  # the header of a constructor goes on after a braced member initializer
        if not stack or stack[-1] == "scope":
            header_start = match.end()
