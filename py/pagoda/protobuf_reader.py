"""Protocol-buffer wire format: the fields of one message, read with every length checked.

Owns the refusal of malformed messages (truncated varints, lengths past the end, wrong wire types). Knows no schema;
sentencepiece_model.py gives the fields their meaning.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pagoda.tokenizer_spec import TokenizerError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4 (groups) have been retired by the format
_NAMES = {VARINT: "varint", FIXED64: "64-bit", BYTES: "length-delimited", FIXED32: "32-bit"}
_MAX_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `value`: the number of a varint, else the position of the first payload byte; `end`: one past it."""

    number: int
    wire: int
    value: int
    end: int
    offset: int  # of the field's tag, in the file


class ProtobufReader:
    """Reads messages that lie in `data`. `source` names the file in error texts. Immutable."""

    def __init__(self, data: bytes, source: str) -> None:
        self.data = data
        self.source = source

    def fields(self, begin: int, end: int, message: str) -> Iterator[Field]:
        """Fields of the message in [begin, end), in file order. Raises TokenizerError naming offset and `message`."""
        data = self.data
        position = begin
        while position < end:
            offset = position
            tag = data[position]
            position += 1
            if tag > 0x7F:
                tag, position = self._varint(offset, end, message)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise self.error(offset, message, "field number 0, expected a positive one")
            if wire == VARINT:
                value, position = self._varint(position, end, f"{message}.{number}")
                yield Field(number, wire, value, position, offset)
                continue
            if wire == BYTES:
                size, position = self._varint(position, end, f"{message}.{number}")
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
            else:
                raise self.error(offset, f"{message}.{number}", f"wire type {wire}, expected 0, 1, 2 or 5")
            if size > end - position:
                raise self.error(
                    offset, f"{message}.{number}", f"a length of {size} bytes, but {end - position} are left"
                )
            yield Field(number, wire, position, position + size, offset)
            position += size

    def error(self, offset: int, field: str, found: str) -> TokenizerError:
        """The error for a field that does not fit."""
        return TokenizerError(f"{self.source}: offset {offset}: {field}: found {found}")

    def require(self, field: Field, wire: int, name: str) -> None:
        """Refuses a field that has another wire type than its schema says."""
        if field.wire != wire:
            raise self.error(field.offset, name, f"a {_NAMES[field.wire]} value, expected a {_NAMES[wire]} one")

    def text(self, field: Field, name: str) -> str:
        """The string of a length-delimited field."""
        self.require(field, BYTES, name)
        try:
            return self.data[field.value : field.end].decode()
        except UnicodeDecodeError as error:
            raise self.error(field.offset, name, f"bytes that are not UTF-8 ({error.reason})") from None

    def blob(self, field: Field, name: str) -> bytes:
        """The bytes of a length-delimited field."""
        self.require(field, BYTES, name)
        return self.data[field.value : field.end]

    def float32(self, field: Field, name: str) -> float:
        """The number of a 32-bit field."""
        self.require(field, FIXED32, name)
        value: float = struct.unpack_from("<f", self.data, field.value)[0]
        return value

    def int32(self, field: Field, name: str) -> int:
        """The signed number of a varint field (negative ones are written as 64-bit two's complement)."""
        self.require(field, VARINT, name)
        value = field.value - (1 << 64) if field.value >> 63 else field.value
        if not -(1 << 31) <= value < 1 << 31:
            raise self.error(field.offset, name, f"{value}, expected a 32-bit integer")
        return value

    def boolean(self, field: Field, name: str) -> bool:
        """The flag of a varint field."""
        return self.int32(field, name) != 0

    def _varint(self, position: int, end: int, field: str) -> tuple[int, int]:
        """The number at `position` and the position after it."""
        value = shift = 0
        for at in range(position, min(end, position + _MAX_VARINT_BYTES)):
            byte = self.data[at]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at + 1
            shift += 7
        if end - position < _MAX_VARINT_BYTES:
            raise self.error(position, field, "a varint that the message cuts off")
        raise self.error(position, field, f"a varint of more than {_MAX_VARINT_BYTES} bytes")
