"""Replays the corpora of the Python fuzzers, tests/corpus: seeds, and inputs that once went wrong or lead deep."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.python_targets import TARGETS

CORPUS = Path(__file__).parents[1] / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_of_the_corpus_is_accepted_or_refused(name: str) -> None:
    accepted = {}
    for path in sorted((CORPUS / name).iterdir()):
        data = path.read_bytes()
        assert len(data) <= 4096, path
        try:
            accepted[path.name] = TARGETS[name](data)
        except BaseException as error:
            error.add_note(f"input: {path}")
            raise
    assert sum(accepted.values()) >= 5, accepted
    assert sum(not value for value in accepted.values()) >= 5, accepted
