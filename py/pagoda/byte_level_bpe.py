"""Byte-level BPE (GPT-2's kind) in the layout of tokenizer.json: alphabet, merges from ranks, pre-tokenizer, model.

Called by gguf_tokenizer.py, tiktoken_file.py and tekken.py; piece_decoder.py uses the alphabet for the way back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pagoda.tokenizer_spec import TokenizerError

_MAX_TOKEN_BYTES = 512

Merge = str | list[str]  # "left right", or [left, right] where a piece may hold a space


def byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: the printable character that stands for each of the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return alphabet


_SPELLING = {byte: char for char, byte in byte_alphabet().items()}


def spelled(token: bytes) -> str:
    """`token` as a vocabulary piece: one character of the alphabet per byte."""
    return token.decode("latin-1").translate(_SPELLING)


def byte_level(use_regex: bool) -> dict[str, Any]:
    """The step that spells text in the alphabet; `use_regex`: and splits it as GPT-2 does."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def splits(*patterns: str) -> list[dict[str, Any]]:
    """Pre-tokenizer steps: each pattern (Oniguruma syntax) isolates its matches in what the earlier ones left."""
    isolated = {"type": "Split", "behavior": "Isolated", "invert": False}
    return [*({**isolated, "pattern": {"Regex": pattern}} for pattern in patterns), byte_level(use_regex=False)]


def bpe_model(vocab: Mapping[str, int], merges: Sequence[Merge], ignore_merges: bool = False) -> dict[str, Any]:
    """A BPE model. `ignore_merges`: a whole word that is in the vocabulary is that token, whatever the merges say."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    }


def byte_level_json(model: dict[str, Any], steps: Sequence[dict[str, Any]], nfc: bool = False) -> dict[str, Any]:
    """A whole tokenizer.json, without added tokens."""
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)},
        "post_processor": None,
        "decoder": byte_level(use_regex=True),
        "model": model,
    }


def ranked_model(tokens: Mapping[bytes, int], specials: Mapping[str, int], source: str) -> dict[str, Any]:
    """The BPE model of tiktoken's rule "join the neighbours whose union has the lowest rank".

    `tokens`: bytes -> id, ids in the order of the ranks; `specials`: content -> id. Every split of a token into two
    tokens is a merge with the rank of the union. Raises TokenizerError naming the token that does not fit.
    """
    missing = next((byte for byte in range(256) if bytes([byte]) not in tokens), None)
    if missing is not None:
        raise TokenizerError(f"{source}: the byte 0x{missing:02X} has no token: every single byte needs one")
    long = next((token for token in tokens if len(token) > _MAX_TOKEN_BYTES), None)
    if long is not None:
        raise TokenizerError(f"{source}: found a token of {len(long)} bytes, allowed are {_MAX_TOKEN_BYTES}")
    vocab = {spelled(token): token_id for token, token_id in tokens.items()}
    merges: list[str] = []
    for piece in sorted(vocab, key=vocab.__getitem__):
        cuts = [cut for cut in range(1, len(piece)) if piece[:cut] in vocab and piece[cut:] in vocab]
        if len(cuts) > 1:
            cuts.sort(key=lambda cut: (vocab[piece[:cut]], vocab[piece[cut:]]))
        merges += [f"{piece[:cut]} {piece[cut:]}" for cut in cuts]
    for content, token_id in specials.items():
        if vocab.setdefault(content, token_id) != token_id:
            raise TokenizerError(
                f"{source}: special token {content!r} has id {token_id}, but the ordinary token {vocab[content]} is "
                "spelled the same"
            )
    return bpe_model(vocab, merges, ignore_merges=True)
