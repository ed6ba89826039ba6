"""Size caps: files of at most 500 lines, functions of at most 60."""

import ast
from pathlib import Path

from cpp_text import function_bodies
from lint_common import CPP_SUFFIXES, Finding, files

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
FOLDERS = ["cpp", "cuda", "py", "tests", "tools", "bench"]


def _python_functions(source: str) -> list[tuple[str, int, int]]:
    """(name, first line, last line) of every function and method; the decorators are not counted."""
    nodes = ast.walk(ast.parse(source))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [(node.name, node.lineno, node.end_lineno or node.lineno) for node in functions]


def check(root: Path) -> list[Finding]:
    """Findings of files and functions over the caps."""
    findings = []
    for name, path in files(root, FOLDERS, CPP_SUFFIXES | {".py", ".js"}):
        text = path.read_text(encoding="utf-8")
        num_lines = len(text.splitlines())
        if num_lines > MAX_FILE_LINES:
            findings.append(
                Finding(name, 1, f"{num_lines} lines; a file has at most {MAX_FILE_LINES}: split it by noun")
            )
        if path.suffix == ".py":
            functions = _python_functions(text)
        elif path.suffix in CPP_SUFFIXES:
            functions = [(body.header[-60:], body.first_line, body.last_line) for body in function_bodies(text)]
        else:
            functions = []
        for function, first, last in functions:
            if last - first + 1 > MAX_FUNCTION_LINES:
                text_ = f"{function} has {last - first + 1} lines; a function has at most {MAX_FUNCTION_LINES}"
                findings.append(Finding(name, first, text_))
    return findings
