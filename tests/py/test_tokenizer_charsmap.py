"""SentencePiece's compiled normalisation rules: equal to SentencePiece's own normalizer, and damaged ones refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nasty_texts import processor, train_sentencepiece
from sentencepiece import sentencepiece_model_pb2

from pagoda.charsmap import CharsMap
from pagoda.literals import LiteralSet
from pagoda.tokenizer import TokenizerError

_PROTO = sentencepiece_model_pb2.ModelProto.FromString(
    train_sentencepiece(model_type="unigram", normalization_rule_name="nmt_nfkc_cf")
)
BLOB = _PROTO.normalizer_spec.precompiled_charsmap
_PROTO.normalizer_spec.add_dummy_prefix = False
_PROTO.normalizer_spec.remove_extra_whitespaces = False
_PROTO.normalizer_spec.escape_whitespaces = False
REFERENCE = processor(_PROTO.SerializeToString())
RULES = CharsMap(BLOB, "test")
_COMPOSING = st.characters(exclude_categories=["Cs"])
_CLOSE = st.sampled_from("aeAKſß\u0301\u0308\u0304\u0345ｶﾞﾟㄱ\u1100\u1161\u11a8가각\t\r\n\u00a0ﬁⅧ㌔①\u200d\U0001f469")


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.one_of(_CLOSE, _COMPOSING), max_size=12))
def test_normalisation_equals_that_of_sentencepiece(text: str) -> None:
    assert RULES.normalize(text, LiteralSet([])) == REFERENCE.normalize(text)


def test_literals_stay_as_they_are() -> None:
    assert RULES.normalize("Ａ<Ａ>Ａ", LiteralSet(["<Ａ>"])) == "a<Ａ>a"


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"\x01", r"precompiled_charsmap: offset 0: found a trie of 0 bytes"),
        (struct.pack("<I", 400) + bytes(8), r"found a trie of 400 bytes, expected a positive multiple of 4 up to 8"),
        (struct.pack("<I", 3) + bytes(8), "found a trie of 3 bytes"),
        (struct.pack("<III", 8, 0, 0x80000005) + b"abc\0", r"offset 8: replacement: found an offset of 5 into 4 bytes"),
        (struct.pack("<III", 8, 0, 0x80000000) + b"abc", r"an offset of 0 into 3 bytes"),
        (struct.pack("<III", 8, 0, 0x80000000) + b"\xff\0", r"offset 8: replacement: found 'utf-8' codec"),
    ],
)
def test_damaged_rules_are_refused(blob: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        CharsMap(blob, "test")


@settings(max_examples=100, deadline=None)
@given(units=st.lists(st.integers(0, 0x7FFFFFFF), min_size=1, max_size=40), text=st.text(max_size=20))
def test_a_trie_of_nonsense_never_leads_outside(units: list[int], text: str) -> None:
    blob = struct.pack(f"<I{len(units)}I", 4 * len(units), *units)
    assert isinstance(CharsMap(blob, "test").normalize(text, LiteralSet([])), str)
