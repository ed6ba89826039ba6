"""Where `enginectl convert` writes: what it replaces, what it keeps its hands off, what stays behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.references import loaded
from e2e.tiny_models import TinyModel, prompt_of, save

from pagoda.conversion import convert
from pagoda.models import ModelError

Tiny = Callable[[str], TinyModel]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("thesis.pdf", "it holds thesis.pdf"),
        (".git/HEAD", r"it holds \.git"),
        ("notes.txt/one", r"it holds notes\.txt"),
        ("", r"it has no \*\.safetensors"),
    ],
)
def test_force_removes_nothing_that_no_conversion_writes(
    entry: str, complaint: str, tiny: Tiny, tmp_path: Path
) -> None:
    source, out = str(tiny("llama").path), tmp_path / "out"
    convert(source, out)
    if entry:
        (out / entry).parent.mkdir(exist_ok=True)
        (out / entry).write_text("dear")
    else:
        (out / "model.safetensors").unlink()
    before = names(out)
    with pytest.raises(ModelError, match=f"out: is no converted model, because {complaint}, so --force does not"):
        convert(source, out, force=True)
    assert names(out) == before
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("target", ["out.gguf", "out"])
def test_a_link_stays_and_what_it_points_to_is_written(target: str, tiny: Tiny, tmp_path: Path) -> None:
    source, link = str(tiny("llama").path), tmp_path / target
    (tmp_path / "disk").mkdir()
    link.symlink_to(tmp_path / "disk" / target)
    for force in (False, True):
        convert(source, link, force=force, with_tokenizer=False)
        assert link.is_symlink()
        assert names(tmp_path / "disk") == [target]
    with pytest.raises(ModelError, match="exists already"):
        convert(source, link, with_tokenizer=False)
    with loaded(link) as llm:
        assert llm.generate([prompt_of(5, seed=1, vocab=300)], use_tqdm=False)


def test_the_current_directory_and_mount_points_are_refused_at_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(tiny("llama").path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"\.: is the current directory, or holds it, which cannot be replaced"):
        convert(source, Path())
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: path == tmp_path / "disk")
    with pytest.raises(ModelError, match="disk: is a mount point, which cannot be replaced; name a directory to make"):
        convert(source, Path("disk"))
    assert names(tmp_path) == ["disk"]


@pytest.mark.parametrize("name", ["OUT.GGUF", "model.safetensors", "out.bin"])
def test_a_name_of_another_kind_of_file_is_refused(name: str, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"OUT must be a file whose name ends in \.gguf, or a directory, got \*\."):
        convert(str(tiny("llama").path), tmp_path / name)
    assert names(tmp_path) == []


def test_no_file_of_the_source_is_replaced(tiny: Tiny, tmp_path: Path) -> None:
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    convert(str(tiny("llama").path), parts[0], with_tokenizer=False)
    shutil.copyfile(parts[0], parts[1])
    with pytest.raises(ModelError, match="is, holds or lies in the source"):
        convert(str(parts[0]), parts[1], force=True)
    model = save(tiny("llama").reference, tmp_path / "model")
    convert(str(model.path), tmp_path / "disk")
    (model.path / "model.safetensors").unlink()
    (model.path / "model.safetensors").symlink_to(tmp_path / "disk" / "model.safetensors")
    with pytest.raises(ModelError, match="is, holds or lies in the source"):
        convert(str(model.path), tmp_path / "disk", force=True)


def test_a_place_that_cannot_be_written_is_named_with_the_reason(tiny: Tiny, tmp_path: Path) -> None:
    name = "x" * 250
    for target in (f"{name}.gguf", name):
        with pytest.raises(ValueError, match="cannot be created: File name too long"):
            convert(str(tiny("llama").path), tmp_path / target, with_tokenizer=False)


def test_a_closed_terminal_leaves_nothing_unless_it_is_to_be_ignored(tiny: Tiny, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom enginectl.__main__ import main\nimport enginectl.convert as command\n"
        "real = command.convert\n"
        "def convert(*words, progress, **options):\n"
        "    return real(*words, progress=lambda done, total: os.kill(os.getpid(), signal.SIGHUP), **options)\n"
        "command.convert = convert\n"
        "signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))\nsys.exit(main(sys.argv[2:]))\n"
    )
    words = ["convert", "--no-tokenizer", str(tiny("llama").path), str(tmp_path / "out.gguf")]
    for handler, code, left in (("SIG_DFL", 128 + signal.SIGHUP, []), ("SIG_IGN", 0, ["out.gguf"])):
        done = subprocess.run([sys.executable, "-c", script, handler, *words], capture_output=True, check=False)
        assert done.returncode == code
        assert names(tmp_path) == left
