"""SentencePiece's compiled normalisation rules (`precompiled_charsmap`): NFKC and the like as a trie of replacements.

Owns the binary format and the longest-match rule. tokenizer.py applies it to text before the engine sees it: the
engine library's own step looks at whole graphemes and loses combining marks, so ids would differ from SentencePiece's.
"""

from __future__ import annotations

import struct

from pagoda.literals import LiteralSet
from pagoda.tokenizer_spec import TokenizerError

_MAX_KEY_CHARS = 64
_MAX_MEMO = 1 << 16


class CharsMap:
    """Replaces, from left to right, the longest text that has a rule. Thread-safe."""

    def __init__(self, blob: bytes, source: str) -> None:
        """`blob`: size of the trie (u32), the trie (a double array of u32 units), NUL-terminated replacements.

        Raises TokenizerError naming `source` and the offset in the blob.
        """
        where = f"{source}: normalizer_spec.precompiled_charsmap"
        size = struct.unpack_from("<I", blob)[0] if len(blob) >= 4 else 0
        if size == 0 or size % 4 or size > len(blob) - 4:
            raise TokenizerError(
                f"{where}: offset 0: found a trie of {size} bytes, expected a positive multiple of 4 "
                f"up to {max(0, len(blob) - 4)}"
            )
        self._units = struct.unpack_from(f"<{size // 4}I", blob, 4)
        self._replacements = _read_replacements(self._units, blob[4 + size :], where)
        self._memo: dict[str, str | None] = {}

    def normalize(self, text: str, literals: LiteralSet) -> str:
        """`text` with the rules applied, except inside occurrences of `literals`."""
        return literals.rewrite(text, inside=lambda found: found, outside=self._apply)

    def _apply(self, text: str) -> str:
        parts, memo, position = [], self._memo, 0
        while position < len(text):
            pair = text[position : position + 2]
            try:
                known = memo[pair]
            except KeyError:
                if len(memo) >= _MAX_MEMO:
                    memo.clear()
                known = memo[pair] = self._alone(pair)
            if known is None:
                length, replacement = self._longest(text, position)
                parts.append(replacement)
                position += length
            else:
                parts.append(known)
                position += 1
        return "".join(parts)

    def _alone(self, pair: str) -> str | None:
        """What becomes of `pair[0]` when it is followed by `pair[1]`; None when a rule might take both."""
        node = self._walk(self._root(), pair[0])
        if node is not None and len(pair) == 2 and self._walk(node, pair[1]) is not None:
            return None
        return self._longest(pair, 0)[1]

    def _longest(self, text: str, begin: int) -> tuple[int, str]:
        """Length and replacement of the longest rule that matches at `begin`; the character itself without one."""
        length, replacement = 1, text[begin]
        node = self._root()
        for at in range(begin, min(len(text), begin + _MAX_KEY_CHARS)):
            following = self._walk(node, text[at])
            if following is None:
                break
            node = following
            found = self._replacements.get(node)
            if found is not None:
                length, replacement = at + 1 - begin, found
        return length, replacement

    def _root(self) -> int:
        return _offset(self._units[0])

    def _walk(self, node: int, char: str) -> int | None:
        """The node after the bytes of `char`; None when the trie has no such path."""
        for byte in char.encode():
            node ^= byte
            if node >= len(self._units) or self._units[node] & 0x800000FF != byte:
                return None
            node ^= _offset(self._units[node])
        return node


def _offset(unit: int) -> int:
    """Where the children of a unit lie, relative (by exclusive or) to the unit."""
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _read_replacements(units: tuple[int, ...], text: bytes, where: str) -> dict[int, str]:
    """Position of each value unit (its top bit is set) -> the replacement it points to."""
    found = {}
    for i, unit in enumerate(units):
        if unit >> 31:
            begin = unit & 0x7FFFFFFF
            end = text.find(b"\0", begin)
            try:
                if begin >= len(text) or end < 0:
                    raise ValueError(f"an offset of {begin} into {len(text)} bytes of text")
                found[i] = text[begin:end].decode()
            except ValueError as error:
                raise TokenizerError(f"{where}: offset {4 + 4 * i}: replacement: found {error}") from None
    return found
