"""Small random models for the end-to-end tests: made with transformers, saved as users have them, kept as reference.

Weights are drawn so that every part of a block matters: heads that attend sharply, norms that are not 1, biases that
are not 0. The families are in e2e/families; used by conftest.py.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from e2e.tiny_gguf import Converter, write_gguf
from huggingface_hub import save_torch_state_dict

VOCAB = 320
EOS = 2

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

Edit = Callable[[dict[str, Any]], Any]
Repack = Callable[[dict[str, torch.Tensor], Any], dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Directory:
    """A model directory: its configuration beside the family's sizes, and how it is saved."""

    config: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    max_shard_size: str = "1GB"
    edit: Edit | None = None
    """Changes config.json after it is saved."""
    repack: Repack | None = None
    """Makes the stored tensors from those of the reference and its configuration, for a family that transformers has no
    code for or that has been stored in several ways."""


@dataclass(frozen=True, slots=True)
class Family:
    """What transformers calls a model type, with the configurations that are tested. See e2e/families."""

    config_class: Any
    model_class: Any
    """`model_class(config_class(**config))` is the model."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Beside or instead of SIZES; None takes an entry away."""
    directories: Mapping[str, Directory] = field(default_factory=dict)
    ggufs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Configurations that are written as GGUF files by `converter`."""
    converter: Converter | None = None
    equations: Sequence[str] = ()
    """Those of `directories`, or "name.format" of `ggufs`, whose structure is worth the equation tests."""

    def make(self, config: Mapping[str, Any], seed: int = 1) -> Any:
        """A random f32 model in eval mode."""
        values = {name: value for name, value in {**SIZES, **self.sizes, **config}.items() if value is not DROPPED}
        model = self.model_class(self.config_class(**values, attn_implementation="eager")).eval()
        randomise(model, seed)
        return model


DROPPED = object()
"""As a value in a configuration: transformers' own default."""


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A model directory or file and the same weights in transformers, in f32."""

    path: Path
    reference: Any

    @property
    def vocab_size(self) -> int:
        """Tokens are 0..vocab_size - 1."""
        return int(self.reference.config.get_text_config().vocab_size)

    def logprobs(self, tokens: Sequence[int]) -> torch.Tensor:
        """[len(tokens), vocab]: log probabilities of what follows each token."""
        return reference_logprobs(self.reference, tokens)

    def greedy(self, tokens: Sequence[int], num_tokens: int) -> list[int]:
        """The reference's own most likely continuation, whatever it says about the end of the sequence."""
        return reference_greedy(self.reference, tokens, num_tokens)


def reference_logprobs(reference: Any, tokens: Sequence[int]) -> torch.Tensor:
    """[len(tokens), vocab] in f32."""
    with torch.inference_mode():
        return torch.log_softmax(reference(torch.tensor([list(tokens)])).logits[0].float(), dim=-1)


def reference_greedy(reference: Any, tokens: Sequence[int], num_tokens: int) -> list[int]:
    """Recomputes the whole context for every token: slow, but it depends on no cache."""
    known = list(tokens)
    for _ in range(num_tokens):
        known.append(int(reference_logprobs(reference, known)[-1].argmax()))
    return known[len(tokens) :]


def save(reference: Any, path: Path, how: Directory | None = None) -> TinyModel:
    """Writes the directory; weights are rounded to its dtype, in the reference too."""
    how = how or Directory()
    stored = copy.deepcopy(reference).to(how.dtype)
    if how.repack is None:
        stored.save_pretrained(path, max_shard_size=how.max_shard_size)
    else:
        stored.config.architectures = [type(stored).__name__]
        stored.config.save_pretrained(path)
        state = {name: weight for name, weight in stored.state_dict().items() if not _is_tied_head(name, stored)}
        save_torch_state_dict(how.repack(state, stored.config), path, max_shard_size=how.max_shard_size)
    rounded = copy.deepcopy(reference)
    for weight in rounded.parameters():  # only these: rotary frequencies keep their precision
        weight.data = weight.data.to(how.dtype).float()
    if how.edit is not None:
        edit_json(path / "config.json", how.edit)
    return TinyModel(path, rounded)


def _is_tied_head(name: str, model: Any) -> bool:
    return name == "lm_head.weight" and bool(model.config.tie_word_embeddings)


def save_gguf(reference: Any, converter: Converter, path: Path, fmt: str) -> TinyModel:
    """Writes matrices in `fmt`, vectors in f32; the result's reference has the dequantised weights."""
    dequantised = copy.deepcopy(reference)
    write_gguf(reference, dequantised, converter, path, fmt)
    return TinyModel(path, dequantised)


def edit_json(path: Path, edit: Edit) -> None:
    """Rewrites one JSON file."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def old_style_rope(scaling: Mapping[str, Any] | None) -> Edit:
    """Writes rope as files from before transformers 5 have it: `rope_theta` and `rope_scaling`."""

    def edit(config: dict[str, Any]) -> None:
        parameters = config.pop("rope_parameters")
        config["rope_theta"] = parameters["rope_theta"]
        config["rope_scaling"] = dict(scaling) if scaling is not None else None

    return edit


def prompt_of(length: int, seed: int = 0, vocab: int = VOCAB) -> list[int]:
    """Random tokens, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab, (length,), generator=generator).tolist()


def randomise(model: Any, seed: int) -> None:
    """Draws every parameter of whatever kind: matrices so that their outputs keep the size of their inputs, tables of
    embeddings, and everything else (norms, biases, sinks) around its initial value."""
    generator = torch.Generator().manual_seed(seed)
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    drawn: set[int] = set()
    with torch.no_grad():
        for module_name, module in model.named_modules():
            for name, weight in module.named_parameters(prefix=module_name, recurse=False):
                if id(weight) in drawn:
                    continue
                drawn.add(id(weight))
                values = torch.randn(weight.shape, generator=generator)
                if weight.dim() == 1 or "norm" in type(module).__name__.lower():
                    weight.copy_(weight.round() + 0.3 * values)
                elif isinstance(module, torch.nn.Embedding):
                    weight.copy_(values / weight.shape[1] ** 0.5 if tied else values)
                else:
                    inputs = weight.shape[0] if type(module).__name__ == "Conv1D" else weight.shape[-1]
                    weight.copy_(values * _gain(name) / inputs**0.5)


def _gain(name: str) -> float:
    attends = ("q_proj", "k_proj", "qkv", "query_key_value", "c_attn")
    if "experts.gate_up" in name:
        return 2.5  # some activations reach beyond a clamp
    if "experts.down" in name:
        return 0.6
    return 1.6 if any(part in name for part in attends) else 1.0
