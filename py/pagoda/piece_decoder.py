"""How one vocabulary piece becomes bytes: the `decoder` of a tokenizer.json, reduced to a rule per piece.

Text is the concatenation of piece bytes, decoded as UTF-8 once. That makes streaming exact: a piece never changes what
an earlier piece meant. Used by tokenizer.py (decode, token_bytes) and, through it, by detokenizer.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from pagoda.byte_level_bpe import byte_alphabet
from pagoda.tokenizer_spec import TokenizerError

_SUPPORTED = "ByteLevel, Metaspace, Replace (of a string), ByteFallback, Fuse, Strip (of leading characters), or none"
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


_ALPHABET = byte_alphabet()


def _is_ascii(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and text.isascii() and text != ""


@dataclass(slots=True)
class PieceDecoder:
    """The rule. Immutable after `from_spec`; safe to share between threads."""

    byte_level: bool = False  # characters of the piece stand for bytes (GPT-2)
    byte_fallback: bool = False  # a piece "<0x0A>" is that byte (SentencePiece)
    replacements: list[tuple[str, str]] = field(default_factory=list)  # "▁" -> " "
    separator: bytes = b""  # written between pieces (only without a decoder)
    strip_char: bytes = b""  # removed from the start of the whole text, at most strip_count times
    strip_count: int = 0
    metaspace: str = ""  # dropped from the first piece instead of becoming a space

    @classmethod
    def from_spec(cls, decoder: object) -> PieceDecoder:
        """Reads tokenizer.json's `decoder`. Raises TokenizerError for a step whose effect is not per piece, and for
        what is no decoder."""
        if decoder is None:
            return cls(separator=b" ")
        rule = cls()
        sequence = isinstance(decoder, dict) and decoder.get("type") == "Sequence"
        steps = decoder.get("decoders") if isinstance(decoder, dict) and sequence else [decoder]
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise TokenizerError(
                f"tokenizer.json: decoder must be an object or a Sequence of such, got {decoder!r}"[:200]
            )
        fused = False
        for step in steps:
            fused = rule._add_step(step, fused)
        if rule.byte_level and (rule.byte_fallback or rule.replacements or rule.strip_count):
            raise TokenizerError("tokenizer.json: decoder ByteLevel cannot be combined with SentencePiece steps")
        return rule

    def _add_step(self, step: Mapping[str, Any], fused: bool) -> bool:
        """Adds one decoder step; returns whether the pieces have been fused into one text by now."""
        kind, content = step.get("type"), step.get("content")
        pattern = step["pattern"].get("String") if isinstance(step.get("pattern"), dict) else None
        mark, count = step.get("replacement", "▁"), step.get("start", 0)
        if kind == "ByteLevel":
            self.byte_level = True
        elif kind == "ByteFallback":
            self.byte_fallback = True
        elif kind == "Fuse":
            return True
        elif kind == "Replace" and isinstance(pattern, str) and pattern and isinstance(content, str):
            self.replacements.append((pattern, content))
        elif kind == "Metaspace" and isinstance(mark, str) and mark:
            self.replacements.append((mark, " "))
            if step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True):
                self.metaspace = mark
        elif kind == "Strip" and fused and not step.get("stop") and _is_ascii(content) and isinstance(count, int):
            self.strip_char, self.strip_count = content.encode(), count
        else:
            shown = repr(dict(step))[:200]
            raise TokenizerError(f"tokenizer.json: decoder step {shown} is not supported; supported: {_SUPPORTED}")
        return fused

    def piece_bytes(self, piece: str, first: bool = False) -> bytes:
        """Bytes of one piece; `first` = it opens the text, where Metaspace drops its marks."""
        if self.byte_level:
            try:
                return bytes([_ALPHABET[char] for char in piece])
            except KeyError:  # an added token holds ordinary text
                return piece.encode()
        if self.byte_fallback and (match := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(match[1], 16)])
        if first and self.metaspace:
            piece = piece.replace(self.metaspace, "")
        for old, new in self.replacements:
            piece = piece.replace(old, new)
        return piece.encode()
