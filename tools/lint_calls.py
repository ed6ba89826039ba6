"""Calls that must not occur: code from data, unsafe parsers and string functions, asserts, environment reads.

An environment variable is a hidden option: it is in no configuration file, no `--help` and no log, so engine code
reads none.
"""

import ast
import re
from pathlib import Path

from cpp_text import without_noise
from lint_common import CPP_SUFFIXES, Finding, files, line_of

BANNED_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BANNED_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "__import__": "imports what data names",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "yaml.load": "can build any object; use a SafeLoader through pagoda.yaml_loader",
    "yaml.full_load": "can build more than plain data",
    "yaml.unsafe_load": "can build any object",
    "torch.load": "unpickles; use safetensors, or weights_only=True",
}
BANNED_CPP = {
    "std::regex": "overflows the stack on long input",
    "strcpy": "has no bound",
    "strcat": "has no bound",
    "sprintf": "has no bound; use snprintf or std::ostringstream",
    "vsprintf": "has no bound; use vsnprintf",
    "gets": "has no bound",
    "system": "runs a shell",
    "popen": "runs a shell",
}
ENVIRONMENT_CPP = ("getenv", "secure_getenv", "environ")
ENVIRONMENT_PYTHON = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
# Where the user's cache lies is the desktop's convention, not an option of ours: models.py reads this one variable.
ENVIRONMENT_ALLOWED = {"py/pagoda/models.py": {"XDG_CACHE_HOME"}}


def _dotted(node: ast.expr) -> str:
    """ "a.b.c" of a name or attribute, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _loads_tensors_only(name: str, call: ast.Call) -> bool:
    """torch.load with weights_only=True knows tensors and nothing that runs."""
    return name == "torch.load" and any(
        keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in call.keywords
    )


def _banned_in_node(node: ast.AST) -> str | None:
    if isinstance(node, ast.Assert):
        return "assert vanishes under -O; raise an exception"
    modules = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
        for alias in node.names:
            if f"{node.module}.{alias.name}" in BANNED_CALLS:
                return f"{node.module}.{alias.name} {BANNED_CALLS[f'{node.module}.{alias.name}']}"
    for module in modules:
        if module.split(".")[0] in BANNED_MODULES:
            return f"{module} runs code that data brings"
    if isinstance(node, ast.Call):
        name = _dotted(node.func)
        if name in BANNED_CALLS and not _loads_tensors_only(name, node):
            return f"{name} {BANNED_CALLS[name]}"
        for keyword in node.keywords:
            if keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                return "shell=True runs a shell; give the arguments as a list"
    return None


def _environment_reads(tree: ast.AST, allowed: set[str]) -> list[int]:
    """Lines reading the environment, except `os.environ.get`, `os.environ[...]` and `os.getenv` of allowed names."""
    permitted: set[int] = set()
    lines = []
    for node in ast.walk(tree):
        key: ast.expr | None = None
        if isinstance(node, ast.Call) and node.args and _dotted(node.func) in ("os.environ.get", "os.getenv"):
            key, reader = node.args[0], node.func
        elif isinstance(node, ast.Subscript) and _dotted(node.value) == "os.environ":
            key, reader = node.slice, node.value
        if isinstance(key, ast.Constant) and key.value in allowed:
            permitted.update(id(part) for part in ast.walk(reader))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            lines += [node.lineno for alias in node.names if alias.name in ENVIRONMENT_PYTHON]
        if isinstance(node, ast.Attribute) and id(node) not in permitted:
            name = _dotted(node)
            if name == "os.path.expandvars" or (name.startswith("os.") and name.split(".")[1] in ENVIRONMENT_PYTHON):
                lines.append(node.lineno)
    return sorted(set(lines))


def _check_cpp(name: str, text: str) -> list[Finding]:
    code = without_noise(text, keep_preprocessor=True)
    findings = []
    for word, reason in BANNED_CPP.items():
        pattern = re.escape(word) + r"\b" if "::" in word else rf"(?<![\w.>]){word}\s*\("
        for match in re.finditer(pattern, code):
            findings.append(Finding(name, line_of(code, match.start()), f"{word} {reason}"))
    for match in re.finditer(r"#\s*include\s*<regex>", code):
        findings.append(Finding(name, line_of(code, match.start()), f"std::regex {BANNED_CPP['std::regex']}"))
    for match in re.finditer(rf"\b(?:{'|'.join(ENVIRONMENT_CPP)})\b", code):
        text_ = f"{match.group()}: engine code reads no environment variables; make it an option"
        findings.append(Finding(name, line_of(code, match.start()), text_))
    return findings


def check(root: Path) -> list[Finding]:
    """Findings of banned calls in C++ and Python, and of environment reads in engine code."""
    findings = []
    for name, path in files(root, ["cpp", "cuda"], CPP_SUFFIXES):
        findings += _check_cpp(name, path.read_text(encoding="utf-8"))
    for name, path in files(root, ["py", "tools", "bench"], {".py"}):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            complaint = _banned_in_node(node)
            if complaint:
                findings.append(Finding(name, getattr(node, "lineno", 1), complaint))
        if name.startswith("py/pagoda/"):
            reads = _environment_reads(tree, ENVIRONMENT_ALLOWED.get(name, set()))
            findings += [
                Finding(name, line, "engine code reads no environment variables; make it an option") for line in reads
            ]
    return sorted(findings)
