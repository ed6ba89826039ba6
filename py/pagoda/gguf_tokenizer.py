"""The tokenizer inside a GGUF file: `tokenizer.ggml.*` metadata becomes a TokenizerSpec.

Owns what each `tokenizer.ggml.model` and `tokenizer.ggml.pre` means. Called by tokenizer.py. The regular expressions
are those that the model families publish in their tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pagoda.tokenizer_spec import TokenizerError, TokenizerSpec, added_token

_SOURCE = "GGUF metadata"
_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # tokenizer.ggml.token_type
_MODELS = "gpt2 (byte-level BPE), llama (SentencePiece BPE)"


def _words(digits: str) -> str:
    """Llama 3's and Qwen2's split; they differ in how many digits stay together."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, _byte_level(use_regex=False)]


_GPT2 = [_byte_level(use_regex=True)]
_LLAMA3 = _split(_words(r"\p{N}{1,3}"))
_PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": [{"type": "Digits", "individual_digits": True}, *_GPT2],
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _split(_words(r"\p{N}")),
}
_ADDS_BOS_BY_DEFAULT = {"llama-bpe", "llama3"}


def read_gguf_metadata(metadata: Mapping[str, Any]) -> TokenizerSpec:
    """TokenizerSpec of GGUF key/values (arrays as lists). Raises TokenizerError naming the key that does not fit."""
    kind = metadata.get(_PREFIX + "model")
    if kind is None:
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}model is missing: the file carries no tokenizer")
    tokens, types = _read_vocabulary(metadata)
    if kind == "gpt2":
        content, bos_default = _byte_level_bpe(metadata, tokens)
    elif kind == "llama":
        content, bos_default = _sentencepiece_bpe(metadata, tokens, types)
    else:
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}model {kind!r} is not supported; supported: {_MODELS}")
    bos, eos = (_token_at(metadata, key, tokens) for key in ("bos_token_id", "eos_token_id"))
    extra = [_token_at(metadata, key, tokens) for key in ("eot_token_id", "eom_token_id")]
    content["added_tokens"] = _added_tokens(tokens, types, [bos, eos, *extra])
    return TokenizerSpec(
        json={"version": "1.0", "post_processor": None, **content},
        source=_SOURCE,
        bos_token=bos,
        eos_token=eos,
        extra_eos_tokens=[token for token in extra if token is not None],
        add_bos=bool(metadata.get(_PREFIX + "add_bos_token", bos_default)),
        chat_template=_chat_templates(metadata),
    )


def _read_vocabulary(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    tokens = metadata.get(_PREFIX + "tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}tokens must be a non-empty list of strings")
    types = metadata.get(_PREFIX + "token_type")
    if types is None:
        types = [_NORMAL] * len(tokens)
    if not isinstance(types, list) or len(types) != len(tokens):
        count = len(types) if isinstance(types, list) else type(types).__name__
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}token_type must have {len(tokens)} entries like tokens, got {count}")
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(token for token in tokens if token in seen or seen.add(token))  # type: ignore[func-returns-value]
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}tokens holds {twice!r} twice")
    return tokens, types


def _byte_level_bpe(metadata: Mapping[str, Any], tokens: list[str]) -> tuple[dict[str, Any], bool]:
    pre = metadata.get(_PREFIX + "pre", "default")
    if pre not in _PRE_TOKENIZERS:
        raise TokenizerError(
            f"{_SOURCE}: {_PREFIX}pre {pre!r} is not supported; supported: {', '.join(sorted(_PRE_TOKENIZERS))}"
        )
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = _read_merges(metadata, vocab)
    model = _bpe_model(vocab, merges, ignore_merges=pre in _ADDS_BOS_BY_DEFAULT)
    content = {
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _PRE_TOKENIZERS[pre]},
        "decoder": _byte_level(use_regex=True),
        "model": model,
    }
    return content, pre in _ADDS_BOS_BY_DEFAULT


def _read_merges(metadata: Mapping[str, Any], vocab: Mapping[str, int]) -> list[list[str]]:
    rows = metadata.get(_PREFIX + "merges")
    if not isinstance(rows, list):
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}merges is missing: byte-level BPE needs it")
    merges = []
    for i, row in enumerate(rows):
        left, space, right = row.partition(" ") if isinstance(row, str) else ("", "", "")
        if not left or not space or not right:
            raise TokenizerError(
                f"{_SOURCE}: {_PREFIX}merges[{i}] must be two pieces with a space between, got {row!r}"
            )
        unknown = next((piece for piece in (left, right, left + right) if piece not in vocab), None)
        if unknown is not None:
            raise TokenizerError(f"{_SOURCE}: {_PREFIX}merges[{i}] uses {unknown!r}, which is not in the vocabulary")
        merges.append([left, right])
    return merges


def _sentencepiece_bpe(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> tuple[dict[str, Any], bool]:
    scores = metadata.get(_PREFIX + "scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        count = len(scores) if isinstance(scores, list) else "nothing"
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}scores must have {len(tokens)} entries like tokens, got {count}")
    vocab = {token: i for i, token in enumerate(tokens)}
    model = _bpe_model(vocab, score_merges(tokens, types, scores), ignore_merges=False)
    unknown = metadata.get(_PREFIX + "unknown_token_id", next((i for i, t in enumerate(types) if t == _UNKNOWN), None))
    if unknown is not None:
        model["unk_token"] = _token_at({_PREFIX + "unknown_token_id": unknown}, "unknown_token_id", tokens)
    model["fuse_unk"] = True
    model["byte_fallback"] = _BYTE in types
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    restore = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    prefix = metadata.get(_PREFIX + "add_space_prefix", True)
    before = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    content = {
        "normalizer": {"type": "Sequence", "normalizers": [*before, replace]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [restore, {"type": "ByteFallback"}, {"type": "Fuse"}, *after]},
        "model": model,
    }
    return content, True


def score_merges(tokens: list[str], types: list[int], scores: list[float]) -> list[list[str]]:
    """BPE merges equivalent to SentencePiece's rule "join the neighbours whose union has the highest score".

    Every split of a normal token into two normal tokens is a merge; a higher score comes first. Equal scores keep the
    order of the vocabulary.
    """
    normal = {token: i for i, token in enumerate(tokens) if types[i] == _NORMAL}
    ranked: list[tuple[float, int, int, int, str, str]] = []
    for token, i in normal.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                ranked.append((-scores[i], i, normal[left], normal[right], left, right))
    ranked.sort()
    return [[left, right] for *_order, left, right in ranked]


def _bpe_model(vocab: dict[str, int], merges: list[list[str]], ignore_merges: bool) -> dict[str, Any]:
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


def _token_at(metadata: Mapping[str, Any], key: str, tokens: list[str]) -> str | None:
    """The token that an id key names; None when the key is absent."""
    token_id = metadata.get(_PREFIX + key)
    if token_id is None:
        return None
    if not isinstance(token_id, int) or not 0 <= token_id < len(tokens):
        raise TokenizerError(f"{_SOURCE}: {_PREFIX}{key} must be in [0, {len(tokens) - 1}], got {token_id}")
    return tokens[token_id]


def _added_tokens(tokens: list[str], types: list[int], named: list[str | None]) -> list[dict[str, Any]]:
    """Control and unknown tokens (special), user-defined ones (ordinary text that stays whole), and the named ones."""
    special = {_CONTROL, _UNKNOWN}
    return [
        added_token(i, token, special=types[i] in special or token in named)
        for i, token in enumerate(tokens)
        if token and (types[i] in special or types[i] == _USER_DEFINED or token in named)
    ]


def _chat_templates(metadata: Mapping[str, Any]) -> str | dict[str, str] | None:
    prefix = "tokenizer.chat_template."
    named = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    default = metadata.get("tokenizer.chat_template")
    if not named:
        return default
    return {"default": default, **named} if default is not None else named
