"""`enginectl convert IN DIRECTORY`: formats, files, shards, pickles; and what is left when a conversion fails."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from e2e.families.llama import LLAMA
from e2e.references import differences, loaded, prompt_logprobs
from e2e.tiny_models import TinyModel, edit_json, prompt_of, save
from e2e.tiny_quantised import METHODS, save_quantised
from safetensors.torch import load_file

from pagoda import _core
from pagoda.config import InvalidArgument
from pagoda.conversion import convert
from pagoda.models import ModelError

Tiny = Callable[[str], TinyModel]
PROMPT = prompt_of(40, seed=4, vocab=300)
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
Q = "model.layers.0.self_attn.q_proj"


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in directory.glob("*.safetensors") for name, value in load_file(file).items()}


def config_of(directory: Path) -> dict[str, Any]:
    return dict(json.loads((directory / "config.json").read_text()))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) and value.dtype == other[name].dtype for name, value in one.items()
    )


@pytest.mark.parametrize("fmt", ["auto", *DTYPES])
def test_plain_weights_are_copied_or_cast_with_every_other_file(fmt: str, talking: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(str(talking), out, fmt)
    source = tensors_of(talking)
    dtype = DTYPES.get(fmt, torch.float32)
    assert same(tensors_of(out), {name: value.to(dtype) for name, value in source.items()})
    assert {file.name for file in out.iterdir()} == {file.name for file in talking.iterdir()}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (talking / name).read_bytes()
    dtypes = [config_of(out).get(key) for key in ("dtype", "torch_dtype")]
    assert str(dtype).removeprefix("torch.") in dtypes


@pytest.mark.parametrize("fmt", ["int4", "int8", "f8_e4m3"])
def test_quantised_weights_are_what_compressed_tensors_and_the_engine_read(
    fmt: str, tiny: Tiny, tmp_path: Path
) -> None:
    model = tiny("qwen2")
    out = tmp_path / "out"
    convert(str(model.path), out, fmt)
    stored, source = tensors_of(out), tensors_of(model.path)
    quantisation = config_of(out)["quantization_config"]
    assert quantisation["ignore"] == ["lm_head"]
    scheme = QuantizationConfig.model_validate(quantisation).config_groups["group_0"]
    compressor = BaseCompressor.get_value_from_registry(quantisation["format"])
    own = {name.removeprefix(Q + "."): value for name, value in stored.items() if name.startswith(Q)}
    values = compressor.decompress(own, scheme)["weight"].float()
    weight = source[Q + ".weight"]
    if fmt == "f8_e4m3":
        scales = weight.abs().amax(1, keepdim=True) / 448
        expected = (weight / scales).to(torch.float8_e4m3fn).float() * scales
    else:
        blocks = _core.quantise(fmt, weight.numpy().tobytes(), weight.shape[1])
        expected = torch.frombuffer(bytearray(_core.dequantise(fmt, blocks, weight.shape[1])), dtype=torch.float32)
    torch.testing.assert_close(values, expected.reshape(weight.shape), rtol=1e-6, atol=1e-7)
    for name in ("model.embed_tokens.weight", "model.norm.weight", Q + ".bias"):
        assert torch.equal(stored[name], source[name])
    with loaded(out) as llm:
        assert differences(llm, model, PROMPT).mean() < {"int4": 0.3, "int8": 0.03, "f8_e4m3": 0.15}[fmt]


def test_matrices_that_do_not_fit_groups_stay_plain_and_stacked_experts_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    convert(str(tiny("llama-odd-sizes").path), tmp_path / "odd", "int8")
    assert Q in config_of(tmp_path / "odd")["quantization_config"]["ignore"]
    with loaded(tmp_path / "odd") as llm:
        assert differences(llm, tiny("llama-odd-sizes"), PROMPT).max() < 1e-3
    with pytest.raises(InvalidArgument, match=r"attn.c_attn is stored transposed"):
        convert(str(tiny("gpt2").path), tmp_path / "gpt2", "int8")
    with pytest.raises(InvalidArgument, match="stacks all experts of a layer"):
        convert(str(tiny("mixtral-as-computed").path), tmp_path / "mixtral", "int8")


def test_quantised_checkpoints_are_copied_or_decoded(tmp_path: Path) -> None:
    model = save_quantised(LLAMA.make({}), tmp_path / "m", METHODS["gptq-activation-order"])
    convert(str(model.path), tmp_path / "same")
    assert same(tensors_of(tmp_path / "same"), tensors_of(model.path))
    assert config_of(tmp_path / "same") == config_of(model.path)
    convert(str(model.path), tmp_path / "plain", "f32")
    assert "quantization_config" not in config_of(tmp_path / "plain")
    assert tensors_of(tmp_path / "plain").keys() == model.reference.state_dict().keys()
    with loaded(tmp_path / "plain") as llm:
        assert differences(llm, model, PROMPT).max() < 1e-4
    with pytest.raises(InvalidArgument, match="these are quantised already"):
        convert(str(model.path), tmp_path / "other", "int8")


def test_weights_are_split_into_files_of_a_bounded_size_with_an_index(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama")
    out = tmp_path / "out"
    convert(str(model.path), out, max_shard_bytes=100_000)
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors_of(out).values())
    assert all(file.stat().st_size < 110_000 for file in files)
    with loaded(out) as llm, loaded(model.path) as source:
        assert torch.equal(prompt_logprobs(llm, PROMPT), prompt_logprobs(source, PROMPT))


def pickled(model: TinyModel, directory: Path, layout: str) -> Path:
    """The model's weights as a pickle of one of several layouts; what to convert."""
    shutil.copytree(model.path, directory, ignore=shutil.ignore_patterns("*.safetensors*"))
    state = tensors_of(model.path)
    if layout == "sharded":
        names = sorted(state)
        weight_map = {}
        for number, part in enumerate((names[::2], names[1::2]), 1):
            file = f"pytorch_model-0000{number}-of-00002.bin"
            torch.save({name: state[name] for name in part}, directory / file)
            weight_map |= dict.fromkeys(part, file)
        (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return directory
    if layout == "old":
        torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
        return directory
    if layout == "wrapped":
        torch.save({"epoch": 3, "state_dict": state}, directory / "last.pth")
        return directory / "last.pth"
    if layout == "lightning":
        torch.save({"epoch": 3, "state_dict": state}, directory / "last.ckpt")
        return directory
    embedding = state["model.embed_tokens.weight"]
    turned = state[Q + ".weight"].T.contiguous().T  # another order in memory
    torch.save({**state, "lm_head.weight": embedding, Q + ".weight": turned}, directory / "pytorch_model.bin")
    return directory


@pytest.mark.parametrize("layout", ["tied", "sharded", "old", "wrapped", "lightning"])
def test_pickles_become_what_safetensors_would_have_been(layout: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama-tied")
    source = pickled(model, tmp_path / "source", layout)
    convert(str(source), tmp_path / "out")
    assert same(tensors_of(tmp_path / "out"), tensors_of(model.path))
    convert(str(source), tmp_path / "out.gguf", "q8_0", with_tokenizer=False)
    with loaded(tmp_path / "out.gguf") as llm, loaded(model.path, weight_format="q8_0") as expected:
        assert torch.equal(prompt_logprobs(llm, PROMPT), prompt_logprobs(expected, PROMPT))
    with pytest.raises(ValueError, match="enginectl convert"), loaded(source):
        pass


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_nothing_of_it_runs(tiny: Tiny, tmp_path: Path) -> None:
    source = pickled(tiny("llama-tied"), tmp_path / "source", "tied")
    for old_format in (False, True):
        torch.save(
            {"weight": torch.zeros(2), "canary": Canary(tmp_path / "sang")},
            source / "pytorch_model.bin",
            _use_new_zipfile_serialization=not old_format,
        )
        with pytest.raises(ModelError, match=r"pytorch_model\.bin: refused, because it asks for posix\.mkdir"):
            convert(str(source), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        (
            "a",
            torch.zeros(1).expand(1 << 20, 1 << 22),
            r"tensor a of shape \[1048576, 4194304\] takes more bytes than the",
        ),
        ("a\ud800", torch.zeros(1), r"a tensor is named 'a\\ud800', expected printable characters"),
        ("__metadata__", torch.zeros(1), "a tensor is named '__metadata__'"),
    ],
)
def test_a_pickled_tensor_that_no_file_could_hold_is_refused(
    name: str, tensor: torch.Tensor, complaint: str, old_format: bool, tiny: Tiny, tmp_path: Path
) -> None:
    source = pickled(tiny("llama-tied"), tmp_path / "source", "tied")
    file = source / "pytorch_model.bin"
    torch.save({name: tensor}, file, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(ModelError, match=rf"pytorch_model\.bin: {complaint}"):
        convert(str(source), tmp_path / "out")


def test_what_a_broken_download_leaves_is_named_and_torchs_advice_is_not_passed_on(tiny: Tiny, tmp_path: Path) -> None:
    source = pickled(tiny("llama-tied"), tmp_path / "source", "tied")
    file = source / "pytorch_model.bin"
    for content, complaint in (
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"", "the file is empty"),
        (b"version 1 of something", "cannot be read as a torch checkpoint: it is none, or damaged"),
    ):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=rf"pytorch_model\.bin: .*{complaint}") as caught:
            convert(str(source), tmp_path / "out")
        assert "weights_only" not in str(caught.value)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: is no regular file"):
        convert(str(source), tmp_path / "out")


def test_a_directory_that_the_engine_does_not_take_is_written_with_a_note(tiny: Tiny, tmp_path: Path) -> None:
    model = save(tiny("llama").reference, tmp_path / "m")
    edit_json(model.path / "config.json", lambda config: config.update(architectures=["OtherForCausalLM"]))
    done = convert(str(model.path), tmp_path / "out", "f16")
    assert same(tensors_of(tmp_path / "out"), {name: t.half() for name, t in tensors_of(model.path).items()})
    assert len(done.notes) == 1
    assert "Pagoda cannot run the result: " in done.notes[0]
    assert "out/config.json: architecture 'OtherForCausalLM' is not supported" in done.notes[0]


def test_what_describes_a_quantisation_is_copied_only_with_its_weights(tmp_path: Path) -> None:
    model = save_quantised(LLAMA.make({}), tmp_path / "m", METHODS["gptq-activation-order"])
    (model.path / "quantize_config.json").write_text('{"bits": 4}')
    convert(str(model.path), tmp_path / "same")
    convert(str(model.path), tmp_path / "plain", "f32")
    assert (tmp_path / "same" / "quantize_config.json").is_file()
    assert not (tmp_path / "plain" / "quantize_config.json").exists()


def test_damaged_and_foreign_pickles_are_refused_by_name(tiny: Tiny, tmp_path: Path) -> None:
    source = pickled(tiny("llama-tied"), tmp_path / "source", "tied")
    file = source / "pytorch_model.bin"
    whole = file.read_bytes()
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    for content in (whole[: len(whole) // 2], b"garbage", empty.getvalue()):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=r"pytorch_model\.bin: cannot be read as a torch checkpoint"):
            convert(str(source), tmp_path / "out")
    for state, complaint in (
        ([torch.zeros(2)], "expected tensors by name, found list"),
        ({"a": 1}, "holds no tensors"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "tensor a has the type torch.complex64"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "tensor a is torch.sparse_coo"),
    ):
        torch.save(state, file)
        with pytest.raises(ModelError, match=complaint):
            convert(str(source), tmp_path / "out")
    (source / "other.bin").write_bytes(b"x")
    file.unlink()
    (source / "more.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"several pickle files and no .*; name one of them: more\.bin, other\.bin"):
        convert(str(source), tmp_path / "out")


def test_without_torch_a_pickle_is_refused_with_what_to_install(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pickled(tiny("llama-tied"), tmp_path / "source", "tied")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match="read with torch, which is not installed; pip install torch"):
        convert(str(source), tmp_path / "out")


@pytest.mark.parametrize("target", ["out.gguf", "out"])
def test_what_exists_is_replaced_only_by_force(target: str, tiny: Tiny, tmp_path: Path) -> None:
    source, out = str(tiny("llama").path), tmp_path / target
    convert(source, out, with_tokenizer=False)
    before = out.stat().st_mtime_ns
    with pytest.raises(ModelError, match=f"{target}: exists already; --force replaces it"):
        convert(source, out, "f16", with_tokenizer=False)
    assert out.stat().st_mtime_ns == before
    convert(source, out, "f16", force=True, with_tokenizer=False)
    with loaded(out) as llm, loaded(tiny("llama").path, weight_format="f16") as expected:
        assert prompt_logprobs(llm, PROMPT).shape == prompt_logprobs(expected, PROMPT).shape
    assert [path.name for path in tmp_path.iterdir()] == [target]


def test_force_replaces_models_only_and_sources_never(tiny: Tiny, tmp_path: Path) -> None:
    model = save(tiny("llama").reference, tmp_path / "m")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    cases = [
        ("home", "is no converted model, because it has no config.json"),
        ("m", "is, holds or lies in the source"),
        ("m/inside", "is, holds or lies in the source"),
        ("home/letter.txt", "is a file"),
        ("absent/out", "is no directory, so out cannot be written there"),
    ]
    for name, complaint in cases:
        with pytest.raises(ModelError, match=complaint):
            convert(str(model.path), tmp_path / name, force=True)
    (tmp_path / "d.gguf").mkdir()
    with pytest.raises(ModelError, match=r"OUT\.gguf is a file"):
        convert(str(model.path), tmp_path / "d.gguf", force=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    convert(str(model.path), tmp_path / "new.gguf", with_tokenizer=False)
    with pytest.raises(ModelError, match=r"can be converted to another OUT\.gguf, not to a directory"):
        convert(str(tmp_path / "new.gguf"), tmp_path / "out")


@pytest.mark.parametrize("fmt", ["q4_0", "q6_k", "fp4"])
def test_formats_that_do_not_fit_are_refused(fmt: str, tiny: Tiny, tmp_path: Path) -> None:
    source = str(tiny("llama").path)
    hint = "got 'fp4'" if fmt == "fp4" else f"{fmt} is a format of GGUF files: write OUT.gguf"
    with pytest.raises(InvalidArgument, match=f"one of auto, f32, f16, bf16, int8, int4, f8_e4m3; {hint}"):
        convert(source, tmp_path / "out", fmt)
    if fmt != "q4_0":
        with pytest.raises(
            InvalidArgument, match="must be one of auto, f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1; got"
        ):
            convert(source, tmp_path / "out.gguf", fmt, with_tokenizer=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["out.gguf", "out"])
def test_an_interrupted_or_failed_write_leaves_what_was_there(target: str, tiny: Tiny, tmp_path: Path) -> None:
    source, out = str(tiny("llama").path), tmp_path / target
    convert(source, out, with_tokenizer=False)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, out, force=True, with_tokenizer=False, progress=stop)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # a full disk; Python ignores SIGXFSZ
    try:
        with pytest.raises(InvalidArgument, match="cannot be written: File too large"):
            convert(source, out, force=True, with_tokenizer=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == [target]
    with loaded(out) as llm, loaded(tiny("llama").path) as expected:
        assert torch.equal(prompt_logprobs(llm, PROMPT), prompt_logprobs(expected, PROMPT))


def test_the_command_prints_the_path_and_sigterm_leaves_nothing(talking: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "enginectl", "convert", str(talking), str(tmp_path / "out.gguf")]
    done = subprocess.run([*command, "--weight-format", "q8_0"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out.gguf'}\n")
    assert done.stderr.startswith("written ")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr == f"error: {tmp_path / 'out.gguf'}: exists already; --force replaces it\n"
    (tmp_path / "out.gguf").unlink()
    script = (
        "import os, signal, sys\nfrom enginectl.__main__ import main\nimport enginectl.convert as command\n"
        "real = command.convert\n"
        "def convert(*words, progress, **options):\n"
        "    return real(*words, progress=lambda done, total: os.kill(os.getpid(), signal.SIGTERM), **options)\n"
        "command.convert = convert\nsys.exit(main(sys.argv[1:]))\n"
    )
    stopped = subprocess.run([sys.executable, "-c", script, *command[3:]], capture_output=True, text=True, check=False)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
