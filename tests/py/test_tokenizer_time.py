"""Tokenising takes time in proportion to the text, whatever the text."""

from __future__ import annotations

import time

import pytest
from text_tokenizers import write_directory

from pagoda.tokenizer import Tokenizer

NUM_CHARS = 30_000
TEXTS = {
    "one word": "a",
    "spaces": " ",
    "sentence": "the cat sat on the mat. ",
    "letters": "abcdefgh",
    "emoji": "👩‍👩‍👧 ",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_directory(write_directory(tmp_path_factory.mktemp("tokenizer")))


def seconds(tokenizer: Tokenizer, text: str) -> float:
    """The least processor time of three runs."""
    times = []
    for _ in range(3):
        start = time.process_time()
        tokenizer.encode(text)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("unit", TEXTS.values(), ids=TEXTS.keys())
def test_doubling_a_text_takes_less_than_three_times_the_time(unit: str, tokenizer: Tokenizer) -> None:
    """Over three doublings, because one is within the machine's noise: linear takes 8 times as long, quadratic 64."""
    text = unit * (NUM_CHARS // len(unit))
    assert seconds(tokenizer, text * 8) < 3**3 * max(0.002, seconds(tokenizer, text))
