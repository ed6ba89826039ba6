"""The folders of CUDA's libraries, found in made-up trees of installed packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from pagoda.cuda_libraries import cuda_library_folders


def plant(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return root


def test_no_packages_no_folders(tmp_path: Path) -> None:
    assert cuda_library_folders([]) == []
    assert cuda_library_folders([str(tmp_path), str(tmp_path / "absent")]) == []


def test_newer_cuda_comes_first_and_torch_last(tmp_path: Path) -> None:
    site = plant(tmp_path / "site", "torch/lib", "nvidia/cublas/lib", "nvidia/cu13/lib", "nvidia/cu13/include")
    assert cuda_library_folders([str(site)]) == [
        str(site / "nvidia/cu13/lib"),
        str(site / "nvidia/cublas/lib"),
        str(site / "torch/lib"),
    ]


def test_kind_decides_before_place(tmp_path: Path) -> None:
    first = plant(tmp_path / "first", "torch/lib")
    second = plant(tmp_path / "second", "nvidia/cu13/lib", "torch/lib")
    assert cuda_library_folders([str(first), str(second)]) == [
        str(second / "nvidia/cu13/lib"),
        str(first / "torch/lib"),
        str(second / "torch/lib"),
    ]


def test_each_folder_once(tmp_path: Path) -> None:
    site = plant(tmp_path, "nvidia/cublas/lib")
    assert cuda_library_folders([str(site), str(site), f"{site}/"]) == [str(site / "nvidia/cublas/lib")]


def test_files_and_strange_paths_are_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, "torch", "nvidia")
    (tmp_path / "torch/lib").write_text("a file")
    (tmp_path / "nvidia/cu13").symlink_to(tmp_path / "nowhere")
    assert cuda_library_folders([str(tmp_path), "/\0", str(tmp_path / "packages.zip")]) == []


def test_working_directory_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "nvidia/cu13/lib")
    monkeypatch.chdir(tmp_path)
    assert cuda_library_folders(["", ".", "nvidia/.."]) == []


def test_default_is_where_python_imports_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = plant(tmp_path, "nvidia/cu13/lib")
    monkeypatch.setattr(sys, "path", ["", str(site), *sys.path])
    assert str(site / "nvidia/cu13/lib") in cuda_library_folders()


def test_nothing_is_imported_for_it() -> None:
    code = (
        "import sys; from pagoda.cuda_libraries import cuda_library_folders; cuda_library_folders();"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'nvidia', 'numpy')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


def test_as_a_script_it_prints_the_folders() -> None:
    script = Path(__file__).resolve().parents[2] / "py/pagoda/cuda_libraries.py"
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == ":".join(cuda_library_folders([path for path in sys.path if path]))
