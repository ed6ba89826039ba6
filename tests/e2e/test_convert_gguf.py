"""`enginectl convert IN OUT.gguf`: what is written gives the same bits as its source, and others can read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from e2e.families.llama import LLAMA
from e2e.references import loaded
from e2e.tiny_models import TinyModel, edit_json, prompt_of, save
from e2e.tiny_quantised import METHODS, save_quantised
from safetensors.torch import load_file, save_file

from pagoda import LLM, SamplingParams
from pagoda.config import InvalidArgument, inspect_model
from pagoda.conversion import convert
from pagoda.tokenizer import Tokenizer

Tiny = Callable[[str], TinyModel]
PROMPT = prompt_of(40, seed=3, vocab=300)
PARAMS = SamplingParams(prompt_logprobs=2, logprobs=2, temperature=0, max_tokens=6, ignore_eos=True)

# Each has an arrangement of its own: rotary pairs, fused and split q, k and v, gate and up, stacked experts, norms with
# an offset or for each head, biases, transposed matrices, two rotations, divisors, windows.
MODELS = [
    "llama-odd-sizes",
    "llama-tied",
    "llama-biases",
    "llama-rope-llama3",
    "llama-rope-linear",
    "llama-rope-yarn",
    "mistral-window",
    "qwen2",
    "qwen3",
    "phi2",
    "phi3-longrope-long",
    "gemma2",
    "gemma3",
    "granite",
    "olmo",
    "olmo2",
    "smollm3",
    "stablelm-parallel",
    "cohere-normed-heads",
    "cohere2",
    "gpt2",
    "neox",
    "internlm2-biases",
    "exaone4-windows",
    "starcoder2",
    "glm4",
    "mixtral",
    "qwen2-moe",
    "granite-moe",
    "gpt-oss",
]


def results(path: Path, weight_format: str = "auto") -> Any:
    """Tokens and the bits of all logprobs of one request."""
    with loaded(path, weight_format=weight_format) as llm:
        output = llm.generate([PROMPT], PARAMS, use_tqdm=False)[0]
    rows = [*(output.prompt_logprobs or []), *(output.outputs[0].logprobs or [])]
    return output.outputs[0].token_ids, [{token: entry.logprob for token, entry in (row or {}).items()} for row in rows]


@pytest.mark.parametrize("name", MODELS)
def test_a_written_file_gives_the_bits_of_its_source(name: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(name)
    out = tmp_path / "out.gguf"
    convert(str(model.path), out, with_tokenizer=False)
    assert results(out) == results(model.path)


@pytest.mark.parametrize("fmt", ["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
@pytest.mark.parametrize("name", ["llama-tied", "mixtral", "gpt2"])
def test_a_file_in_a_format_gives_the_bits_of_its_source_loaded_in_it(
    name: str, fmt: str, tiny: Tiny, tmp_path: Path
) -> None:
    model = tiny(name)
    out = tmp_path / "out.gguf"
    convert(str(model.path), out, fmt, with_tokenizer=False)
    assert results(out) == results(model.path, fmt)
    listing = inspect_model(out)
    assert {
        tensor["type"].lower() for tensor in listing["tensors"] if tensor["name"].endswith("attn_output.weight")
    } == {fmt}


def test_the_gguf_package_reads_names_shapes_types_and_values(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("qwen3")
    out = tmp_path / "out.gguf"
    convert(str(model.path), out, "q4_1", with_tokenizer=False)
    reader = gguf.GGUFReader(out)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = model.reference.config
    assert (fields["general.architecture"], fields["general.file_type"]) == ("qwen3", gguf.LlamaFileType.MOSTLY_Q4_1)
    assert fields["general.alignment"] == 32
    assert fields["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    assert fields["qwen3.embedding_length"] == config.hidden_size
    assert fields["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(config.rms_norm_eps)
    assert fields["tokenizer.ggml.eos_token_id"] == config.eos_token_id
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    state = model.reference.state_dict()
    stored = {tensor.name: tensor for tensor in reader.tensors}
    assert set(stored) == {known.get_name(name, try_suffixes=(".weight",)) for name in state}
    for name, weight in state.items():
        tensor = stored[str(known.get_name(name, try_suffixes=(".weight",)))]
        assert tuple(reversed(tensor.shape.tolist())) == tuple(weight.shape)
        ends = name in ("model.embed_tokens.weight", "lm_head.weight")
        kind = "F32" if weight.dim() == 1 else "Q8_0" if ends else "Q4_1"
        assert tensor.tensor_type.name == kind
        expected = gguf.quants.quantize(weight.numpy(), tensor.tensor_type)
        np.testing.assert_array_equal(np.asarray(tensor.data).reshape(-1), expected.reshape(-1))


def test_end_of_sequence_tokens_find_their_keys_or_the_conversion_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = save(tiny("llama").reference, tmp_path / "m")
    out = tmp_path / "out.gguf"
    edit_json(model.path / "generation_config.json", lambda config: config.update(eos_token_id=[2, 5, 9]))
    convert(str(model.path), out, with_tokenizer=False)
    fields = {name: field.contents() for name, field in gguf.GGUFReader(out).fields.items()}
    assert [fields[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")] == [2, 5, 9]
    edit_json(model.path / "generation_config.json", lambda config: config.update(eos_token_id=[2, 5, 9, 11]))
    with pytest.raises(InvalidArgument, match=r"has 4 end-of-sequence tokens .* a GGUF file can name 3"):
        convert(str(model.path), out, with_tokenizer=False, force=True)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("glm", "GGUF has no name for the architecture GlmForCausalLM"),
        ("llama-gelu", "'llama' cannot express this model: read back, the activation is another one"),
        ("ministral", "the sliding window of layer 0 is 24 instead of 0"),
        ("llama-rope-yarn-options", r"the rotation of layer 0 \(rope_theta, .*\) is another one"),
        ("gemma2-no-caps", "the scale of attention is 0.25 instead of 0.333333"),
        ("qwen3-moe-mixed-tied", "cannot express this model"),
    ],
)
def test_what_gguf_cannot_express_is_refused_by_name_and_leaves_nothing(
    name: str, complaint: str, tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        convert(str(tiny(name).path), tmp_path / "out.gguf", with_tokenizer=False)
    assert list(tmp_path.iterdir()) == []


def test_dynamic_rope_scaling_leaves_the_context_where_it_does_nothing(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("llama-rope-dynamic")
    out = tmp_path / "out.gguf"
    done = convert(str(model.path), out, with_tokenizer=False)
    assert done.notes == (
        "GGUF has no dynamic rope scaling: the file's context is 256 tokens, where the scaling does nothing, instead "
        "of 1024",
    )
    assert results(out) == results(model.path)


@pytest.mark.parametrize(("method", "stored"), [("awq", "Q4_0 F16"), ("gptq-asymmetric", "F16"), ("fp8-blocks", "F16")])
def test_quantised_checkpoints_keep_their_blocks_or_become_f16(method: str, stored: str, tmp_path: Path) -> None:
    model = save_quantised(LLAMA.make({}), tmp_path / "m", METHODS[method])
    out = tmp_path / "out.gguf"
    done = convert(str(model.path), out, with_tokenizer=False)
    types = {row["type"] for row in inspect_model(out)["tensors"] if ".attn_q.weight" in row["name"]}
    assert types <= set(stored.split())
    assert bool(done.notes) == (types == {"F16"})
    tokens, logprobs = results(out)
    expected_tokens, expected = results(model.path)
    assert tokens == expected_tokens
    differences = [
        abs(row[token] - expected[i][token]) for i, row in enumerate(logprobs) for token in row if token in expected[i]
    ]
    assert max(differences) < (0.02 if done.notes else 1e-9)
    with pytest.raises(InvalidArgument, match=r"these are quantised already .* choose auto, f32, f16, bf16 or q8_0"):
        convert(str(model.path), tmp_path / "other.gguf", "q4_0", with_tokenizer=False)


def test_a_gguf_file_becomes_one_in_another_format_with_all_it_says(tmp_path: Path, talking: Path) -> None:
    plain, quantised = tmp_path / "plain.gguf", tmp_path / "quantised.gguf"
    convert(str(talking), plain)
    convert(str(plain), quantised, "q8_0")
    assert results(quantised) == results(talking, "q8_0")
    before, after = ({n: f.contents() for n, f in gguf.GGUFReader(path).fields.items()} for path in (plain, quantised))
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"general.file_type"}
    with pytest.raises(InvalidArgument, match=r"tensor blk\.0\.attn_k\.weight is Q8_0 already"):
        convert(str(quantised), tmp_path / "third.gguf", "q4_0")


def test_a_written_file_talks_like_its_source(talking: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert convert(str(talking), out).notes == ()
    texts, templates = [], []
    for path in (talking, out):
        with LLM(str(path), num_kv_blocks=32) as llm:
            params = SamplingParams(temperature=0, max_tokens=12)
            texts.append(llm.generate("The quick", params, use_tqdm=False)[0].outputs[0].text)
            tokenizer = llm.tokenizer
            assert isinstance(tokenizer, Tokenizer)
            templates.append(
                (tokenizer.chat_template, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.adds_bos)
            )
    assert texts[0] == texts[1]
    assert templates[0] == templates[1]
    assert json.loads((talking / "tokenizer_config.json").read_text())["chat_template"] == templates[1][0]


@pytest.mark.parametrize(("fmt", "faults"), [("f16", "0 NaN, 1 infinite"), ("q4_0", "31 NaN, 1 infinite"), ("f32", "")])
def test_values_that_a_format_cannot_hold_are_told(fmt: str, faults: str, tiny: Tiny, tmp_path: Path) -> None:
    model = save(tiny("llama").reference, tmp_path / "m")
    weights = load_file(model.path / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"][3, 5] = 1e30
    save_file(weights, model.path / "model.safetensors", {"format": "pt"})
    seen: list[tuple[int, int]] = []
    done = convert(
        str(model.path), tmp_path / "out.gguf", fmt, with_tokenizer=False, progress=lambda *pair: seen.append(pair)
    )
    reason = "either the source has them or its values are too large for the format"
    assert done.notes == ((f"blk.0.attn_q.weight has {faults} values; {reason}",) if faults else ())
    assert seen == sorted(seen)
    assert len({total for _done, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_a_vocabulary_larger_than_all_tensors_is_refused_before_it_is_filled_up(
    kind: str, talking: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(talking, tmp_path / "m")
    edit_json(source / "config.json", lambda config: config.update(vocab_size=2_000_000_000))
    if kind == "pickle":
        torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
    with pytest.raises(InvalidArgument, match=r"embed_tokens\.weight has shape .*, expected \[2000000000, 64\]"):
        convert(str(source), tmp_path / "out.gguf")
