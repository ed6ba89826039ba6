"""A tiny random Llama as a model directory, written by hand: this must run where neither torch nor transformers are."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

from text_tokenizers import byte_level, write_directory

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_DIM = 64, 160, 2, 4, 2, 16


def write_random_llama(path: Path) -> Path:
    """A directory with config.json, weights in bf16 and the byte-level tokenizer of the text tests."""
    path.mkdir(parents=True)
    vocab = byte_level().get_vocab_size()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(_safetensors(_shapes(vocab)))
    return write_directory(path)


def _shapes(vocab: int) -> dict[str, list[int]]:
    shapes = {
        "model.embed_tokens.weight": [vocab, HIDDEN],
        "lm_head.weight": [vocab, HIDDEN],
        "model.norm.weight": [HIDDEN],
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {
            f"{at}input_layernorm.weight": [HIDDEN],
            f"{at}post_attention_layernorm.weight": [HIDDEN],
            f"{at}self_attn.q_proj.weight": [HEADS * HEAD_DIM, HIDDEN],
            f"{at}self_attn.k_proj.weight": [KV_HEADS * HEAD_DIM, HIDDEN],
            f"{at}self_attn.v_proj.weight": [KV_HEADS * HEAD_DIM, HIDDEN],
            f"{at}self_attn.o_proj.weight": [HIDDEN, HEADS * HEAD_DIM],
            f"{at}mlp.gate_proj.weight": [INTERMEDIATE, HIDDEN],
            f"{at}mlp.up_proj.weight": [INTERMEDIATE, HIDDEN],
            f"{at}mlp.down_proj.weight": [HIDDEN, INTERMEDIATE],
        }
    return shapes


def _safetensors(shapes: dict[str, list[int]]) -> bytes:
    """Norms are ones; a matrix's outputs are somewhat larger than its inputs, an embedding's values about 1."""
    generator = random.Random(1)
    header: dict[str, object] = {}
    data = bytearray()
    for name, shape in shapes.items():
        begin = len(data)
        if len(shape) == 1:
            data += _bf16([1.0] * shape[0])
        else:
            scale = 1.0 if "embed" in name else 1.6 / shape[1] ** 0.5
            data += _bf16([generator.gauss(0, scale) for _ in range(shape[0] * shape[1])])
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def _bf16(values: list[float]) -> bytes:
    """The upper halves of the floats."""
    floats = struct.pack(f"<{len(values)}f", *values)
    return b"".join(floats[i + 2 : i + 4] for i in range(0, len(floats), 4))
