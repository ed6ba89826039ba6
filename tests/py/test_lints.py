"""The lints of tools/: each one finds a violation planted in a small tree, and leaves the allowed form alone."""

import subprocess
import sys
from pathlib import Path

import lint_calls
import lint_floors
import lint_imports
import lint_size
import pytest
from cpp_text import function_bodies, without_noise
from lint_common import Finding
from requirements import requirements

TREE = Path(__file__).resolve().parent.parent.parent
PYPROJECT = """
[build-system]
requires = ["scikit-build-core"]
[project]
dependencies = ["aiohttp>=3", "pyyaml"]
[project.optional-dependencies]
hub = ["huggingface_hub>=0.26"]
test = ["torch==2.13.0"]
"""


def plant(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    plant(tmp_path, "pyproject.toml", PYPROJECT)
    return tmp_path


def places(findings: list[Finding]) -> list[tuple[str, int]]:
    return [(finding.path, finding.line) for finding in findings]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("cpp/core/a.h", "io/gguf.h"),
        ("cpp/io/a.cc", "backend/backend.h"),
        ("cpp/kv/block_pool.h", "backend/backend.h"),
        ("cpp/model/decoder.cc", "kv/kv_manager.h"),
        ("cpp/model/arch/llama.cc", "kv/kv_manager.h"),
        ("cpp/sampling/sampler.cc", "engine/sequence.h"),
        ("cpp/backend/ops.cc", "backend/cpu/kernels.h"),
        ("cpp/engine/runner.cc", "backend/cpu/kernels.h"),
        ("cpp/backend/cpu/linear.cc", "cuda/vec.cuh"),
        ("cpp/core/a.cc", "hash.h"),
        ("cpp/new_folder/a.cc", "core/check.h"),
    ],
)
def test_an_include_that_points_up_a_floor_is_found(tree: Path, name: str, target: str) -> None:
    plant(tree, name, f'// a file\n#include "{target}"\n')
    assert places(lint_floors.check(tree)) == [(name, 2)]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("cpp/kv/kv_manager.h", "kv/block_pool.h"),
        ("cpp/engine/runner.cc", "model/model.h"),
        ("cpp/model/arch/llama.cc", "model/config.h"),
        ("cpp/backend/cpu/linear.cc", "backend/cpu/kernels.h"),
        ("cpp/backend/cpu/linear.cc", "backend/backend.h"),
        ("cpp/bindings/module.cc", "engine/engine.h"),
    ],
)
def test_an_include_that_points_down_is_allowed(tree: Path, name: str, target: str) -> None:
    plant(tree, name, f'#include "{target}"\n#include <vector>\n')
    assert lint_floors.check(tree) == []


@pytest.mark.parametrize(
    "line",
    [
        "from pagoda import _core",
        "import pagoda._core",
        "from pagoda._core import InvalidArgument",
        "from . import _core",
    ],
)
def test_only_three_modules_import_the_extension(tree: Path, line: str) -> None:
    plant(tree, "py/pagoda/client.py", line + "\n")
    assert lint_floors.check(tree) == []
    plant(tree, "py/pagoda/tokenizer.py", line + "\n")
    assert places(lint_floors.check(tree)) == [("py/pagoda/tokenizer.py", 1)]


def test_pagoda_does_not_import_enginectl(tree: Path) -> None:
    plant(tree, "py/pagoda/a.py", "import os\nfrom enginectl.serve import main\n")
    assert places(lint_floors.check(tree)) == [("py/pagoda/a.py", 2)]


@pytest.mark.parametrize(
    ("name", "comment"), [("cpp/core/a.cc", "//"), ("py/pagoda/a.py", "#"), ("py/pagoda/ui/a.js", "//")]
)
def test_a_file_of_501_lines_is_found(tree: Path, name: str, comment: str) -> None:
    plant(tree, name, f"{comment} line\n" * 500)
    assert lint_size.check(tree) == []
    plant(tree, name, f"{comment} line\n" * 501)
    assert places(lint_size.check(tree)) == [(name, 1)]


def test_a_python_function_of_61_lines_is_found(tree: Path) -> None:
    plant(
        tree,
        "py/pagoda/a.py",
        "def good():\n" + "    print()\n" * 59 + "\n\nasync def long():\n" + "    print()\n" * 60,
    )
    assert places(lint_size.check(tree)) == [("py/pagoda/a.py", 63)]


@pytest.mark.parametrize(
    "header",
    [
        "int f(int a) {",
        "int f(const std::string& text = {},\n      int b = 2) const noexcept {",
        "Pool::Pool(int n) : size_(n), name_{n}, free_(n) {",
        "template <class T>\nauto g(T a) -> std::vector<T> {",
        "TEST(Pool, a_block_comes_back) {",
        "class A {\n public:\n  explicit A(int a) : a_{a} {",
    ],
)
def test_a_cpp_function_of_61_lines_is_found(tree: Path, header: str) -> None:
    tail = "}\n};\n}\n" if header.startswith("class") else "}\n}\n"
    num_header_lines = header.count("\n") + 1 - (2 if header.startswith("class") else 0)

    def source(num_lines: int) -> str:
        body = '  if (x) { y = "{"; }  // }\n' * (num_lines - num_header_lines - 1)
        return f"namespace pagoda {{\n\nstruct Row {{ int a = 1; }};\n{header}\n{body}{tail}"

    plant(tree, "cpp/core/a.cc", source(60))
    assert lint_size.check(tree) == []
    plant(tree, "cpp/core/a.cc", source(61))
    (finding,) = lint_size.check(tree)
    assert "61 lines" in finding.text


def test_tables_and_types_are_not_functions() -> None:
    table = "constexpr Row kRows[] = {\n{1, f(2)},\n};\n"
    source = table + "enum class Kind : uint8_t { a, b };\nstruct A { int f() { return 1; } };\n"
    assert [body.header for body in function_bodies(source)] == ["int f()"]


def test_comments_and_literals_are_blanked_in_place() -> None:
    source = 'int a = 1\'000; // {\nchar b = \'{\'; auto c = R"x({)")x"; /* {\n */ auto d = "\\"{";'
    blanked = without_noise(source)
    assert "{" not in blanked
    assert len(blanked) == len(source)
    assert blanked.count("\n") == source.count("\n")


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from marshal import loads",
        "eval('1')",
        "exec(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "from yaml import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "pickle.load(path, weights_only=True); import pickle",
        "subprocess.run(text, shell=True)",
        "subprocess.run(text, shell=flag)",
        "os.system(text)",
        "assert x",
    ],
)
def test_a_banned_python_call_is_found(tree: Path, line: str) -> None:
    plant(tree, "py/enginectl/a.py", f"x = 1\n{line}\n")
    assert places(lint_calls.check(tree)) == [("py/enginectl/a.py", 2)]


def test_safe_python_calls_are_allowed(tree: Path) -> None:
    plant(
        tree,
        "py/pagoda/a.py",
        "yaml.safe_load(t)\nmodel.eval()\ntorch.load(p, weights_only=True)\n"
        "subprocess.run([a], shell=False)\nre.compile(b)\n# eval(x)\n",
    )
    assert lint_calls.check(tree) == []


@pytest.mark.parametrize(
    "line", ["#include <regex>", "std::regex r;", "strcpy(a, b);", "std::sprintf(a, b);", "system(a);"]
)
def test_a_banned_cpp_call_is_found(tree: Path, line: str) -> None:
    plant(tree, "cpp/core/a.cc", f"// strcpy(a, b) is a comment\n{line}\n")
    assert places(lint_calls.check(tree)) == [("cpp/core/a.cc", 2)]


def test_safe_cpp_calls_are_allowed(tree: Path) -> None:
    plant(tree, "cpp/core/a.cc", 'snprintf(a, n, b);\nfile.system();\nauto s = "strcpy(a, b)";\nint my_system(int);\n')
    assert lint_calls.check(tree) == []


@pytest.mark.parametrize(
    "line",
    [
        "os.environ['A']",
        "os.environ.get('A')",
        "os.getenv('A')",
        "from os import environ",
        "os.path.expandvars(a)",
        "f(os.environ)",
    ],
)
def test_an_environment_read_in_python_engine_code_is_found(tree: Path, line: str) -> None:
    plant(tree, "py/pagoda/server/a.py", f"import os\n{line}\n")
    assert places(lint_calls.check(tree)) == [("py/pagoda/server/a.py", 2)]


def test_models_may_read_the_cache_directory_and_nothing_else(tree: Path) -> None:
    read = "import os\nos.environ.get('XDG_CACHE_HOME')\n"
    plant(tree, "py/pagoda/models.py", read)
    assert lint_calls.check(tree) == []
    plant(tree, "py/pagoda/models.py", read + "os.environ.get('HOME')\n")
    assert places(lint_calls.check(tree)) == [("py/pagoda/models.py", 3)]
    plant(tree, "py/pagoda/client.py", read)
    assert ("py/pagoda/client.py", 2) in places(lint_calls.check(tree))


@pytest.mark.parametrize("line", ['std::getenv("A");', 'secure_getenv("A");', "extern char** environ;"])
def test_an_environment_read_in_cpp_is_found(tree: Path, line: str) -> None:
    plant(tree, "cpp/engine/a.cc", f"\n{line}\n")
    assert places(lint_calls.check(tree)) == [("cpp/engine/a.cc", 2)]


def test_an_undeclared_import_is_found(tree: Path) -> None:
    plant(
        tree,
        "py/pagoda/a.py",
        "import json\nimport aiohttp\nimport yaml\nfrom pagoda import b\nfrom .c import d\nimport numpy\n",
    )
    plant(tree, "py/pagoda/b.py", "def f() -> None:\n    import torch\n")
    assert places(lint_imports.check(tree)) == [("py/pagoda/a.py", 6), ("py/pagoda/b.py", 2)]


def test_an_extra_is_imported_only_inside_functions(tree: Path) -> None:
    plant(tree, "py/pagoda/a.py", "def f() -> None:\n    import huggingface_hub\n")
    assert lint_imports.check(tree) == []
    plant(tree, "py/pagoda/a.py", "import huggingface_hub\n")
    assert places(lint_imports.check(tree)) == [("py/pagoda/a.py", 1)]


def test_the_command_lists_findings_and_fails(tree: Path) -> None:
    command = [sys.executable, str(TREE / "tools/lint.py"), str(tree)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    plant(tree, "cpp/core/a.cc", '#include "io/gguf.h"\nstrcpy(a, b);\n')
    bad = subprocess.run(command, capture_output=True, text=True)
    assert bad.returncode == 1
    assert [line.split(": ")[0] for line in bad.stdout.splitlines()] == ["cpp/core/a.cc:1", "cpp/core/a.cc:2"]


def test_requirements_come_from_pyproject(tree: Path) -> None:
    assert requirements(["build", "runtime", "hub"], tree / "pyproject.toml") == [
        "scikit-build-core",
        "aiohttp>=3",
        "pyyaml",
        "huggingface_hub>=0.26",
    ]
    with pytest.raises(SystemExit, match="no such group: lnt; there are build, runtime, hub, test"):
        requirements(["lnt"], tree / "pyproject.toml")


def test_an_isa_object_with_shared_code_is_found(tmp_path: Path) -> None:
    check = TREE / "tools/check_isa_objects.py"

    def run(source: str) -> subprocess.CompletedProcess[str]:
        plant(tmp_path, "k_avx2.cc", source)
        item = tmp_path / "k_avx2.cc.o"
        subprocess.run(["c++", "-c", "-O0", str(tmp_path / "k_avx2.cc"), "-o", str(item)], check=True)
        return subprocess.run([sys.executable, str(check), "nm", f"{item}"], capture_output=True, text=True)

    assert run("namespace { int g() { return 1; } }\nint f() { return g(); }\n").returncode == 0
    bad = run("inline int shared() { return 1; }\nint f() { return shared(); }\n")
    assert bad.returncode == 1
    assert "k_avx2.cc.o: shared()" in bad.stdout
