"""tokenizer.model as an attacker would write it: every malformed file is refused with the place and the field."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nasty_texts import train_sentencepiece

from pagoda.sentencepiece_model import read_sentencepiece
from pagoda.tokenizer import Tokenizer, TokenizerError

GOOD = train_sentencepiece(model_type="bpe", byte_fallback=True)
NFKC = train_sentencepiece(model_type="unigram", byte_fallback=True, normalization_rule_name="nmt_nfkc")


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int | float) -> bytes:
    if isinstance(content, bytes):
        return varint(number << 3 | 2) + varint(len(content)) + content
    if isinstance(content, float):
        return varint(number << 3 | 5) + struct.pack("<f", content)
    return varint(number << 3) + varint(content)


def piece(text: bytes, kind: int = 1, score: float = 0.0) -> bytes:
    return field(1, field(1, text) + field(2, score) + field(3, kind))


UNK = piece(b"<unk>", 2)
BPE = field(2, field(3, 2))


def read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    read_sentencepiece(tmp_path / "tokenizer.model")


def test_the_least_model_is_read(tmp_path: Path) -> None:
    read(tmp_path, UNK + piece(b"a") + BPE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x0a", r"offset 1: ModelProto\.1: found a varint that the message cuts off"),
        (b"\x0a\x7fabc", r"offset 0: ModelProto\.1: found a length of 127 bytes, but 3 are left"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", r"ModelProto\.1: found a length of \d{19,20} bytes, but 0 are left"),
        (b"\x08" + b"\xff" * 11, "found a varint of more than 10 bytes"),
        (b"\x00\x01", "offset 0: ModelProto: found field number 0"),
        (b"\x0b", r"offset 0: ModelProto\.1: found wire type 3"),
        (b"\x08\x01", r"offset 0: pieces\[0\]: found a varint value, expected a length-delimited one"),
        (field(1, field(1, 5)), r"offset 2: pieces\[0\]\.piece: found a varint value, expected a length-delimited"),
        (UNK + field(1, field(1, b"\xff")), r"pieces\[1\]\.piece: found bytes that are not UTF-8"),
        (UNK + field(1, field(1, b"x") + field(2, 5)), r"pieces\[1\]\.score: found a varint value, expected a 32-bit"),
        (UNK + field(1, field(1, b"x") + field(3, 1 << 40)), r"pieces\[1\]\.type: found \d+, expected a 32-bit"),
        (UNK + field(1, b""), r"pieces\[1\]\.piece: found an empty string"),
        (UNK + piece(b"a") + piece(b"a"), r"pieces\[2\]\.piece: found 'a', which pieces\[1\] is too"),
        (UNK + piece(b"a", 9), r"pieces\[1\]\.type: found 9, expected 1 to 6"),
        (UNK + piece(b"a", -1), r"pieces\[1\]\.type: found -1, expected 1 to 6"),
        (UNK + piece(b"a", 1, float("nan")), r"pieces\[1\]\.score: found nan, expected a finite number"),
        (UNK + piece(b"a" * 600), r"pieces\[1\]\.piece: found 600 characters, allowed are 512"),
        (piece(b"a"), "found 0 of type UNKNOWN, expected exactly one"),
        (UNK + piece(b"<u>", 2), "found 2 of type UNKNOWN"),
        (BPE, "pieces: found none"),
        (UNK + field(2, 3), "trainer_spec: found a varint value"),
        (UNK + field(2, field(3, 3)), r"trainer_spec\.model_type: found WORD, supported are BPE and UNIGRAM"),
        (UNK + field(2, field(3, 77)), r"trainer_spec\.model_type: found 77"),
        (UNK + field(2, field(24, 1)), "treat_whitespace_as_suffix is not supported"),
        (UNK + field(2, field(35, 1)), r"byte_fallback is on, but the piece <0x00> is missing"),
        (UNK + field(3, field(2, 1)), r"normalizer_spec\.precompiled_charsmap: found a varint value"),
    ],
)
def test_a_malformed_file_is_refused_with_offset_and_field(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "tokenizer.model") in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from([GOOD, NFKC])))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.mkdir(exist_ok=True)
    (path / "tokenizer.model").write_bytes(content[:cut])
    message = refusal(path)
    assert message is None or str(path) in message


def refusal(path: Path) -> str | None:
    """What is said against the tokenizer in a directory; None when it can be used."""
    try:
        Tokenizer.from_directory(path).encode("Hello, wörld <0x41>")
    except TokenizerError as error:
        return str(error)
    return None
