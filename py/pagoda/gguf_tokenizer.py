"""The tokenizer inside a GGUF file: `tokenizer.ggml.*` metadata becomes a TokenizerSpec.

Owns what each `tokenizer.ggml.model` means; pre_tokenizers.py knows the names of `tokenizer.ggml.pre`. Called by
tokenizer.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pagoda.byte_level_bpe import bpe_model, byte_level_json
from pagoda.pre_tokenizers import PRE_TOKENIZERS
from pagoda.sentencepiece_model import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
)
from pagoda.sentencepiece_tokenizer import PrefixRule, sentencepiece_json
from pagoda.tokenizer_spec import TokenizerError, TokenizerSpec, added_token

_SOURCE = "GGUF metadata"
_NO_TOKEN = 0xFFFFFFFF  # -1 in GGUF's unsigned 32 bits
_SPLITS_AS_GPT2 = (None, "gpt2", "gptneox", "starcoder", "phi2")  # their files need not name it
_PREFIX = "tokenizer.ggml."
_MODELS = "gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (SentencePiece Unigram)"
# Keys of our own, written by `enginectl convert` where GGUF's do not say it: a prefix rule, and "normalized"
# where user-defined tokens are looked for in the normalised text. See sentencepiece_json.
_PREFIX_RULES: dict[str, PrefixRule] = {"first": "first", "always": "always"}
SPACE_PREFIX, USER_TOKENS = "tokenizer.pagoda.space_prefix", "tokenizer.pagoda.user_tokens"
_REFUSED = {
    "bert": "WordPiece vocabularies belong to encoders, and Pagoda runs decoders",
    "rwkv": "RWKV's vocabulary belongs to recurrent models, and Pagoda runs transformers",
}


def read_gguf_metadata(metadata: Mapping[str, Any]) -> TokenizerSpec:
    """TokenizerSpec of GGUF key/values (arrays as lists). Raises TokenizerError naming the key that does not fit."""
    kind = metadata.get(_PREFIX + "model")
    if kind is None:
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}model is missing: the file carries no tokenizer")
    if kind not in ("gpt2", "llama", "t5"):
        reason = f" ({_REFUSED[kind]})" if isinstance(kind, str) and kind in _REFUSED else ""
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}model {kind!r} is not supported{reason}; supported: {_MODELS}")
    tokens, types = _read_vocabulary(metadata)
    charsmap = b""
    if kind == "gpt2":
        content, bos_default = _byte_level_bpe(metadata, tokens)
    else:
        model = _sentencepiece(metadata, tokens, types, BPE if kind == "llama" else UNIGRAM)
        charsmap = model.charsmap
        rule = _PREFIX_RULES.get(str(metadata.get(SPACE_PREFIX)), "sentencepiece")
        raw = metadata.get(USER_TOKENS) != "normalized"
        content, bos_default = sentencepiece_json(model, rule, raw_user_tokens=raw), kind == "llama"
        types = [CONTROL if one == UNUSED and kind == "t5" else one for one in types]
    bos, eos = (_token_at(metadata, key, tokens) for key in ("bos_token_id", "eos_token_id"))
    extra = [_token_at(metadata, key, tokens) for key in ("eot_token_id", "eom_token_id")]
    content["added_tokens"] = _added_tokens(tokens, types, [bos, eos, *extra])
    if kind != "gpt2" and metadata.get(USER_TOKENS) == "normalized":
        for entry in content["added_tokens"]:
            entry["normalized"] = not entry["special"]
    return TokenizerSpec(
        json=content,
        source=_SOURCE,
        bos_token=bos,
        eos_token=eos,
        further_tokens=_further_tokens(metadata, tokens),
        extra_eos_tokens=[token for token in extra if token is not None],
        add_bos=bool(metadata.get(_PREFIX + "add_bos_token", bos_default)),
        add_eos=bool(metadata.get(_PREFIX + "add_eos_token", kind == "t5")),
        charsmap=charsmap,
        chat_template=_chat_templates(metadata),
    )


def _read_vocabulary(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    tokens = metadata.get(_PREFIX + "tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}tokens must be a non-empty list of strings")
    types = metadata.get(_PREFIX + "token_type")
    if types is None:
        types = [NORMAL] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        count = len(types) if isinstance(types, list) else type(types).__name__
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}token_type must have {len(tokens)} entries like tokens, got {count}")
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}tokens holds {twice!r} twice")
    return tokens, types


def _byte_level_bpe(metadata: Mapping[str, Any], tokens: list[str]) -> tuple[dict[str, Any], bool]:
    name = metadata.get(_PREFIX + "pre", "default")
    if _PREFIX + "pre" not in metadata and metadata.get("general.architecture") not in _SPLITS_AS_GPT2:
        raise TokenizerError(
            f"{_SOURCE}: {_PREFIX}pre is missing, so the file does not say how text is split before it is tokenized; "
            "convert the model again with a current converter"
        )
    pre = PRE_TOKENIZERS.get(name) if isinstance(name, str) else None
    if pre is None:
        raise TokenizerError(
            f"{_SOURCE}: {_PREFIX}pre {name!r} is not supported; supported: {', '.join(sorted(PRE_TOKENIZERS))}"
        )
    vocab = {token: i for i, token in enumerate(tokens)}
    model = bpe_model(vocab, _read_merges(metadata, vocab), ignore_merges=pre.ignore_merges)
    return byte_level_json(model, pre.steps, nfc=pre.nfc), pre.adds_bos


def _read_merges(metadata: Mapping[str, Any], vocab: Mapping[str, int]) -> list[str]:
    rows = metadata.get(_PREFIX + "merges")
    if not isinstance(rows, list):
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}merges is missing: byte-level BPE needs it")
    for i, row in enumerate(rows):
        left, _, right = row.partition(" ") if isinstance(row, str) else ("", "", "")
        if left and right and left in vocab and right in vocab and left + right in vocab:
            continue
        if not left or not right:
            raise TokenizerError(
                f"{_SOURCE}: {_PREFIX}merges[{i}] must be two pieces with a space between, got {row!r}"
            )
        unknown = next(piece for piece in (left, right, left + right) if piece not in vocab)
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}merges[{i}] uses {unknown!r}, which is not in the vocabulary")
    return rows


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int], algorithm: int
) -> SentencePieceModel:
    scores = metadata.get(_PREFIX + "scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        count = len(scores) if isinstance(scores, list) else "nothing"
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}scores must have {len(tokens)} entries like tokens, got {count}")
    if not all(isinstance(score, int | float) for score in scores):
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}scores must be numbers")
    charsmap = metadata.get(_PREFIX + "precompiled_charsmap", b"")
    if not isinstance(charsmap, list | bytes) or not all(isinstance(value, int) for value in charsmap):
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}precompiled_charsmap must be an array of bytes")
    unknown = types.index(UNKNOWN) if UNKNOWN in types else 0
    if _token_at(metadata, "unknown_token_id", tokens) is not None:
        unknown = metadata[_PREFIX + "unknown_token_id"]
    # Exactly one piece is the unknown one; others of that type (paddings of the vocabulary) are control tokens.
    kinds = [CONTROL if kind == UNKNOWN else kind for kind in types]
    kinds[unknown] = UNKNOWN
    model = SentencePieceModel(
        source=_SOURCE,
        pieces=tokens,
        scores=scores,
        types=kinds,
        algorithm=algorithm,
        byte_fallback=BYTE in types,
        charsmap=bytes(value & 0xFF for value in charsmap),
        add_dummy_prefix=bool(metadata.get(_PREFIX + "add_space_prefix", True)),
        remove_extra_whitespaces=bool(metadata.get(_PREFIX + "remove_extra_whitespaces", False)),
    )
    model.check()
    return model


def _token_at(metadata: Mapping[str, Any], key: str, tokens: list[str]) -> str | None:
    """The token that an id key names; None when the key is absent or holds -1, signed or not."""
    token_id = metadata.get(_PREFIX + key)
    if token_id is None or token_id in (-1, _NO_TOKEN):
        return None
    if not isinstance(token_id, int) or not 0 <= token_id < len(tokens):
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}{key} must be in [0, {len(tokens) - 1}], got {token_id}")
    return tokens[token_id]


def _further_tokens(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, str]:
    """Tokens that chat templates may name. Nothing else reads them, so that ids outside the vocabulary are left out."""
    keys = {
        "unk_token": "unknown_token_id",
        "sep_token": "seperator_token_id",  # GGUF's spelling
        "pad_token": "padding_token_id",
        "cls_token": "cls_token_id",
        "mask_token": "mask_token_id",
    }
    ids = {name: metadata.get(_PREFIX + key) for name, key in keys.items()}
    return {name: tokens[i] for name, i in ids.items() if isinstance(i, int) and 0 <= i < len(tokens)}


def _added_tokens(tokens: list[str], types: list[int], named: list[str | None]) -> list[dict[str, Any]]:
    """Control and unknown tokens (special), user-defined ones (ordinary text that stays whole), and the named ones."""
    special = {CONTROL, UNKNOWN}
    return [
        added_token(i, token, special=types[i] in special or token in named)
        for i, token in enumerate(tokens)
        if token and (types[i] in special or types[i] == USER_DEFINED or token in named)
    ]


def _chat_templates(metadata: Mapping[str, Any]) -> str | dict[str, str] | None:
    prefix = "tokenizer.chat_template."
    named = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    default = metadata.get("tokenizer.chat_template")
    if not named:
        return default
    return {"default": default, **named} if default is not None else named
