"""Verification of a model: are its weights sound, and does the engine say of fixed texts what transformers says?

Owns the texts, the comparison and the verdict. Called by `enginectl models verify`; torch and transformers are imported
only for the comparison, and only if they are installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagoda.config import InvalidArgument, SamplingParams, inspect_model, scan_weights
from pagoda.llm import LLM
from pagoda.models import ModelFiles
from pagoda.tokenizer import TokenizerError

__all__ = ["Comparison", "Verification", "limit_for", "verify"]

TEXTS = (
    "The capital of France is Paris, and the capital of Italy is Rome. Both lie on rivers: the Seine and the Tiber.",
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
    "Water boils at 100 degrees Celsius at sea level; at 3,000 metres it boils at about 90 degrees.",
    "Les sanglots longs des violons de l'automne blessent mon coeur. \u4f60\u597d\uff0c\u4e16\u754c\u3002",
    '{"name": "pagoda", "sizes": [1, 2, 3, 5, 8, 13], "nested": {"ok": true, "none": null}}',
)
NUM_GREEDY = 16
MAX_LENGTH = 512
# Mean absolute difference of log probabilities that arithmetic alone explains, by the coarsest format in use.
_PLAIN_LIMIT, _ROUNDED_LIMIT = 1e-3, 3e-2
_PLAIN = {"f32", "f16"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What engine and reference said of the same tokens, in natural-log probability."""

    num_tokens: int
    mean_difference: float
    max_difference: float
    limit: float
    num_greedy_equal: int
    num_greedy: int

    @property
    def agrees(self) -> bool:
        """Whether the mean difference is what arithmetic explains and all greedy tokens but a few ties are the same."""
        return self.mean_difference <= self.limit and self.num_greedy_equal >= 0.9 * self.num_greedy


@dataclass(frozen=True, slots=True)
class Verification:
    """`scan` is that of `scan_weights`. `comparison` is None when `skipped` says why there was none."""

    scan: dict[str, Any]
    comparison: Comparison | None
    skipped: str

    @property
    def passed(self) -> bool:
        """No NaN or infinity in the weights, and no comparison that failed."""
        sound = not any(fault["num_nan"] or fault["num_inf"] for fault in self.scan["faults"])
        return sound and (self.comparison is None or self.comparison.agrees)


def verify(files: ModelFiles, progress: Callable[[int, int], None] | None = None, compare: bool = True) -> Verification:
    """Scans the weights of `files` and compares the engine with transformers in f32 on fixed texts.

    Raises InvalidArgument when the model cannot be loaded at all.
    """
    scan = scan_weights(files.path, progress)
    listing = inspect_model(files.path)
    if listing["refusal"]:
        raise InvalidArgument(listing["refusal"])
    if not compare:
        return Verification(scan, None, "it was not asked for")
    if any(fault["num_nan"] or fault["num_inf"] for fault in scan["faults"]):
        return Verification(scan, None, "nothing can be computed with NaN or infinite weights")
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        return Verification(scan, None, f"{' and '.join(missing)} not installed; `pip install 'pagoda-engine[verify]'`")
    try:
        reference = _load_reference(files)
    except Exception as error:  # transformers raises what its many loaders raise
        reason = (str(error).strip().splitlines() or [""])[0]
        return Verification(scan, None, f"transformers cannot load the model: {type(error).__name__}: {reason}")
    return Verification(scan, _compare(files, reference, listing), "")


def limit_for(matrices: Sequence[dict[str, Any]]) -> float:
    """The allowed mean difference: exact formats leave rounding of sums only; bf16 and quantised weights meet inputs
    that are rounded to 8 or 15 bits.
    """
    formats = {name for matrix in matrices for name in matrix["formats"].split(", ")}
    return _PLAIN_LIMIT if formats <= _PLAIN else _ROUNDED_LIMIT


def _load_reference(files: ModelFiles) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = {"gguf_file": files.path.name} if files.kind == "gguf" else {}
    directory = files.path.parent if files.kind == "gguf" else files.path
    model = AutoModelForCausalLM.from_pretrained(
        str(directory), dtype=torch.float32, local_files_only=True, trust_remote_code=False, **place
    )
    return model.eval()


def _compare(files: ModelFiles, reference: Any, listing: dict[str, Any]) -> Comparison:
    import torch

    limit = limit_for(listing["matrices"])
    differences: list[float] = []
    equal = total = 0
    with _open(files.path, min(MAX_LENGTH, listing["max_context"])) as llm, torch.inference_mode():
        for prompt in _prompts(llm):
            output = llm.generate(
                [prompt],
                SamplingParams(prompt_logprobs=0, temperature=0, max_tokens=NUM_GREEDY, ignore_eos=True),
                use_tqdm=False,
            )[0]
            if output.outputs[0].error is not None:  # no usable logits: nothing agrees with that
                differences.append(float("nan"))
                total += NUM_GREEDY
                continue
            generated = list(output.outputs[0].token_ids)
            logits = reference(torch.tensor([prompt + generated])).logits[0].float()
            expected = torch.log_softmax(logits, dim=-1)
            rows = output.prompt_logprobs or []
            for i, token in enumerate(prompt[1:]):
                row = rows[i + 1]
                if row is not None:
                    differences.append(abs(row[token].logprob - float(expected[i, token])))
            best = logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist()
            equal += sum(ours == theirs for ours, theirs in zip(generated, best, strict=True))
            total += len(generated)
    worst = max(differences) if all(value == value for value in differences) else float("nan")
    mean = sum(differences) / len(differences)
    return Comparison(len(differences), mean, worst, limit, equal, total)


def _open(path: Path, max_model_len: int) -> LLM:
    options: dict[str, Any] = {"kv_cache_dtype": "f32", "max_model_len": max_model_len, "max_num_seqs": 1}
    try:
        return LLM(str(path), **options)
    except TokenizerError:
        return LLM(str(path), skip_tokenizer=True, **options)


def _prompts(llm: LLM) -> list[list[int]]:
    """The texts as token ids, cut to the context; without a tokenizer ids spread over the vocabulary."""
    facts = llm.describe()
    if llm.tokenizer is not None:
        return [llm.tokenizer.encode(text)[: facts["max_model_len"] - NUM_GREEDY] for text in TEXTS]
    vocab = int(facts["vocab_size"])
    return [[(start + 7919 * i) % vocab for i in range(32)] for start in range(3, 3 + len(TEXTS))]
