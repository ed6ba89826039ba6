"""A tokenizer in the shape that llguidance asks for: each token's bytes, which tokens are no text, and encoding.

Used by compiler.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from pagoda.tokenizer import Tokenizer

#: A character that merges with nothing: what stands behind it is tokenized as in the middle of a text.
_EDGE = "\x02"


class Vocabulary:
    """`tokens[id]` are the bytes that a token adds in the middle of a text; b"" for a padding row of the embedding."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_tokens: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = eos_tokens[0]
        self.bos_token_id = tokenizer.bos_token_id
        separator = tokenizer.pieces.separator
        pieces = [tokenizer.token_bytes(token) for token in range(vocab_size)]
        self.tokens = [separator + piece if piece else b"" for piece in pieces]
        control = {tokenizer.token_id(token) for token in tokenizer.control_tokens}
        special = {token for token in range(vocab_size) if token in control or tokenizer.is_special(token)}
        self.special_token_ids = sorted(special | set(eos_tokens))
        self._by_bytes = {data: token for token, data in enumerate(self.tokens) if data and token not in special}
        self._longest = max(map(len, self._by_bytes), default=0)
        self._edge = tokenizer.encode(_EDGE, add_special_tokens=False)

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens whose bytes are exactly those of `text`, as the model would continue a text with them."""
        data = text.encode() if isinstance(text, str) else text
        shown = _EDGE + data.decode("utf-8", "replace")
        ids = self._tokenizer.encode(shown, add_special_tokens=False)
        behind = ids[len(self._edge) :]
        starts_alike = ids[: len(self._edge)] == self._edge
        if starts_alike and b"".join(self.tokens[token] for token in behind) == data:
            return behind
        return self._longest_first(data)

    def _longest_first(self, data: bytes) -> list[int]:
        """Always the longest token that fits; stops at a byte that no token begins with."""
        ids, place = [], 0
        while place < len(data):
            sizes = range(min(self._longest, len(data) - place), 0, -1)
            token = next((self._by_bytes[data[place : place + size]] for size in sizes
                          if data[place : place + size] in self._by_bytes), None)  # fmt: skip
            if token is None:
                break
            ids.append(token)
            place += len(self.tokens[token])
        return ids
