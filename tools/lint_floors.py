"""Include direction: a folder of the engine includes only its own headers and those of the folders below it.

Also in Python: `pagoda` never imports `enginectl`, and only three modules import the extension `pagoda._core`.
"""

import ast
import re
from pathlib import Path

from lint_common import CPP_SUFFIXES, Finding, files, line_of

# Folder -> the folders whose headers it may include besides its own. The longest matching folder counts.
CORE = ("core",)
BASE = ("core", "io", "parallel", "backend")
ALLOWED: dict[str, tuple[str, ...]] = {
    "cpp/core": (),
    "cpp/io": CORE,
    "cpp/parallel": ("core", "io"),
    "cpp/backend": ("core", "io", "parallel"),
    "cpp/backend/cpu": BASE,
    "cuda": BASE,
    "cpp/kv": CORE,
    "cpp/model": BASE,
    "cpp/sampling": BASE,
    "cpp/engine": (*BASE, "kv", "model", "sampling"),
    "cpp/bindings": (*BASE, "kv", "model", "sampling", "engine"),
}
# A backend's own headers are seen by that backend only; everything else goes through backend/backend.h.
PRIVATE = ("backend/cpu", "cuda")
CORE_IMPORTERS = {"py/pagoda/client.py", "py/pagoda/llm.py", "py/pagoda/config.py"}
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)


def _folder(path: str, folders: list[str]) -> str | None:
    matching = [folder for folder in folders if path.startswith(folder + "/")]
    return max(matching, key=len, default=None)


def _check_include(path: str, target: str) -> str | None:
    """The complaint about one include of the file `path`, if any."""
    floor = _folder(path, list(ALLOWED))
    if floor is None:
        return "this folder has no floor; give it one in tools/lint_floors.py and CMakeLists.txt"
    own = floor.removeprefix("cpp/")
    if "/" not in target:
        return f'write "{own}/{target}": include paths start at cpp/'
    if target.startswith(own + "/") and _folder(target, list(PRIVATE)) in (None, own):
        return None
    private = _folder(target, list(PRIVATE))
    if private is not None:
        return f'"{target}" is private to {private}; reach it through backend/backend.h'
    if target.split("/")[0] not in ALLOWED[floor]:
        return f'{floor} may include only {", ".join((*ALLOWED[floor], own))}; "{target}" is not among them'
    return None


def _imported_modules(tree: ast.AST) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.append((node.lineno, node.module))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f".{alias.name}") for alias in node.names]
    return found


def check(root: Path) -> list[Finding]:
    """Findings of C++ includes and Python imports that point up a floor."""
    findings = []
    for name, path in files(root, ["cpp", "cuda"], CPP_SUFFIXES):
        text = path.read_text(encoding="utf-8")
        for match in _INCLUDE.finditer(text):
            complaint = _check_include(name, match.group(1))
            if complaint:
                findings.append(Finding(name, line_of(text, match.start()), complaint))
    for name, path in files(root, ["py"], {".py"}):
        for line, module in _imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            if name.startswith("py/pagoda/") and module.split(".")[0] == "enginectl":
                findings.append(Finding(name, line, "pagoda must not import enginectl"))
            if module in ("pagoda._core", "._core") and name not in CORE_IMPORTERS:
                allowed = ", ".join(sorted(CORE_IMPORTERS))
                findings.append(Finding(name, line, f"only {allowed} import pagoda._core"))
    return sorted(set(findings))
