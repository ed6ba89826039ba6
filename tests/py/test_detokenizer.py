"""Incremental detokenizer: exact text whatever the cut into tokens, whole characters, stop strings across tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_tokenizers import byte_level_gguf, sentencepiece_gguf

from pagoda.detokenizer import Detokenizer, StopMatcher
from pagoda.tokenizer import Tokenizer

BYTE_LEVEL = Tokenizer.from_gguf(byte_level_gguf())
SENTENCEPIECE = Tokenizer.from_gguf(sentencepiece_gguf())
BOTH = st.sampled_from([BYTE_LEVEL, SENTENCEPIECE])
TEXTS = st.text(alphabet="stop theing\n日本é👍👩\u200dab", min_size=1, max_size=30)


def random_ids(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40)


def bytes_as_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """One token per byte: the finest cut there is."""
    single = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    return [single[bytes([byte])] for byte in text.encode()]


def first_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    """Where the stop string that ends first begins; of those that end together, the longest."""
    found = [(i + len(stop), -len(stop), stop) for stop in stops if (i := text.find(stop)) >= 0]
    if not found:
        return None
    end, minus_length, stop = min(found)
    return end + minus_length, stop


@settings(max_examples=300, deadline=None)
@given(data=st.data(), tokenizer=BOTH, skip=st.booleans())
def test_deltas_and_tail_equal_the_whole_decode(data: st.DataObject, tokenizer: Tokenizer, skip: bool) -> None:
    ids = data.draw(random_ids(tokenizer))
    whole = tokenizer.decode(ids, skip)
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    deltas = [detokenizer.push([token_id]) for token_id in ids]
    assert "".join(deltas) + detokenizer.finish() == whole
    if "\ufffd" not in whole:
        assert not any("\ufffd" in delta for delta in deltas)
    assert detokenizer.finish() == ""


@settings(deadline=None)
@given(text=st.text(alphabet="aé日👍👩\u200d🇩🇪\u0301 ", min_size=1, max_size=12), tokenizer=BOTH)
def test_text_fed_byte_by_byte_appears_character_by_character(text: str, tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, strip_leading_space=False)
    ids = bytes_as_tokens(tokenizer, text)
    released = ""
    for i, token_id in enumerate(ids):
        released += detokenizer.push([token_id])
        assert released == text.encode()[: i + 1].decode(errors="ignore")
    assert released == text


def test_a_generation_that_ends_inside_a_character_flushes_one_replacement_character() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL)
    assert detokenizer.push(bytes_as_tokens(BYTE_LEVEL, "a👍")[:-1]) == "a"
    assert detokenizer.finish() == "\ufffd"


def test_a_character_split_around_a_skipped_special_token_is_whole() -> None:
    first, *rest = bytes_as_tokens(BYTE_LEVEL, "日")
    detokenizer = Detokenizer(BYTE_LEVEL)
    assert [detokenizer.push([token_id]) for token_id in (first, 2, *rest)] == ["", "", "", "日"]


def test_continuing_a_prompt_keeps_the_leading_space_of_sentencepiece() -> None:
    ids = SENTENCEPIECE.encode("hello", add_special_tokens=False)
    assert Detokenizer(SENTENCEPIECE).push(ids) == "hello" == SENTENCEPIECE.decode(ids)
    assert Detokenizer(SENTENCEPIECE, strip_leading_space=False).push(ids) == " hello"


@settings(max_examples=400, deadline=None)
@given(data=st.data(), tokenizer=BOTH, fine=st.booleans(), include=st.booleans())
def test_output_ends_at_the_first_stop_string_however_the_text_is_cut(
    data: st.DataObject, tokenizer: Tokenizer, fine: bool, include: bool
) -> None:
    ids = data.draw(random_ids(tokenizer))
    if fine:
        ids = bytes_as_tokens(tokenizer, data.draw(TEXTS))
    text = Detokenizer(tokenizer, strip_leading_space=False).push(ids)
    if not text:
        return
    pieces = st.integers(0, len(text) - 1).flatmap(
        lambda begin: st.integers(begin + 1, min(len(text), begin + 12)).map(lambda end: text[begin:end])
    )
    stops = data.draw(st.lists(st.one_of(pieces, st.sampled_from(["stop", "sto", "zz"])), min_size=1, max_size=4))
    expected = first_stop(text, stops)
    detokenizer = Detokenizer(tokenizer, stops, include_stop_str=include, strip_leading_space=False)
    released, decoded = "", Detokenizer(tokenizer, strip_leading_space=False)
    so_far = ""
    for token_id in ids:
        released += detokenizer.push([token_id])
        so_far += decoded.push([token_id])
        if detokenizer.stopped is None:
            assert so_far.startswith(released)
            assert len(so_far) - len(released) <= max(map(len, stops))
    if expected is None:
        assert detokenizer.stopped is None
        assert released + detokenizer.finish() == text + decoded.finish()
    else:
        begin, stop = expected
        assert detokenizer.stopped == stop
        assert released == text[:begin] + (stop if include else "")
        assert detokenizer.push(ids) == detokenizer.finish() == ""


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_stop_string_over_several_tokens_is_never_shown(size: int) -> None:
    stop = "STOP"
    parts = [stop[i : i + -(-4 // size)] for i in range(0, 4, -(-4 // size))]
    detokenizer = Detokenizer(BYTE_LEVEL, [stop])
    before = detokenizer.push(bytes_as_tokens(BYTE_LEVEL, "ab"))
    shown = [detokenizer.push(bytes_as_tokens(BYTE_LEVEL, part)) for part in parts]
    assert (before, "".join(shown), detokenizer.stopped) == ("ab", "", stop)


def test_text_held_for_a_stop_string_that_does_not_come_is_released() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, ["<end>"])
    assert detokenizer.push(bytes_as_tokens(BYTE_LEVEL, "x<en")) == "x"
    assert detokenizer.push(bytes_as_tokens(BYTE_LEVEL, "s")) == "<ens"
    assert detokenizer.push(bytes_as_tokens(BYTE_LEVEL, "<")) == ""
    assert detokenizer.finish() == "<"
    assert detokenizer.stopped is None


def test_the_stop_string_that_ends_first_counts() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, ["abcd", "bc"])
    assert detokenizer.push(bytes_as_tokens(BYTE_LEVEL, "xabcd")) == "xa"
    assert (detokenizer.stopped, detokenizer.num_tokens) == ("bc", 4)
    longest = Detokenizer(BYTE_LEVEL, ["bc", "abc"])
    assert longest.push(bytes_as_tokens(BYTE_LEVEL, "xabc")) == "x"
    assert longest.stopped == "abc"


def test_stop_strings_do_not_count_within_the_first_min_tokens_tokens() -> None:
    ids = bytes_as_tokens(BYTE_LEVEL, "stop and stop")
    detokenizer = Detokenizer(BYTE_LEVEL, ["stop"], min_tokens=4)
    assert detokenizer.push(ids) == "stop and "
    assert detokenizer.num_tokens == len(ids)
    crossing = Detokenizer(BYTE_LEVEL, ["stop"], min_tokens=3)
    assert crossing.push(ids) == ""
    assert (crossing.stopped, crossing.num_tokens) == ("stop", 4)


def test_a_replacement_character_at_the_end_can_complete_a_stop_string() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, ["a\ufffd"])
    assert detokenizer.push(bytes_as_tokens(BYTE_LEVEL, "ba👍")[:-1]) == "b"
    assert detokenizer.finish() == ""
    assert detokenizer.stopped == "a\ufffd"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        StopMatcher(["a", ""])
