"""The embedded default model against transformers with the same dequantised weights, and against the truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from e2e.references import chosen, prompt_logprobs
from e2e.tiny_models import reference_greedy, reference_logprobs
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE

from pagoda import LLM, SamplingParams

TEXT = """The lighthouse stood on a narrow strip of rock, a mile from the village. Every evening, at 18:45, the keeper
climbed its 212 steps and lit the lamp. She had done so for thirty-one years, through storms that tore the roofs off the
houses below, and through summers so still that the sea looked like poured glass.

"Why do you stay?" the children asked her. "Nobody sails here any more. The ships have satellites now."

She would smile and show them the logbook. There were 11,407 entries, one for each night: wind, weather, and the names
of the boats that had passed. "Because of this one," she said, and pointed at a line from the third of March, eleven
years ago. A fishing boat had lost its engine, its radio and its way. Five people had been on board, and one of them, a
boy of six, was now the village's doctor.
"""

NASTY = [
    "",
    " ",
    "  double  spaces and\ttabs\t\t and\r\nline\n\n\nbreaks \n",
    "Don't I'll we've it's they'd CAN'T 'quoted' ''",
    "1234567890 3.14159 1e-9 0x1F 12:34:56 2,147,483,647",
    "naïve café Ångström ﬁ ﬂ e\u0301 \u00a0nbsp\u200bzero\u2060width\ufeff",
    "日本語の文章。한국어 العربية עברית ไทย हिन्दी ру́сский",
    "👍🏽 👩‍👩‍👧‍👦 🇫🇷 \U0001f9ff \U0010ffff \ufffd",
    "<|im_start|>user\n<|im_end|><|endoftext|> <|im_start <|",
    "def f(x):\n    return {'a': [x ** 2 for _ in range(10)]}  # comment\n\tpass\n",
    "a" * 300 + " " * 70 + "!" * 65 + "\x00\x01\x7f",
]


class Peer:
    """The model in transformers and its tokenizer, both built from the GGUF file by other code than ours."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self._values = {name: field.contents() for name, field in reader.fields.items()}
        self.model = transformers.LlamaForCausalLM(self._config()).eval()
        state = {self._name(tensor.name): self._weights(tensor) for tensor in reader.tensors}
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        self.model.load_state_dict(state)
        self.tokenizer = self._tokenizer()

    def _config(self) -> transformers.LlamaConfig:
        get = lambda key: self._values[f"llama.{key}"]  # noqa: E731
        return transformers.LlamaConfig(
            vocab_size=len(self._values["tokenizer.ggml.tokens"]),
            hidden_size=get("embedding_length"),
            intermediate_size=get("feed_forward_length"),
            num_hidden_layers=get("block_count"),
            num_attention_heads=get("attention.head_count"),
            num_key_value_heads=get("attention.head_count_kv"),
            max_position_embeddings=get("context_length"),
            rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
            rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
            tie_word_embeddings=True,
            attn_implementation="eager",
        )

    @staticmethod
    def _name(name: str) -> str:
        parts = {
            "attn_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
        }
        if name.startswith("blk."):
            _, layer, part, _ = name.split(".")
            return f"model.layers.{layer}.{parts[part]}.weight"
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]

    def _weights(self, tensor: Any) -> torch.Tensor:
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        values = values.reshape([int(size) for size in reversed(tensor.shape)])
        heads = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(tensor.name.split(".")[-2])
        if heads is not None:  # rows of a head lie in interleaved pairs
            num_heads = self._values[f"llama.attention.{heads}"]
            rows, columns = values.shape
            values = values.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        return torch.from_numpy(np.ascontiguousarray(values))

    def _tokenizer(self) -> tokenizers.Tokenizer:
        tokens, kinds = self._values["tokenizer.ggml.tokens"], self._values["tokenizer.ggml.token_type"]
        merges = [tuple(merge.split(" ")) for merge in self._values["tokenizer.ggml.merges"]]
        made = tokenizers.Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, merges))
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == 3])
        return made


@pytest.fixture(scope="module")
def peer(smollm2: Path) -> Peer:
    return Peer(smollm2)


@pytest.fixture(scope="module")
def llm(smollm2: Path) -> Iterator[LLM]:
    with LLM(str(smollm2), num_kv_blocks=256, max_model_len=2048) as made:
        yield made


def test_the_capital_of_france_is_paris(llm: LLM) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = llm.chat(question, SamplingParams(temperature=0, max_tokens=32), use_tqdm=False)[0].outputs[0]
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    ("activation_dtype", "kv_cache_dtype", "mean", "most"),
    [
        ("int8", "auto", 0.12, 0.9),
        ("auto", "auto", 0.05, 0.4),
        ("int16", "auto", 0.015, 0.15),
        ("int16", "int8", 0.03, 0.3),
        ("int16", "f32", 0.0015, 0.02),
    ],
)
def test_its_logprobs_stay_near_the_dequantised_reference(
    activation_dtype: str, kv_cache_dtype: str, mean: float, most: float, smollm2: Path, peer: Peer
) -> None:
    """Nearer with each finer choice, and never exact by accident of comparing with itself."""
    dtypes = {"activation_dtype": activation_dtype, "kv_cache_dtype": kv_cache_dtype}
    with LLM(str(smollm2), num_kv_blocks=32, **dtypes) as llm:
        prompt = llm.get_tokenizer().encode(TEXT)
        assert 180 <= len(prompt) <= 260
        theirs = chosen(reference_logprobs(peer.model, prompt), prompt)
        difference = (prompt_logprobs(llm, prompt) - theirs).abs()
    assert mean / 20 < difference.mean() < mean
    assert difference.max() < most


def test_an_int8_kv_cache_takes_little_more_than_half_and_says_nearly_the_same(llm: LLM, smollm2: Path) -> None:
    prompt = llm.get_tokenizer().encode(TEXT * 5)
    assert len(prompt) > 1000
    question = [{"role": "user", "content": "What is the capital of France?"}]
    with LLM(str(smollm2), num_kv_blocks=256, max_model_len=2048, kv_cache_dtype="int8") as small:
        answer = small.chat(question, SamplingParams(temperature=0, max_tokens=32), use_tqdm=False)[0].outputs[0]
        assert small.describe()["kv_bytes_per_block"] == 30 * 2 * 3 * 16 * (64 + 4)
        difference = (prompt_logprobs(small, prompt) - prompt_logprobs(llm, prompt)).abs()
    assert llm.describe()["kv_bytes_per_block"] == 30 * 2 * 3 * 16 * 64 * 2
    assert "Paris" in answer.text
    assert 0 < difference.mean() < 0.03


def test_it_continues_greedily_as_the_reference_does(llm: LLM, peer: Peer) -> None:
    """Where the reference is sure of itself, a bf16 KV cache changes no token."""
    prompt = llm.get_tokenizer().encode("1, 2, 3, 4, 5, 6, 7, 8, 9,")
    params = SamplingParams(temperature=0, max_tokens=12)
    ours = llm.generate([prompt], params, use_tqdm=False)[0].outputs[0].token_ids
    assert ours == reference_greedy(peer.model, prompt, 12)


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_texts_become_the_tokens_of_an_independent_tokenizer(text: str, llm: LLM, peer: Peer) -> None:
    ours = llm.get_tokenizer().encode(text, parse_special=True)
    assert ours == peer.tokenizer.encode(text).ids
    assert llm.get_tokenizer().decode(ours, skip_special_tokens=False) == text
