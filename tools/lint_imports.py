"""Imports of py/: only the standard library, our own packages and the distributions that pyproject.toml declares.

A module of an extra may only be imported inside a function, so that the package works without the extra.
"""

import ast
import re
import sys
import tomllib
from pathlib import Path

from lint_common import Finding, files

OWN = {"pagoda", "enginectl"}
MODULE_OF_DISTRIBUTION = {
    "pyyaml": "yaml",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
}
# Extras of users; the others (test, lint) are for developers and never imported by the package.
USER_EXTRAS = ("hub", "verify", "otel")


def _modules(requirements: list[str]) -> set[str]:
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in requirements]
    return {MODULE_OF_DISTRIBUTION.get(name, name.replace("-", "_")) for name in names}


def _import_nodes(node: ast.AST, inside_function: bool) -> list[tuple[int, str, bool]]:
    """(line, top-level module, inside a function or under TYPE_CHECKING) of every absolute import under `node`."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            found += [(child.lineno, alias.name.split(".")[0], inside_function) for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            found.append((child.lineno, child.module.split(".")[0], inside_function))
        typing_only = (
            isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
        )
        lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only
        found += _import_nodes(child, inside_function or lazy)
    return found


def check(root: Path) -> list[Finding]:
    """Findings of undeclared imports and of top-level imports of an extra's module."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = _modules(project.get("dependencies", []))
    extras = project.get("optional-dependencies", {})
    optional = set().union(*(_modules(extras.get(extra, [])) for extra in USER_EXTRAS))
    findings = []
    for name, path in files(root, ["py"], {".py"}):
        for line, module, lazy in _import_nodes(ast.parse(path.read_text(encoding="utf-8")), False):
            if module in sys.stdlib_module_names or module in OWN or module in required:
                continue
            if module not in optional:
                findings.append(
                    Finding(name, line, f"{module} is not a declared dependency (pyproject.toml, docs/dependencies.md)")
                )
            elif not lazy:
                findings.append(
                    Finding(name, line, f"{module} comes with an extra; import it inside the function that needs it")
                )
    return sorted(findings)
