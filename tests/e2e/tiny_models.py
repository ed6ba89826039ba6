"""Small random models for the end-to-end tests: made with transformers, saved as users have them, kept as reference.

Weights are drawn so that every part of a block matters: heads that attend sharply, norms that are not 1, biases that
are not 0. Used by conftest.py.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 320
EOS = 2

FAMILIES: dict[str, tuple[type, type]] = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}

_SIZES: dict[str, Any] = {
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


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A model directory or file and the same weights in transformers, in f32."""

    path: Path
    reference: Any

    @property
    def vocab_size(self) -> int:
        """Tokens are 0..vocab_size - 1."""
        return int(self.reference.config.vocab_size)

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


def make_reference(family: str, seed: int = 1, **config: Any) -> Any:
    """A random f32 model of the family in eval mode."""
    config_class, model_class = FAMILIES[family]
    model = model_class(config_class(**{**_SIZES, **config}, attn_implementation="eager")).eval()
    _randomise(model, seed)
    return model


def save(
    reference: Any,
    path: Path,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "1GB",
    edit: Callable[[dict[str, Any]], None] | None = None,
) -> TinyModel:
    """Writes the directory; weights are rounded to `dtype`, in the reference too. `edit` changes config.json."""
    copy.deepcopy(reference).to(dtype).save_pretrained(path, max_shard_size=max_shard_size)
    rounded = copy.deepcopy(reference)
    for weight in rounded.parameters():  # only these: rotary frequencies keep their precision
        weight.data = weight.data.to(dtype).float()
    if edit is not None:
        edit_json(path / "config.json", edit)
    return TinyModel(path, rounded)


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites one JSON file."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def old_style_rope(scaling: Mapping[str, Any] | None) -> Callable[[dict[str, Any]], None]:
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


def _randomise(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = torch.randn(weight.shape, generator=generator)
            if name.endswith("norm.weight"):
                weight.copy_(1 + 0.3 * values)
            elif weight.dim() == 1:
                weight.copy_(0.3 * values)
            elif "embed_tokens" in name:
                weight.copy_(values / weight.shape[1] ** 0.5 if model.config.tie_word_embeddings else values)
            else:
                gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
                weight.copy_(values * gain / weight.shape[1] ** 0.5)
