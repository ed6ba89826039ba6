"""Weights that are no numbers or all zero: the model loads; a request whose logits they spoil ends alone with an error.

And a model that the `gguf` package itself wrote in several files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from e2e.tiny_models import EOS, TinyModel, prompt_of
from safetensors.torch import load_file, save_file

from pagoda import LLM, CompletionOutput, SamplingParams

Damage = Callable[[dict[str, torch.Tensor]], None]
PROMPT = prompt_of(9, seed=4)
SPOILED_TOKEN = 7


def set_entry(name: str, place: tuple[int | slice, ...], value: float) -> Damage:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][place] = value

    return damage


DAMAGES = {
    "one NaN in a matrix": set_entry("model.layers.0.mlp.down_proj.weight", (3, 5), float("nan")),
    "a row of infinities": set_entry("model.layers.1.self_attn.v_proj.weight", (2, slice(None)), float("inf")),
    "a norm of NaNs": set_entry("model.norm.weight", (slice(None),), float("nan")),
    "one NaN in the head": set_entry("lm_head.weight", (11, 0), float("nan")),
}


def damaged(model: TinyModel, path: Path, damage: Damage) -> Path:
    path.mkdir()
    for file in model.path.iterdir():
        if file.suffix == ".json":
            (path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model.path / "model.safetensors")
    damage(tensors)
    save_file(tensors, path / "model.safetensors")
    return path


def run(llm: LLM, *prompts: list[int]) -> list[CompletionOutput]:
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    return [output.outputs[0] for output in llm.generate(list(prompts), params, use_tqdm=False)]


@pytest.mark.parametrize("name", DAMAGES)
def test_weights_that_are_no_numbers_end_the_request_with_an_error(
    name: str, tmp_path: Path, tiny: Callable[[str], TinyModel]
) -> None:
    path = damaged(tiny("llama"), tmp_path / "model", DAMAGES[name])
    with LLM(str(path), skip_tokenizer=True, num_kv_blocks=16) as llm:
        for _ in range(2):  # the engine lives on
            (output,) = run(llm, PROMPT)
            assert output.finish_reason == "error"
            assert output.error is not None
            assert "the model gave no usable logits at position 8" in output.error
        assert llm.stats()["num_running"] == 0


def test_a_spoiled_token_ends_only_the_request_that_holds_it(tmp_path: Path, tiny: Callable[[str], TinyModel]) -> None:
    model = tiny("llama")
    damage = set_entry("model.embed_tokens.weight", (SPOILED_TOKEN, 0), float("nan"))
    clean = [token for token in PROMPT if token != SPOILED_TOKEN]
    expected = model.greedy(clean, 4)
    assert SPOILED_TOKEN not in expected
    with LLM(str(damaged(model, tmp_path / "model", damage)), skip_tokenizer=True, num_kv_blocks=16) as llm:
        good, bad, again = run(llm, clean, [*clean, SPOILED_TOKEN, 5], clean)
    assert bad.finish_reason == "error"
    assert [good.token_ids, again.token_ids] == [expected, expected]


def test_weights_of_zeros_give_the_lowest_token(tmp_path: Path, tiny: Callable[[str], TinyModel]) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.zero_()

    path = damaged(tiny("llama"), tmp_path / "model", damage)
    with LLM(str(path), skip_tokenizer=True, num_kv_blocks=16) as llm:
        (output,) = run(llm, PROMPT)
    assert output.token_ids == [0, 0, 0, 0]
    assert output.finish_reason == "length"
    assert EOS != 0


def split(whole: Path, first: Path, tensors_per_file: int) -> list[Path]:
    """Writes the model again in several files, as the package names them."""
    reader = gguf.GGUFReader(whole)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(first, arch, split_max_tensors=tensors_per_file)
    for key, value in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = value.types[0]
            assert kind is not gguf.GGUFValueType.ARRAY
            writer.add_key_value(key, value.contents(), kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(first.parent.iterdir())


def test_a_model_split_by_the_gguf_package_is_the_whole_model(
    tmp_path: Path, tiny_gguf: Callable[[str, str], TinyModel]
) -> None:
    model = tiny_gguf("qwen2", "q8_0")
    parts = split(model.path, tmp_path / "m.gguf", 7)
    assert len(parts) > 2
    assert parts[0].name == f"m-00001-of-{len(parts):05d}.gguf"
    with LLM(str(model.path), skip_tokenizer=True, num_kv_blocks=16) as llm:
        expected = run(llm, PROMPT)[0].token_ids
    with LLM(str(parts[0]), skip_tokenizer=True, num_kv_blocks=16) as llm:
        assert run(llm, PROMPT)[0].token_ids == expected
