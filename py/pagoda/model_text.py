"""What a model's files say about text: tokenizer, chat template, sampling defaults. No weights, no engine.

Used by `client` when a model is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagoda.chat_template import ChatTemplate
from pagoda.config import SamplingParams
from pagoda.models import ModelFiles
from pagoda.tokenizer import Tokenizer

_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(slots=True)
class ModelText:
    """`tokenizer` and `chat_template` are None when the model has none or they were not wanted."""

    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None
    default_params: dict[str, Any]


def load_model_text(
    files: ModelFiles,
    metadata: Mapping[str, Any] | None,
    skip_tokenizer: bool = False,
    template_file: str | None = None,
) -> ModelText:
    """Reads tokenizer, chat template (`template_file` replaces the model's own) and generation_config.json.

    `metadata` is the GGUF file's, None for a directory. Raises ValueError or OSError naming the file.
    """
    defaults = generation_defaults(files.path) if metadata is None else {}
    if skip_tokenizer:
        return ModelText(None, None, defaults)
    tokenizer = Tokenizer.from_directory(files.path) if metadata is None else Tokenizer.from_gguf(metadata)
    if template_file:
        template: ChatTemplate | None = _template_from(template_file, tokenizer)
    else:
        template = ChatTemplate.for_tokenizer(tokenizer)
    return ModelText(tokenizer, template, defaults)


def generation_defaults(directory: Path) -> dict[str, Any]:
    """The sampling parameters that a directory's generation_config.json sets; {} without one.

    `do_sample: false` asks for greedy decoding: temperature 0. Raises ValueError naming the file and the field.
    """
    path = directory / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON document: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a JSON object")
    defaults = {name: content[name] for name in _SAMPLING_DEFAULTS if content.get(name) is not None}
    if content.get("do_sample") is False:
        defaults["temperature"] = 0
    try:
        SamplingParams(**defaults)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return defaults


def _template_from(path: str, tokenizer: Tokenizer) -> ChatTemplate:
    source = Path(path).read_text(encoding="utf-8")
    return ChatTemplate.with_tokens_of(tokenizer, source)
