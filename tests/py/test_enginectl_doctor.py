"""`enginectl doctor` and `pull`: every check reports, a broken one fails alone, the model's checksum is compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import enginectl.doctor as doctor
import enginectl.pull
from enginectl.__main__ import main
from pagoda.config import DeviceError, find_cuda_library
from pagoda.models import ALIASES, cache_path


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache directory without models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_json_is_pure_and_every_check_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {finding["check"] for finding in findings} == set(doctor.CHECKS)
    assert {finding["status"] for finding in findings} <= {"ok", "warning"}


def test_findings_are_lines_without_colour_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "kernels: " in out
    assert "enginectl pull smollm2-135m" in out
    assert "\033" not in out


def test_a_check_that_raises_fails_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[tuple[str, str]]:
        yield "ok", "half way"
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(doctor, "CHECKS", {"first": broken, "second": doctor.check_memory})
    assert main(["doctor", "--json"]) == 2
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [(finding["check"], finding["status"]) for finding in findings][:2] == [("first", "ok"), ("first", "failed")]
    assert findings[-1]["check"] == "second"


def use_cuda(monkeypatch: pytest.MonkeyPatch, unavailable: str, library: Callable[[], str]) -> None:
    """Doctor sees a build with CUDA kernels."""
    info = {**doctor.system_info(), "cuda_built": True, "cuda_unavailable": unavailable}
    monkeypatch.setattr(doctor, "system_info", lambda: info)
    monkeypatch.setattr(doctor, "find_cuda_library", library)


def test_a_gpu_without_its_library_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise DeviceError("cuBLASLt was not found; install it with `pip install nvidia-cublas`")

    use_cuda(monkeypatch, "", absent)
    assert list(doctor.check_cuda())[1:] == [
        ("warning", "cuBLASLt was not found; install it with `pip install nvidia-cublas`")
    ]
    use_cuda(monkeypatch, "", lambda: "cuBLASLt 13.1.0, /lib/libcublasLt.so.13")
    assert list(doctor.check_cuda())[1:] == [("ok", "cuBLASLt 13.1.0, /lib/libcublasLt.so.13")]


def test_a_gpu_that_cannot_be_used_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    use_cuda(monkeypatch, "this build has no kernels that run on it", lambda: pytest.fail("was looked for"))
    (finding,) = doctor.check_cuda()
    assert finding == (
        "warning",
        "built, but it cannot be used here: this build has no kernels that run on it; the CPU serves",
    )


def test_without_cuda_kernels_there_is_no_library_to_find() -> None:
    if not doctor.system_info()["cuda_built"]:
        with pytest.raises(DeviceError, match="this build has no CUDA kernels"):
            find_cuda_library()


def test_a_damaged_model_fails_and_the_right_one_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"not really a model"
    path = cache_path("smollm2-135m")
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert [status for status, _ in doctor.check_model()] == ["failed"]
    row = dataclasses.replace(ALIASES["smollm2-135m"], gguf_sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(ALIASES, "smollm2-135m", row)
    assert [status for status, _ in doctor.check_model()] == ["ok"]


def test_a_port_in_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        config = doctor.load_config(sets=[f"server.port={port}"])
        monkeypatch.setattr(doctor, "load_config", lambda: config)
        assert [status for status, _ in doctor.check_network()] == ["ok", "warning"]


def test_pull_prints_the_path_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(enginectl.pull, "pull", lambda alias: tmp_path / "m.gguf")
    assert main(["pull", "smollm2-135m"]) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'm.gguf'}\n", "")


def test_pull_of_an_unknown_name_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "smolm2"]) == 2
    err = capsys.readouterr().err
    assert "'smolm2' is not an alias (smollm2-135m)" in err
