"""A SentencePiece model as tokenizer.json content whose ids equal SentencePiece's own.

Owns the translation of scores to merges, of the rules for spaces to normalizer steps, and of piece types to added
tokens. Called by tokenizer_directory.py (tokenizer.model) and gguf_tokenizer.py (`llama` and `t5` vocabularies).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pagoda.byte_level_bpe import bpe_model
from pagoda.sentencepiece_model import BPE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, SentencePieceModel
from pagoda.tokenizer_spec import added_token, is_control_spelling

_MARK = "\u2581"  # stands for a space in pieces

PrefixRule = Literal["sentencepiece", "first", "always"]


def sentencepiece_json(
    model: SentencePieceModel, prefix: PrefixRule = "sentencepiece", raw_user_tokens: bool = False
) -> dict[str, Any]:
    """tokenizer.json content of a checked model.

    `prefix`: where the dummy prefix goes. "sentencepiece": before every text (and, with control tokens parsed, before
    each text between them). "always": before each of these that does not begin with a space, as transformers saves it
    now. "first": only before a text that does not begin with a space or a control token, as transformers does for
    `legacy: false`. `raw_user_tokens`: user-defined pieces are looked for in the text as it is
    given, as GGUF files need it; otherwise in the normalised text, as SentencePiece does.
    """
    raw = raw_user_tokens or prefix != "sentencepiece"
    steps, pre_tokenizers = _space_steps(model, prefix, raw)
    if model.algorithm == BPE:
        engine = _bpe(model)
    else:
        engine = _unigram(model)
        if model.byte_fallback:
            # Text such as "<0x41>" must not match the piece that stands for a byte: no word holds all of it.
            split = {"type": "Split", "behavior": "Isolated", "invert": False}
            pre_tokenizers.append({**split, "pattern": {"Regex": "<(?=0x[0-9A-F]{2}>)"}})
    return {
        "version": "1.0",
        "added_tokens": _added_tokens(model, raw),
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers} if pre_tokenizers else None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(model)},
        "model": engine,
    }


def score_merges(model: SentencePieceModel) -> list[list[str]]:
    """BPE merges equivalent to SentencePiece's rule "join the neighbours whose union has the highest score".

    Every split of a piece into two pieces is a merge; a higher score comes first. Among equal scores SentencePiece
    takes the leftmost pair, so a piece at the left goes on growing: longer unions come first.
    """
    normal = {piece: i for i, (piece, kind) in enumerate(zip(model.pieces, model.types, strict=True)) if kind == NORMAL}
    ranked: list[tuple[float, int, int, int, str, str]] = []
    for piece, i in normal.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in normal and right in normal:
                ranked.append((-model.scores[i], -len(piece), i, -cut, left, right))
    ranked.sort()
    return [[left, right] for *_order, left, right in ranked]


def _bpe(model: SentencePieceModel) -> dict[str, Any]:
    vocab = {piece: i for i, piece in enumerate(model.pieces)}
    engine = bpe_model(vocab, score_merges(model))
    engine.update(unk_token=model.pieces[model.unknown_id()], fuse_unk=True, byte_fallback=model.byte_fallback)
    return engine


def _unigram(model: SentencePieceModel) -> dict[str, Any]:
    rows = zip(model.pieces, model.scores, model.types, strict=True)
    return {
        "type": "Unigram",
        "unk_id": model.unknown_id(),
        # Only the scores of ordinary pieces set the cost of an unknown character.
        "vocab": [[piece, score if kind == NORMAL else 0.0] for piece, score, kind in rows],
        "byte_fallback": model.byte_fallback,
    }


def _space_steps(
    model: SentencePieceModel, prefix: PrefixRule, raw: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Normalizer steps and pre-tokenizer steps that treat spaces as the model says."""
    mark = _MARK if model.escape_whitespaces else " "
    steps = []
    if model.remove_extra_whitespaces:
        steps += [_replace({"Regex": r"\A +"}, ""), _replace({"Regex": " {2,}"}, " ")]
    if model.add_dummy_prefix and prefix == "sentencepiece":
        steps.append(_prefix_step(model, mark, raw))
    if model.add_dummy_prefix and prefix != "sentencepiece":
        metaspace = {"type": "Metaspace", "replacement": _MARK, "prepend_scheme": prefix, "split": False}
        return steps, [metaspace]
    if model.escape_whitespaces:
        steps.append(_replace({"String": " "}, _MARK))
    if model.remove_extra_whitespaces:
        # The look-behind keeps a long run of marks that is not at the end from being tried from each of its marks.
        steps.append(_replace({"Regex": rf"(?<!{mark}){mark}+\z"}, ""))
    return steps, []


def _prefix_step(model: SentencePieceModel, mark: str, raw: bool) -> dict[str, Any]:
    user = [piece for piece, kind in zip(model.pieces, model.types, strict=True) if kind == USER_DEFINED]
    if raw or not user:
        return {"type": "Prepend", "prepend": mark}
    # The library normalises the pieces that it looks for, too; those must not get the prefix. Hence the one text that
    # goes without it: one that is nothing but such a piece.
    pieces = "|".join(map(re.escape, user))
    return _replace({"Regex": rf"\A(?!(?:{pieces})\z)(?=[\s\S])"}, mark)


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _decoders(model: SentencePieceModel) -> list[dict[str, Any]]:
    decoders: list[dict[str, Any]] = [_replace({"String": _MARK}, " ")] if model.escape_whitespaces else []
    decoders += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if model.add_dummy_prefix or model.remove_extra_whitespaces:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return decoders


def _added_tokens(model: SentencePieceModel, raw: bool) -> list[dict[str, Any]]:
    """Control and unknown pieces (special) and user-defined ones (ordinary text that stays whole).

    Unused pieces of a Unigram vocabulary count as control tokens: that keeps text from matching them.
    """
    special = {CONTROL, UNKNOWN} if model.algorithm == BPE else {CONTROL, UNKNOWN, UNUSED}
    tokens = []
    for i, (piece, kind) in enumerate(zip(model.pieces, model.types, strict=True)):
        if kind in special or (kind == USER_DEFINED and is_control_spelling(piece)):
            tokens.append(added_token(i, piece, special=True))
        elif kind == USER_DEFINED:
            tokens.append({**added_token(i, piece, special=False), "normalized": not raw})
    return tokens
