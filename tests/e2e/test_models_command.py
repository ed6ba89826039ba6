"""`enginectl models`: what it lists, inspects, verifies and removes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.tiny_models import TinyModel
from safetensors.torch import load_file, save_file

from enginectl.__main__ import main
from pagoda.config import inspect_model, scan_weights
from pagoda.models import ALIASES, cache_path


@pytest.fixture
def damaged(tiny: Callable[[str], TinyModel], tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny llama with single weights replaced: {tensor: {flat index: value}}."""

    def make(changes: dict[str, dict[int, float]], zeros: str | None = None) -> Path:
        path = tmp_path / "damaged"
        shutil.copytree(tiny("llama").path, path)
        weights = load_file(path / "model.safetensors")
        for name, values in changes.items():
            for index, value in values.items():
                weights[name].view(-1)[index] = value
        if zeros is not None:
            weights[zeros].zero_()
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        return path

    return make


def test_inspect_tells_what_is_stored_and_what_is_packed(talking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "inspect", str(talking), "--tensors"]) == 0
    out = capsys.readouterr().out
    for text in (
        "LlamaForCausalLM",
        "supported                 yes",
        "model.layers.1.mlp.up_proj.weight",
        "chat template:",
    ):
        assert text in out
    assert "0-1         qkv           128 x 64" in out, "layers that are alike share a line"


def test_inspect_counts_every_parameter_once(tiny: Callable[[str], TinyModel]) -> None:
    for name in ("llama", "llama-tied", "llama-biases"):
        model = tiny(name)
        listing = inspect_model(model.path)
        assert listing["refusal"] == ""
        assert listing["num_parameters"] == sum(weight.numel() for weight in model.reference.parameters())
        assert listing["num_active_parameters"] == listing["num_parameters"]


def test_inspect_as_json_has_the_same_facts(talking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "inspect", str(talking), "--json", "--weight-format", "q8_0"]) == 0
    listing = json.loads(capsys.readouterr().out)
    formats = {row["name"]: row["formats"] for row in listing["matrices"]}
    assert formats == {
        "embedding": "q8_0",
        "qkv": "q8_0",
        "out": "q8_0",
        "up": "q8_0",
        "down": "q8_0",
        "lm_head": "q8_0",
    }
    assert listing["text"]["chat_template"]


def test_inspect_as_if_in_a_format_that_is_none_is_no_fault_of_the_model(
    talking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "inspect", str(talking), "--weight-format", "q9"]) == 2
    seen = capsys.readouterr()
    assert (seen.out, seen.err[:44]) == ("", "error: weight_format must be auto or one of ")


def test_inspect_of_an_unsupported_model_lists_its_tensors_and_says_why(
    tiny: Callable[[str], TinyModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "unknown"
    shutil.copytree(tiny("llama").path, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architectures": ["SpiralForCausalLM"]}))
    assert main(["models", "inspect", str(path), "--tensors"]) == 2
    out = capsys.readouterr().out
    assert "supported                 no: " in out
    assert "architecture 'SpiralForCausalLM' is not supported" in out
    assert "model.embed_tokens.weight" in out


def test_verify_agrees_with_transformers(talking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify", str(talking), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert found["comparison"]["num_tokens"] > 100
    assert found["comparison"]["mean_difference"] < 1e-4
    assert found["comparison"]["num_greedy_equal"] == found["comparison"]["num_greedy"]


def test_verify_fails_when_the_engine_says_something_else(
    talking: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pagoda import verification

    load = verification._load_reference

    def load_changed(files: object) -> object:
        reference = load(files)  # type: ignore[arg-type]
        reference.model.layers[0].mlp.down_proj.weight.data *= 1.5
        return reference

    monkeypatch.setattr(verification, "_load_reference", load_changed)
    assert main(["models", "verify", str(talking)]) == 2
    assert "FAILED" in capsys.readouterr().out


def test_nan_and_infinity_are_found_where_they_are(
    damaged: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    path = damaged({name: {70: float("nan"), 71: float("inf"), 900: float("-inf")}}, zeros="lm_head.weight")
    faults = {fault["tensor"]: fault for fault in scan_weights(path)["faults"]}
    assert faults == {
        name: {"tensor": name, "num_nan": 1, "num_inf": 2, "first": 70, "all_zero": False},
        "lm_head.weight": {"tensor": "lm_head.weight", "num_nan": 0, "num_inf": 0, "first": -1, "all_zero": True},
    }
    assert main(["models", "verify", str(path), "--weights-only"]) == 2
    out = capsys.readouterr().out
    assert f"{name}: 1 NaN, 2 infinite, the first at element 70" in out
    assert out.endswith("FAILED\n")
    assert main(["models", "verify", str(path)]) == 2
    assert "comparison: none: nothing can be computed with NaN" in capsys.readouterr().out


def test_verify_fails_when_the_engine_finds_no_usable_logits(
    damaged: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    overflowing = damaged({"model.norm.weight": {3: 3e38, 4: -3e38}, "lm_head.weight": dict.fromkeys(range(64), 3e38)})
    assert main(["models", "verify", str(overflowing)]) == 2
    assert capsys.readouterr().out.endswith("FAILED\n")


def test_doctor_checks_the_weights_of_a_model(
    damaged: Callable[..., Path], talking: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged({"model.norm.weight": {3: float("nan")}})
    assert main(["doctor", "--check-weights", str(path)]) == 2
    assert "model.norm.weight: 1 NaN, 0 infinite, the first at element 3" in capsys.readouterr().out
    assert main(["doctor", "--check-weights", str(talking)]) == 0


def test_quantised_weights_are_scanned_as_what_they_decode_to(
    tiny_gguf: Callable[[str, str], TinyModel], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    content = bytearray(tiny_gguf("llama", "q8_0").path.read_bytes())
    content[-34:-32] = b"\x00\x7e"  # the scale of the last block: NaN in half precision
    path.write_bytes(content)
    (fault,) = scan_weights(path)["faults"]
    assert (fault["num_nan"], fault["num_inf"]) == (32, 0)


def test_list_and_rm_know_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("pagoda.model_cache._hub_repositories", list)
    alias = next(iter(ALIASES))
    assert main(["models", "list"]) == 0
    assert "not fetched" in capsys.readouterr().out
    file = cache_path(alias)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 5000)
    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows[alias]["num_bytes"] == 5000
    assert main(["models", "rm", alias]) == 2, "nobody is there to be asked"
    assert file.exists()
    assert main(["models", "rm", alias, "--yes"]) == 0
    assert not file.parent.exists()
    capsys.readouterr()
    assert main(["models", "rm", alias, "--yes"]) == 2
    assert "is not in the cache; fetched models: none" in capsys.readouterr().err


def test_rm_says_why_it_could_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pagoda.model_cache._hub_repositories", list)
    alias = next(iter(ALIASES))
    place = cache_path(alias).parent
    place.parent.mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    place.symlink_to(tmp_path / "disk")
    cache_path(alias).write_bytes(b"x")
    assert main(["models", "rm", alias, "--yes"]) == 2
    assert "cannot be removed: Cannot call rmtree on a symbolic link" in capsys.readouterr().err
    assert cache_path(alias).exists()


def test_rm_never_touches_files_of_the_user(talking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "rm", str(talking), "--yes"]) == 2
    assert "your own" in capsys.readouterr().err
    assert (talking / "config.json").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["models"], "required"),
        (["models", "inspect"], "needs a model"),
        (["models", "list", "x"], "takes no model"),
        (["models", "inspekt", "x"], "invalid choice"),
        (["models", "inspect", "/nowhere"], "not an existing directory"),
    ],
)
def test_wrong_command_lines_say_why(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert text in capsys.readouterr().err
