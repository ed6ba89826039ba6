"""`ModelFiles`: one model in every form that the engines read, made once under build/peers/models.

All come from one GGUF file or from one seed, so that every engine computes with the same numbers, as far as its format
holds them.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

from pagoda import models

RANDOM = "random-1b"  # the shape of TinyLlama 1.1B, random weights
HALF_PRECISION = ("bf16", "f16")


class ModelFiles:
    """Makes what is asked for and is not there yet. Raises CalledProcessError when a conversion fails."""

    def __init__(self, name: str, place: Path) -> None:
        """`name`: an alias or path of a GGUF file, or RANDOM."""
        self.name, self._place = Path(name).name, place
        place.mkdir(parents=True, exist_ok=True)
        if name == RANDOM:
            self._source = self._made(f"{RANDOM}.bf16.gguf", self._random)
        else:
            self._source = Path(models.resolve(name).path)
        self._read_facts()

    def _read_facts(self) -> None:
        import gguf

        reader = gguf.GGUFReader(self._source)
        matrices = [tensor for tensor in reader.tensors if len(tensor.shape) == 2 and tensor.name.startswith("blk.")]
        kinds = Counter(tensor.tensor_type.name.lower() for tensor in matrices)
        self.own_format = kinds.most_common(1)[0][0]
        embedding = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
        self.vocab_size = int(embedding.shape[1])
        self._block_values = sum(int(tensor.n_elements) for tensor in matrices)
        self._query_values = sum(int(t.shape[1]) for t in matrices if t.name.endswith("attn_q.weight"))
        self._key_values = sum(int(t.shape[1]) for t in matrices if t.name.endswith(("attn_k.weight", "attn_v.weight")))
        head = any(tensor.name == "output.weight" for tensor in reader.tensors)
        self._unread = int(embedding.n_bytes) if head else 0  # a separate embedding gives one row a token

    def decode_bytes(self, weights: str, context: int) -> float:
        """What one token of a single stream reads: all matrices, and bf16 keys and values of `context` tokens."""
        path = self.gguf(weights)
        scale = path.stat().st_size / self._source.stat().st_size
        return path.stat().st_size - self._unread * scale + 2.0 * self._key_values * context

    def prefill_operations(self, tokens: int) -> float:
        """Multiplications and additions for each token of a prompt, the head's for one token left out."""
        return 2.0 * self._block_values + 4.0 * self._query_values * (tokens + 1) / 2

    def get(self, kind: str, weights: str, peer: ModuleType, python: Path) -> Path:
        """The model for a peer: `kind` of FORMATS, put into the peer's own form where it has `prepare`."""
        if kind == "gguf":
            return self.gguf(weights)
        source = self.directory()
        if not hasattr(peer, "prepare"):
            return source
        packages = next((python.parent.parent / "lib").glob("python*/site-packages"))
        variables = {**os.environ, "PYTHONPATH": str(packages)}
        return self._made(f"{self.name}.{peer.__name__}.{weights}", lambda out: peer.prepare(variables, source, out))

    def gguf(self, weights: str) -> Path:
        """A GGUF file in a format; the source itself where that has it."""
        if weights == self.own_format:
            return self._source
        plain = weights in (*HALF_PRECISION, "q8_0")  # blocks of fewer bits are made of plain numbers only
        source = self._source if plain or self.own_format in HALF_PRECISION else self.gguf("bf16")
        make = [sys.executable, "-m", "enginectl", "convert", source]
        rest = ["--weight-format", weights, "--force"]
        return self._made(f"{self.name}.{weights}.gguf", lambda out: subprocess.run([*make, out, *rest], check=True))

    def directory(self) -> Path:
        """A Hugging Face directory in bf16, with the tokenizer."""
        return self._made(f"{self.name}.hf", self._write_directory)

    def _write_directory(self, out: Path) -> None:
        transformers, torch = importlib.import_module("transformers"), importlib.import_module("torch")
        file = {"gguf_file": self._source.name}  # in f32: other types keep the file's own blocks
        read = transformers.AutoModelForCausalLM.from_pretrained(self._source.parent, dtype=torch.float32, **file)
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = transformers.AutoModelForCausalLM.from_config(config)  # one that was read from GGUF is never written
        plain.load_state_dict(read.state_dict())
        plain.to(torch.bfloat16).save_pretrained(out)
        transformers.AutoTokenizer.from_pretrained(self._source.parent, **file).save_pretrained(out)

    def _random(self, out: Path) -> None:
        transformers, torch = importlib.import_module("transformers"), importlib.import_module("torch")
        torch.manual_seed(0)
        small = Path(models.resolve("smollm2-135m").path)
        config = transformers.LlamaConfig(
            vocab_size=49152,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
            max_position_embeddings=4096,
            dtype=torch.bfloat16,
        )
        directory = self._place / f"{RANDOM}.source"
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
        tokenizer = transformers.AutoTokenizer.from_pretrained(small.parent, gguf_file=small.name)
        tokenizer.save_pretrained(directory)
        subprocess.run([sys.executable, "-m", "enginectl", "convert", directory, out, "--force"], check=True)

    def _made(self, name: str, make: object) -> Path:
        """The file or directory `name`; `make(path)` writes it, under another name until it is whole."""
        path = self._place / name
        if not path.exists():
            partial = path.with_name(f"partial-{name}")
            make(partial)  # type: ignore[operator]
            partial.rename(path)
        return path
