"""Checkpoints that cannot be loaded: the error names the file's fault on both sides, before a weight is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from e2e.tiny_models import TinyModel, edit_json
from safetensors.torch import load_file, save_file

from pagoda import LLM, InvalidArgument

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def copied(tmp_path: Path, tiny: Callable[[str], TinyModel]) -> Callable[[str], Path]:
    """A private copy of a tiny model, to be damaged."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny(name).path, tmp_path / name))

    return copy


def message_of(path: Path) -> str:
    """What loading complains about."""
    with pytest.raises(InvalidArgument) as caught:
        LLM(str(path), skip_tokenizer=True, num_kv_blocks=8)
    return str(caught.value)


def set_to(**values: Any) -> Edit:
    return lambda config: config.update(values)


def without(key: str) -> Edit:
    return lambda config: config.pop(key)


def rope(**values: Any) -> Edit:
    return lambda config: config.update(rope_parameters=values)


def window_beyond_32_bits(config: dict[str, Any]) -> None:
    config.update(architectures=["MistralForCausalLM"], sliding_window=2**32 + 24)


CONFIG_FAULTS: dict[str, tuple[Edit, list[str]]] = {
    "unknown architecture": (
        set_to(architectures=["FalconForCausalLM"]),
        [
            "'FalconForCausalLM'",
            "supported are",
            "LlamaForCausalLM",
            "MistralForCausalLM",
            "Qwen2ForCausalLM",
            "Qwen3ForCausalLM",
        ],
    ),
    "no architecture": (without("architectures"), ["architectures"]),
    "heads do not divide hidden": (
        lambda config: (config.pop("head_dim"), config.update(num_attention_heads=7, num_key_value_heads=7)),
        ["hidden_size 64", "num_attention_heads 7"],
    ),
    "kv heads do not divide heads": (set_to(num_key_value_heads=3), ["num_attention_heads 4", "num_key_value_heads 3"]),
    "no kv heads": (set_to(num_key_value_heads=0), ["num_key_value_heads", "got 0"]),
    "no heads": (set_to(num_attention_heads=0), ["num_attention_heads", "got 0"]),
    "no layers": (set_to(num_hidden_layers=0), ["num_hidden_layers", "0"]),
    "a million layers": (set_to(num_hidden_layers=1_000_000), ["num_hidden_layers", "1000000"]),
    "head too wide": (set_to(head_dim=512), ["head_dim", "256", "512"]),
    "odd head": (set_to(head_dim=15), ["head_dim", "15"]),
    "missing key": (without("hidden_size"), ["hidden_size"]),
    "key of another kind": (set_to(vocab_size="many"), ["vocab_size", "many"]),
    "vocab differs from embedding": (set_to(vocab_size=321), ["embed_tokens", "[320, 64]", "[321, 64]"]),
    "one layer too many": (set_to(num_hidden_layers=3), ["model.layers.2", "missing"]),
    "unknown rope": (rope(rope_type="spiral", rope_theta=1e4), ["'spiral'", "default, linear, dynamic, llama3"]),
    "rope without factor": (rope(rope_type="linear", rope_theta=1e4), ["factor"]),
    "rope factor 0": (rope(rope_type="linear", factor=0.0, rope_theta=1e4), ["factor", "0"]),
    "rope theta 0": (rope(rope_type="default", rope_theta=0.0), ["rope_theta", "0"]),
    "heads beyond 32 bits": (set_to(num_attention_heads=2**32 + 4), ["num_attention_heads", "4294967300"]),
    "layers beyond 32 bits": (set_to(num_hidden_layers=2**32 + 2), ["num_hidden_layers", "4294967298"]),
    "window beyond 32 bits": (window_beyond_32_bits, ["sliding_window", "4294967320"]),
    "end token beyond 32 bits": (set_to(eos_token_id=2**32 + 2), ["eos_token_id", "4294967298"]),
    "end token outside the vocabulary": (set_to(eos_token_id=[2, 320]), ["eos_token_id", "[0, 320)", "320"]),
    "negative end token": (set_to(eos_token_id=-1), ["eos_token_id", "[0, 320)", "-1"]),
    "unknown activation": (set_to(hidden_act="tanh"), ["'tanh'", "silu"]),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_configuration_that_does_not_fit_is_refused_with_both_sides(
    fault: str, copied: Callable[[str], Path]
) -> None:
    edit, expected = CONFIG_FAULTS[fault]
    path = copied("llama")
    edit_json(path / "config.json", edit)
    message = message_of(path)
    for part in expected:
        assert part in message


def test_an_end_token_of_the_generation_config_outside_the_vocabulary_is_refused(copied: Callable[[str], Path]) -> None:
    path = copied("llama")
    edit_json(path / "generation_config.json", set_to(eos_token_id=[2, 99999]))
    message = message_of(path)
    assert "generation_config.json: eos_token_id" in message
    assert "99999" in message


def test_a_missing_tensor_is_named(copied: Callable[[str], Path]) -> None:
    path = copied("llama")
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors")
    assert "model.layers.1.mlp.up_proj.weight is missing" in message_of(path)


def test_an_untied_model_without_a_head_is_refused(copied: Callable[[str], Path]) -> None:
    path = copied("llama-tied")
    edit_json(path / "config.json", set_to(tie_word_embeddings=False))
    assert "lm_head.weight is missing" in message_of(path)


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(copied: Callable[[str], Path]) -> None:
    path = copied("qwen3")
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)
    save_file(tensors, path / "model.safetensors")
    message = message_of(path)
    assert "model.layers.0.self_attn.q_norm.weight" in message
    assert "[16]" in message
    assert "[32]" in message


def test_a_transposed_matrix_is_refused(copied: Callable[[str], Path]) -> None:
    path = copied("llama")
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = tensors[name].T.contiguous()
    save_file(tensors, path / "model.safetensors")
    message = message_of(path)
    assert name in message
    assert "[160, 64]" in message
    assert "[64, 160]" in message


def test_integer_weights_are_refused_by_name(copied: Callable[[str], Path]) -> None:
    path = copied("llama")
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(64, dtype=torch.int32)
    save_file(tensors, path / "model.safetensors")
    assert "model.norm.weight" in message_of(path)


def test_an_absent_shard_is_named(copied: Callable[[str], Path]) -> None:
    path = copied("llama-sharded")
    shard = sorted(path.glob("*.safetensors"))[1]
    shard.unlink()
    assert shard.name in message_of(path)


def test_an_unknown_gguf_architecture_is_named_with_those_supported(tmp_path: Path) -> None:
    path = tmp_path / "strange.gguf"
    writer = gguf.GGUFWriter(path, "rwkv6")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    message = message_of(path)
    for part in ("'rwkv6'", "llama", "qwen2", "qwen3"):
        assert part in message
