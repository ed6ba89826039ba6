"""Small real tokenizers for the text tests: a trained byte-level BPE and a SentencePiece-like one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog. Don't stop the music, I'll say it's 1234 times 567.",
    "def main(argument):\n    return argument + 1\n\nif __name__ == '__main__':\n\tmain(42)\n",
    "stop stopping stopped STOP; end. ending the end of the story, and then some more of the same old words",
    "Äpfel, Öl und Übermut: größer als früher. 日本語の文章もあります。 東京 東京タワー 👍 👩‍👩‍👧 café naïve",
] * 4
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def byte_level() -> tokenizers.Tokenizer:
    """GPT-2-like byte-level BPE of 450 tokens; its three control tokens are ids 0, 1, 2."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=CONTROLS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level_gguf(pre: str = "gpt-2") -> dict[str, Any]:
    """The same vocabulary as GGUF key/values."""
    model = json.loads(byte_level().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in CONTROLS else 1 for token in tokens],
        "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def sentencepiece_gguf() -> dict[str, Any]:
    """A `llama` vocabulary: <unk> <s> </s>, 256 byte pieces, then words and their beginnings scored by order."""
    words = ["▁the", "▁stop", "▁hello", "▁world", "ing", "er", "日本", "▁</s", "s>", "</", "</s>x", "▁▁"]
    pieces: list[str] = []
    for word in words:
        pieces += [word[:cut] for cut in range(2, len(word) + 1)]
    pieces += sorted({char for word in words for char in word} | set("abcdefghijklmnopqrstuvwxyz .,<>/▁"))
    pieces = [piece for piece in dict.fromkeys(pieces) if piece not in ("</s>", "<s>")]
    head = ["<unk>", "<s>", "</s>"]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*head, *byte_pieces, *pieces],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(pieces))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def write_directory(path: Path, config: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A directory with the byte-level tokenizer.json (top-level keys replaced by `changes`) and its configuration."""
    content = {**json.loads(byte_level().to_str()), **changes}
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    settings = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "chat_template": CHAT_TEMPLATE}
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, **(config or {})}), encoding="utf-8")
    return path
