"""The sampling defaults that a model directory brings along, and what is said about bad ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pagoda.model_text import generation_defaults


def defaults_of(directory: Path, content: Any) -> dict[str, Any]:
    """What a generation_config.json with this content sets."""
    (directory / "generation_config.json").write_text(json.dumps(content))
    return generation_defaults(directory)


def test_a_directory_without_the_file_sets_nothing(tmp_path: Path) -> None:
    assert generation_defaults(tmp_path) == {}


def test_sampling_parameters_are_taken_and_the_rest_is_left(tmp_path: Path) -> None:
    content = {"temperature": 0.6, "top_p": 0.9, "top_k": 50, "min_p": None, "eos_token_id": [1, 2], "pad_token_id": 0}
    assert defaults_of(tmp_path, content) == {"temperature": 0.6, "top_p": 0.9, "top_k": 50}


def test_do_sample_false_is_greedy(tmp_path: Path) -> None:
    assert defaults_of(tmp_path, {"do_sample": False, "temperature": 0.6})["temperature"] == 0


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": 5}, "temperature must be in [0, 2], got 5"),
        ({"top_p": float("nan")}, "top_p must be in (0, 1], got nan"),
        ({"repetition_penalty": 0}, "repetition_penalty must be > 0, got 0"),
        ([], "must hold a JSON object"),
    ],
)
def test_a_bad_file_is_named_with_its_field(tmp_path: Path, content: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'generation_config.json'}: {text}")):
        defaults_of(tmp_path, content)
