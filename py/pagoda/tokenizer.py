"""Tokenizer: text <-> token ids over the `tokenizers` library.

Owns two instances of it: one that is guarded, in which no text can spell a control token, and the model's own for
`parse_special`, made when that is first wanted. Called by client.py, llm.py, the server, chat_template.py and
detokenizer.py. Thread-safe after construction.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from pagoda.charsmap import CharsMap
from pagoda.gguf_tokenizer import read_gguf_metadata
from pagoda.literals import LiteralSet
from pagoda.piece_decoder import PieceDecoder
from pagoda.tokenizer_directory import read_directory
from pagoda.tokenizer_spec import TokenizerError, TokenizerSpec, control_tokens, guarded, vocab_ids

__all__ = ["ByteStream", "Tokenizer", "TokenizerError"]

logger = logging.getLogger(__name__)


class Tokenizer:
    """Encodes and decodes text for one model.

    1. `encode` never yields a control token for text that spells one, unless `parse_special` is set.
    2. `decode(ids)` is the UTF-8 decoding of the concatenated `token_bytes` (invalid bytes become U+FFFD), less the
       leading space that SentencePiece-like tokenizers put before the first word.
    3. Ids without a token (padding rows of the embedding) decode to nothing.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        """Builds the guarded instance. Raises TokenizerError naming `spec.source` if it does not load."""
        content = {
            **spec.json,
            "truncation": None,
            "padding": None,
            "added_tokens": spec.json.get("added_tokens") or [],
        }
        self.source = spec.source
        self.chat_template = spec.chat_template
        self.pieces = PieceDecoder.from_spec(content.get("decoder"))
        charsmap = CharsMap(spec.charsmap, spec.source) if spec.charsmap else None
        self.control_tokens = tuple(control_tokens(content, (spec.bos_token, spec.eos_token)))
        key = secrets.token_hex(8)
        self._renamed = {token: f"<{key}:{token}>" for token in self.control_tokens}
        self._own_names = {new: old for old, new in self._renamed.items()}
        self._guarded = _Engine(guarded(content, self._renamed), spec.source, charsmap)
        self._full = _Later(lambda: _Engine(content, spec.source, charsmap)) if self._renamed else self._guarded
        added = self._guarded.added
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        self._added_literals = LiteralSet(self._own_name(token.content) for token in added.values())
        # A single character cannot be protected in its middle, so it is a control token only for parse_special.
        self._writable = {old: new for old, new in self._renamed.items() if len(old) > 1}
        self.bos_token, self.eos_token = spec.bos_token, spec.eos_token
        self.further_tokens = dict(spec.further_tokens)
        self.bos_token_id = self._id_of("bos_token", spec.bos_token)
        self.eos_token_id = self._id_of("eos_token", spec.eos_token)
        extra = [self._id_of("end-of-turn token", token) for token in spec.extra_eos_tokens]
        self.eos_token_ids = sorted({i for i in (self.eos_token_id, *extra) if i is not None})
        vocab = vocab_ids(content["model"]["vocab"])
        self.vocab_size = max([*vocab.values(), *added], default=-1) + 1
        self._bytes_cache: dict[int, bytes] = {}
        around = self._guarded.encode("", add_special_tokens=True)
        self._bos = _Edge.of(self.bos_token_id, around[:1], spec.add_bos)
        self._eos = _Edge.of(self.eos_token_id, around[1:] if self._bos.written else around[-1:], spec.add_eos)
        self.adds_bos = self._bos.wanted

    @classmethod
    def from_directory(cls, path: str | Path) -> Tokenizer:
        """From a directory in Hugging Face layout (tokenizer.json, tekken.json, tokenizer.model or *.tiktoken)."""
        return cls(read_directory(path))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """From GGUF key/values (`tokenizer.ggml.*`, `tokenizer.chat_template`)."""
        return cls(read_gguf_metadata(metadata))

    def encode(self, text: str, add_special_tokens: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`. `add_special_tokens`: as the model's post-processor says (BOS, ...).

        With `parse_special`, text such as "<|im_end|>" becomes the control token, as in transformers; without it such
        text is encoded as the plain characters it consists of. Raises TokenizerError for text that is not Unicode
        (a lone surrogate).
        """
        _require_unicode(text)
        engine = self._full if parse_special else self._guarded
        return self._with_edges(engine.encode(text, add_special_tokens), add_special_tokens)

    def encode_protected(self, text: str, protector: str, add_special_tokens: bool = False) -> list[int]:
        """Like encode(parse_special=True), but for control tokens that have the character `protector` inside them.

        Every `protector` is then removed, so protected text is encoded as exactly the text it was before.
        """
        _require_unicode(text)
        text = self._added_literals.replace(text, lambda found: self._writable.get(found, found)).replace(protector, "")
        return self._with_edges(self._guarded.encode(text, add_special_tokens), add_special_tokens)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`; special tokens are left out or written as their content."""
        stream = ByteStream(self, skip_special_tokens)
        return b"".join(map(stream.push, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes this token adds in the middle of a text; b"" for an id without a token."""
        cached = self._bytes_cache.get(token_id)
        if cached is None:
            piece = self.token_piece(token_id)
            cached = b"" if piece is None else self.pieces.piece_bytes(piece)
            self._bytes_cache[token_id] = cached
        return cached

    def token_text(self, token_id: int) -> str:
        """`token_bytes` as text; a part of a character shows as U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_piece(self, token_id: int) -> str | None:
        """The vocabulary's own spelling ("Ġthe", "▁the", "<0x0A>"); None for an id without a token."""
        if token_id < 0 or token_id > 0xFFFFFFFF:
            raise TokenizerError(f"token id must be in [0, {self.vocab_size - 1}], got {token_id}")
        piece = self._guarded.piece(token_id)
        return None if piece is None else self._own_name(piece)

    def token_id(self, piece: str) -> int | None:
        """The id of a vocabulary entry or added token by its own spelling; None when there is none."""
        return self._guarded.token_id(self._renamed.get(piece, piece))

    def is_special(self, token_id: int) -> bool:
        """Whether `skip_special_tokens` leaves this token out."""
        return token_id in self._special_ids

    def check_vocab_size(self, model_vocab_size: int) -> None:
        """Start-up check against the rows of the embedding; more rows than tokens are padding and are fine."""
        if self.vocab_size > model_vocab_size:
            raise TokenizerError(
                f"{self.source}: the tokenizer has token ids up to {self.vocab_size - 1} ({self.vocab_size} entries) "
                f"but the model's vocabulary has {model_vocab_size}: they do not belong together"
            )
        if self.vocab_size < 0.9 * model_vocab_size:
            logger.warning(
                "%s: the tokenizer has %d entries but the model's vocabulary has %d: do they belong together?",
                self.source,
                self.vocab_size,
                model_vocab_size,
            )

    def _own_name(self, piece: str) -> str:
        return self._own_names.get(piece, piece)

    def _id_of(self, what: str, token: str | None) -> int | None:
        if token is None:
            return None
        found = self.token_id(token)
        if found is None:
            raise TokenizerError(f"{self.source}: {what} {token!r} is not in the tokenizer's vocabulary")
        return found

    def _with_edges(self, ids: list[int], add_special_tokens: bool) -> list[int]:
        if not add_special_tokens:
            return ids
        if self._bos.written and not self._bos.wanted:
            ids = ids[1:]
        if self._eos.written and not self._eos.wanted:
            ids = ids[:-1]
        return [*self._bos.missing, *ids, *self._eos.missing]


@dataclass(frozen=True, slots=True)
class _Edge:
    """BOS or EOS around a text: whether the post-processor writes it, and whether it is wanted."""

    written: bool
    wanted: bool
    missing: list[int]  # what is wanted and not written

    @classmethod
    def of(cls, token_id: int | None, found: list[int], wish: bool | None) -> _Edge:
        """`found`: what the post-processor puts at this edge; `wish`: None = leave it at that."""
        written = token_id is not None and found[:1] == [token_id]
        wanted = written if wish is None else wish and token_id is not None
        return cls(written, wanted, [token_id] if token_id is not None and wanted and not written else [])


class _Engine:
    """One instance of the library, with the normalisation rules that go before it. Thread-safe."""

    def __init__(self, content: dict[str, Any], source: str, charsmap: CharsMap | None) -> None:
        self._source = source
        self._library = _load(content, source)
        self._charsmap = charsmap
        self.added: dict[int, Any] = self._library.get_added_tokens_decoder()
        self.literals = LiteralSet(token.content for token in self.added.values())

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if self._charsmap is not None:
            text = self._charsmap.normalize(text, self.literals)
        try:
            with _panic_as_error(self._source):
                ids: list[int] = self._library.encode(text, add_special_tokens=add_special_tokens).ids
        except TokenizerError:
            raise
        except Exception as error:  # a vocabulary without a token for unknown characters meets one
            raise TokenizerError(f"{self._source}: the text cannot be encoded: {error}") from error
        return ids

    def piece(self, token_id: int) -> str | None:
        found: str | None = self._library.id_to_token(token_id)
        return found

    def token_id(self, piece: str) -> int | None:
        found: int | None = self._library.token_to_id(piece)
        return found


class _Later:
    """An `_Engine` that is made for the first text, as that takes a tenth of a second. Thread-safe."""

    def __init__(self, make: Callable[[], _Engine]) -> None:
        self._make: Callable[[], _Engine] | None = make
        self._lock = threading.Lock()

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        with self._lock:
            if self._make is not None:
                self._engine, self._make = self._make(), None
        return self._engine.encode(text, add_special_tokens)


class ByteStream:
    """Turns token ids into bytes one by one; `b"".join` over all pushes is the whole text. One thread."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool, strip_leading_space: bool = True) -> None:
        """`strip_leading_space=False`: the text continues an earlier one, so its first word keeps its space."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special_tokens
        self._first = True
        self._strip = strip_leading_space
        self._strip_left = tokenizer.pieces.strip_count if strip_leading_space else 0

    def push(self, token_id: int) -> bytes:
        """Bytes that this token adds."""
        if self._skip_special and self._tokenizer.is_special(token_id):
            return b""
        if not self._first and not self._strip_left:
            return self._tokenizer.pieces.separator + self._tokenizer.token_bytes(token_id)
        piece = self._tokenizer.token_piece(token_id)
        if piece is None:
            return b""
        rule = self._tokenizer.pieces
        data = rule.piece_bytes(piece, first=self._first and self._strip)
        if not self._first:
            data = rule.separator + data
        self._first = False
        return self._strip_start(data, rule.strip_char)

    def _strip_start(self, data: bytes, char: bytes) -> bytes:
        while self._strip_left and data.startswith(char):
            data = data[len(char) :]
            self._strip_left -= 1
        if data:
            self._strip_left = 0
        return data


def _load(content: dict[str, Any], source: str) -> tokenizers.Tokenizer:
    try:
        with _panic_as_error(source):
            return tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    except TokenizerError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{source}: the tokenizer does not load: {error}") from error


@contextlib.contextmanager
def _panic_as_error(source: str) -> Iterator[None]:
    """The library panics on some files that are damaged; its exception for that is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{source}: the tokenizer is damaged: {error}") from None


def _require_unicode(text: str) -> None:
    if not isinstance(text, str):
        raise TokenizerError(f"text must be a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"text must be valid Unicode, got a lone surrogate U+{ord(text[error.start]):04X} at position {error.start}"
        ) from None
