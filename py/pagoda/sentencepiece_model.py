"""A SentencePiece model: pieces, scores, types and the rules for spaces, and how to read it from `tokenizer.model`.

Owns the schema of the file (`ModelProto`) and the checks that SentencePiece itself makes. sentencepiece_tokenizer.py
turns a model into a tokenizer; gguf_tokenizer.py makes the same data from GGUF metadata.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pagoda.protobuf_reader import BYTES, Field, ProtobufReader
from pagoda.tokenizer_spec import TokenizerError, read_limited

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of a piece
UNIGRAM, BPE = 1, 2  # algorithms
_OTHER_ALGORITHMS = {3: "WORD", 4: "CHAR"}
_MAX_PIECE_CHARS = 512


@dataclass(slots=True)
class SentencePieceModel:
    """One model. `pieces`, `scores` and `types` have one entry per token id."""

    source: str  # for error texts
    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    algorithm: int = UNIGRAM
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    bos_piece: str = "<s>"
    eos_piece: str = "</s>"
    charsmap: bytes = b""  # compiled normalisation rules (NFKC, ...); empty: text stays as it is
    add_dummy_prefix: bool = True  # a space goes before the text
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True  # spaces are written as U+2581

    def unknown_id(self) -> int:
        """Id of the piece for characters without a piece; check() made sure that there is one."""
        return self.types.index(UNKNOWN)

    def control_piece(self, piece: str) -> str | None:
        """`piece`, if the model has it as a control token."""
        found = self.pieces.index(piece) if piece in self.pieces else None
        return piece if found is not None and self.types[found] == CONTROL else None

    def check(self) -> None:
        """Raises TokenizerError naming what a usable model must have and this one has not."""
        if not self.pieces:
            raise TokenizerError(f"{self.source}: pieces: found none, expected a vocabulary")
        if self.algorithm not in (UNIGRAM, BPE):
            name = _OTHER_ALGORITHMS.get(self.algorithm, str(self.algorithm))
            raise TokenizerError(f"{self.source}: trainer_spec.model_type: found {name}, supported are BPE and UNIGRAM")
        if self.whitespace_as_suffix:
            raise TokenizerError(f"{self.source}: trainer_spec.treat_whitespace_as_suffix is not supported")
        _refuse_doubles(self.source, self.pieces)
        for i, (piece, kind, score) in enumerate(zip(self.pieces, self.types, self.scores, strict=True)):
            self._check_piece(i, piece, kind, score)
        if self.types.count(UNKNOWN) != 1:
            raise TokenizerError(
                f"{self.source}: pieces: found {self.types.count(UNKNOWN)} of type UNKNOWN, expected exactly one"
            )
        if self.byte_fallback:
            known = {piece for piece, kind in zip(self.pieces, self.types, strict=True) if kind == BYTE}
            missing = next((b for b in range(256) if f"<0x{b:02X}>" not in known), None)
            if missing is not None:
                raise TokenizerError(f"{self.source}: byte_fallback is on, but the piece <0x{missing:02X}> is missing")

    def _check_piece(self, i: int, piece: str, kind: int, score: float) -> None:
        if not piece:
            raise TokenizerError(f"{self.source}: pieces[{i}].piece: found an empty string")
        if kind == NORMAL and len(piece) > _MAX_PIECE_CHARS:
            raise TokenizerError(
                f"{self.source}: pieces[{i}].piece: found {len(piece)} characters, allowed are {_MAX_PIECE_CHARS}"
            )
        if not NORMAL <= kind <= BYTE:
            raise TokenizerError(f"{self.source}: pieces[{i}].type: found {kind}, expected {NORMAL} to {BYTE}")
        if not math.isfinite(score):
            raise TokenizerError(f"{self.source}: pieces[{i}].score: found {score}, expected a finite number")


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Reads and checks a `tokenizer.model`. Raises TokenizerError naming the file, the offset and the field."""
    data = read_limited(path)
    reader = ProtobufReader(data, str(path))
    model = SentencePieceModel(str(path))
    for entry in reader.fields(0, len(data), "ModelProto"):
        if entry.number == 1:
            _read_piece(reader, entry, model)
        elif entry.number == 2:
            reader.require(entry, BYTES, "trainer_spec")
            _read_trainer(reader, reader.fields(entry.value, entry.end, "trainer_spec"), model)
        elif entry.number == 3:
            reader.require(entry, BYTES, "normalizer_spec")
            _read_normalizer(reader, reader.fields(entry.value, entry.end, "normalizer_spec"), model)
    model.check()
    return model


def _read_piece(reader: ProtobufReader, entry: Field, model: SentencePieceModel) -> None:
    name = f"pieces[{len(model.pieces)}]"
    reader.require(entry, BYTES, name)
    piece, score, kind = "", 0.0, NORMAL
    for part in reader.fields(entry.value, entry.end, name):
        if part.number == 1:
            piece = reader.text(part, f"{name}.piece")
        elif part.number == 2:
            score = reader.float32(part, f"{name}.score")
        elif part.number == 3:
            kind = reader.int32(part, f"{name}.type")
    if not piece:
        raise reader.error(entry.offset, f"{name}.piece", "an empty string")
    model.pieces.append(piece)
    model.scores.append(score)
    model.types.append(kind)


def _read_trainer(reader: ProtobufReader, fields: Iterable[Field], model: SentencePieceModel) -> None:
    for part in fields:
        if part.number == 3:
            model.algorithm = reader.int32(part, "trainer_spec.model_type")
        elif part.number == 24:
            model.whitespace_as_suffix = reader.boolean(part, "trainer_spec.treat_whitespace_as_suffix")
        elif part.number == 35:
            model.byte_fallback = reader.boolean(part, "trainer_spec.byte_fallback")
        elif part.number == 46:
            model.bos_piece = reader.text(part, "trainer_spec.bos_piece")
        elif part.number == 47:
            model.eos_piece = reader.text(part, "trainer_spec.eos_piece")


def _read_normalizer(reader: ProtobufReader, fields: Iterable[Field], model: SentencePieceModel) -> None:
    for part in fields:
        if part.number == 2:
            model.charsmap = reader.blob(part, "normalizer_spec.precompiled_charsmap")
        elif part.number == 3:
            model.add_dummy_prefix = reader.boolean(part, "normalizer_spec.add_dummy_prefix")
        elif part.number == 4:
            model.remove_extra_whitespaces = reader.boolean(part, "normalizer_spec.remove_extra_whitespaces")
        elif part.number == 5:
            model.escape_whitespaces = reader.boolean(part, "normalizer_spec.escape_whitespaces")


def _refuse_doubles(source: str, pieces: list[str]) -> None:
    first: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        if first.setdefault(piece, i) != i:
            raise TokenizerError(f"{source}: pieces[{i}].piece: found {piece!r}, which pieces[{first[piece]}] is too")
