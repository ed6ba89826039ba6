"""A directory's tokenizer as GGUF metadata, the reverse of gguf_tokenizer.py.

Owns which kind of GGUF vocabulary a tokenizer is, and the check that what was written encodes texts to the same ids.
Called by conversion.py.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagoda.gguf_tokenizer import SPACE_PREFIX, USER_TOKENS, read_gguf_metadata
from pagoda.pre_tokenizers import PRE_TOKENIZERS
from pagoda.sentencepiece_model import BPE, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, SentencePieceModel
from pagoda.sentencepiece_tokenizer import score_merges
from pagoda.tokenizer import Tokenizer
from pagoda.tokenizer_directory import read_directory
from pagoda.tokenizer_spec import TokenizerError, TokenizerSpec

GgufEntry = tuple[str, str, Any]  # key, type ("u32", "[string]", ...), value

_PREFIX = "tokenizer.ggml."
_HINT = "; --no-tokenizer converts the weights alone"
_BYTE_PIECES = {f"<0x{byte:02X}>" for byte in range(256)}
_SAMPLED_PIECES = 2000
_PROBES = (
    "",
    " ",
    "   a  b   c ",
    "Hello, world! Don't stop; it's 1234567 times 3.14159 (or so) ...",
    "\tdef f(x):\r\n        return x**2  # \u00fc\n\n\n",
    "caf\u00e9 cafe\u0301 \ufb01 \u212b \u00bd \uff21\uff22 \u2167 na\u00efve \u00a0nbsp\u3000wide",
    "\u65e5\u672c\u8a9e\u3068\u4e2d\u6587\uff0c\ud55c\uad6d\uc5b4 \u0440\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea \u0e44\u0e17\u0e22",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \x00\x01\x7f \u200b\ufeff<0x41>",
    "CamelCase snake_case HTTPServer v1.2.3-rc1 https://example.org/?q=1&r=%20 'quoted' \"double\" `back`",
    "\u2581\u2581underlined \u2581start <s> </s> <unk> <|im_start|> [INST]",
)
# tokenizer.ggml's keys of the tokens that templates and engines name
_NAMED = {
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # GGUF's spelling
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}


@dataclass(slots=True)
class _Vocabulary:
    """Tokens in the order of their ids, with the types of SentencePiece and GGUF."""

    tokens: list[str]
    types: list[int]


def gguf_tokenizer_entries(directory: Path, model_vocab_size: int) -> tuple[list[GgufEntry], list[str]]:
    """Metadata of the tokenizer and chat templates in `directory`, and sentences about what they cannot say.

    The vocabulary is filled up to `model_vocab_size` tokens (0: not known). Raises TokenizerError when it has more, and
    when GGUF cannot express the tokenizer: it names the reason, or the first text that would get other ids.
    """
    try:
        spec = read_directory(directory)
        tokenizer = Tokenizer(spec)
        if model_vocab_size:
            tokenizer.check_vocab_size(model_vocab_size)
    except TokenizerError as error:
        raise TokenizerError(f"{error}{_HINT}") from error
    vocabulary = _vocabulary(spec, tokenizer, model_vocab_size)
    probes = [*_PROBES, *_pieces_as_text(tokenizer)]
    kinds: Iterable[list[GgufEntry]]
    kind = spec.json["model"].get("type")
    if kind == "BPE" and _is_byte_level(spec.json):
        kinds = _byte_level(spec, vocabulary)
    elif kind == "BPE":
        kinds = _sentencepiece(spec, vocabulary, _bpe_scores(spec, vocabulary), "llama")
    elif kind == "Unigram":
        kinds = _sentencepiece(spec, vocabulary, _unigram_scores(spec, vocabulary), "t5")
    else:
        raise _refusal(spec, f"GGUF has no vocabulary for models of type {kind}")
    common = _common(spec, tokenizer, vocabulary)
    last_fault = ""
    for own in kinds:
        entries = [*own, *common]
        written = Tokenizer(read_gguf_metadata({key: value for key, _type, value in entries}))
        fault = _first_difference(tokenizer, written, probes)
        if fault is None:
            return entries, _notes(spec, tokenizer, written, entries)
        last_fault = fault
    raise _refusal(spec, f"GGUF's form of it would encode the text {last_fault} to other tokens")


def _refusal(spec: TokenizerSpec, reason: str) -> TokenizerError:
    return TokenizerError(f"{spec.source}: the tokenizer cannot be written into a GGUF file: {reason}{_HINT}")


def _vocabulary(spec: TokenizerSpec, tokenizer: Tokenizer, model_vocab_size: int) -> _Vocabulary:
    added = {entry["content"]: bool(entry["special"]) for entry in spec.json.get("added_tokens") or []}
    unknown = _unknown_token(spec)
    has_bytes = bool(spec.json["model"].get("byte_fallback"))
    result = _Vocabulary([], [])
    pieces = [tokenizer.token_piece(i) for i in range(max(tokenizer.vocab_size, model_vocab_size))]
    taken = set(pieces)
    for i, piece in enumerate(pieces):
        if piece is None:
            piece = next(name for name in _padding_names(i) if name not in taken)
            kind = UNUSED
        elif piece == unknown:
            kind = UNKNOWN
        elif piece in added:
            kind = CONTROL if added[piece] else USER_DEFINED
        else:
            kind = BYTE if has_bytes and piece in _BYTE_PIECES else NORMAL
        taken.add(piece)
        result.tokens.append(piece)
        result.types.append(kind)
    return result


def _padding_names(i: int) -> Iterator[str]:
    yield f"[PAD{i}]"
    while True:
        i += 1
        yield f"[PAD{i}-]"


def _unknown_token(spec: TokenizerSpec) -> str | None:
    model = spec.json["model"]
    if isinstance(model.get("unk_id"), int):
        return str(model["vocab"][model["unk_id"]][0])
    unknown = model.get("unk_token")
    return unknown if isinstance(unknown, str) else None


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return any(step.get("type") == "ByteLevel" for step in _steps(content.get("pre_tokenizer"), "pretokenizers"))


def _steps(node: Any, key: str) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer or normalizer, with nested sequences laid flat."""
    if not isinstance(node, dict):
        return []
    if node.get("type") != "Sequence":
        return [node]
    return [step for child in node.get(key) or [] for step in _steps(child, key)]


def _plain_step(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step with its defaults, and without what does not change where text is split."""
    plain = {key: value for key, value in step.items() if key != "trim_offsets"}
    if plain["type"] == "ByteLevel":
        plain = {"add_prefix_space": True, "use_regex": True, **plain}
    if plain["type"] == "Split":
        # The patterns match every character, so that to keep the matches is to isolate them.
        if (plain.get("behavior"), plain.get("invert")) == ("Removed", True):
            plain.update(behavior="Isolated", invert=False)
        plain = {"invert": False, **plain}
    return plain


def _byte_level(spec: TokenizerSpec, vocabulary: _Vocabulary) -> Iterator[list[GgufEntry]]:
    model = spec.json["model"]
    normalizers = _steps(spec.json.get("normalizer"), "normalizers")
    nfc = [step["type"] for step in normalizers] == ["NFC"]
    if normalizers and not nfc:
        raise _refusal(spec, f"its normalizer {normalizers[0]['type']} is not among those that GGUF knows")
    steps = [_plain_step(step) for step in _steps(spec.json["pre_tokenizer"], "pretokenizers")]
    names = [
        name
        for name, row in PRE_TOKENIZERS.items()
        if name != "default" and [_plain_step(step) for step in row.steps] == steps and row.nfc == nfc
    ]
    same = [name for name in names if PRE_TOKENIZERS[name].ignore_merges == bool(model.get("ignore_merges"))]
    if not names:
        raise _refusal(spec, "the way in which it splits text into words has no name in GGUF (tokenizer.ggml.pre)")
    for name in same[:1] or names[:1]:
        yield [
            (_PREFIX + "model", "string", "gpt2"),
            (_PREFIX + "pre", "string", name),
            *_token_entries(vocabulary),
            (_PREFIX + "merges", "[string]", [_joined(merge) for merge in model["merges"]]),
        ]


def _sentencepiece(
    spec: TokenizerSpec, vocabulary: _Vocabulary, scores: list[float], kind: str
) -> Iterator[list[GgufEntry]]:
    """Candidates for the rules about spaces: the tokenizer's own in GGUF's words, then with keys of ours."""
    charsmap = spec.charsmap or _charsmap(spec)
    rule, squeezes = _prefix_rule(spec), _squeezes(spec)
    added = spec.json.get("added_tokens") or []
    normalized = any(entry["normalized"] and not entry["special"] for entry in added)
    standard = "none" if rule == "none" else "sentencepiece"
    candidates = [(standard, squeezes, False), (rule, squeezes, normalized), (rule, not squeezes, normalized)]
    for prefix, squeeze, in_normalized in dict.fromkeys(candidates):
        entries: list[GgufEntry] = [
            (_PREFIX + "model", "string", kind),
            (_PREFIX + "pre", "string", "default"),
            *_token_entries(vocabulary),
            (_PREFIX + "scores", "[f32]", scores),
            (_PREFIX + "add_space_prefix", "bool", prefix != "none"),
            (_PREFIX + "remove_extra_whitespaces", "bool", squeeze),
        ]
        if charsmap:
            entries.append((_PREFIX + "precompiled_charsmap", "[u8]", list(charsmap)))
        if prefix in ("first", "always"):
            entries.append((SPACE_PREFIX, "string", prefix))
        if in_normalized:
            entries.append((USER_TOKENS, "string", "normalized"))
        yield entries


def _token_entries(vocabulary: _Vocabulary) -> list[GgufEntry]:
    return [
        (_PREFIX + "tokens", "[string]", vocabulary.tokens),
        (_PREFIX + "token_type", "[i32]", vocabulary.types),
    ]


def _joined(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _bpe_scores(spec: TokenizerSpec, vocabulary: _Vocabulary) -> list[float]:
    """Scores whose order is that of the merges. Pieces that no merge makes become unused: scores would make them."""
    merges = [
        tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in spec.json["model"]["merges"]
    ]
    groups = _groups(merges)
    rank = {union: i for i, (union, _splits) in enumerate(groups)}
    normal = {piece for piece, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == NORMAL}
    scores = []
    for i, piece in enumerate(vocabulary.tokens):
        kind = vocabulary.types[i]
        scores.append(-float(rank.get(piece, len(groups) + i)) if kind == NORMAL else 0.0)
        splittable = any(piece[:cut] in normal and piece[cut:] in normal for cut in range(1, len(piece)))
        if kind == NORMAL and piece not in rank and splittable:
            vocabulary.types[i] = UNUSED
    model = SentencePieceModel(spec.source, vocabulary.tokens, scores, vocabulary.types, BPE)
    if _groups([tuple(merge) for merge in score_merges(model)]) != groups:
        raise _refusal(spec, "its merges are not those of a SentencePiece vocabulary, where each piece has one score")
    return scores


def _groups(merges: Iterable[tuple[str, ...]]) -> list[tuple[str, frozenset[tuple[str, ...]]]]:
    """Merges that make the same piece one after another, taken together."""
    groups: list[tuple[str, set[tuple[str, ...]]]] = []
    for merge in merges:
        union = "".join(merge)
        if not groups or groups[-1][0] != union:
            groups.append((union, set()))
        groups[-1][1].add(merge)
    return [(union, frozenset(splits)) for union, splits in groups]


def _unigram_scores(spec: TokenizerSpec, vocabulary: _Vocabulary) -> list[float]:
    scores = [float(score) for _piece, score in spec.json["model"]["vocab"]]
    return scores + [0.0] * (len(vocabulary.tokens) - len(scores))


def _charsmap(spec: TokenizerSpec) -> bytes:
    for step in _steps(spec.json.get("normalizer"), "normalizers"):
        if step["type"] == "Precompiled" and step.get("precompiled_charsmap"):
            return base64.b64decode(step["precompiled_charsmap"])
    return b""


def _prefix_rule(spec: TokenizerSpec) -> str:
    """Where a space goes before a text: as sentencepiece_tokenizer.py calls it, or "none"."""
    normalizers = _steps(spec.json.get("normalizer"), "normalizers")
    for step in [*normalizers, *_steps(spec.json.get("pre_tokenizer"), "pretokenizers")]:
        pattern = step.get("pattern")
        if step["type"] == "Prepend" or (isinstance(pattern, dict) and str(pattern.get("Regex")).startswith("\\A(?!")):
            return "sentencepiece"
        if step["type"] == "Metaspace" and step.get("add_prefix_space", True):
            scheme = step.get("prepend_scheme", "always")
            return {"first": "first", "never": "none"}.get(scheme, "always")
    return "none"


def _squeezes(spec: TokenizerSpec) -> bool:
    steps = _steps(spec.json.get("normalizer"), "normalizers")
    return any(step["type"] == "Replace" and step.get("pattern") == {"Regex": " {2,}"} for step in steps)


def _common(spec: TokenizerSpec, tokenizer: Tokenizer, vocabulary: _Vocabulary) -> list[GgufEntry]:
    """Named tokens, what goes around a text, chat templates."""
    entries: list[GgufEntry] = []
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids |= {
        key: tokenizer.token_id(spec.further_tokens[name])
        for name, key in _NAMED.items()
        if name in spec.further_tokens
    }
    if UNKNOWN in vocabulary.types:
        ids["unknown_token_id"] = vocabulary.types.index(UNKNOWN)
    entries += [(_PREFIX + key, "u32", token_id) for key, token_id in ids.items() if token_id is not None]
    around = tokenizer.encode("")
    begins, ends = [tokenizer.bos_token_id] * tokenizer.adds_bos, around[int(tokenizer.adds_bos) :]
    if around[: len(begins)] != begins or ends not in ([], [tokenizer.eos_token_id]):
        raise _refusal(spec, f"it puts the tokens {around} around a text, and GGUF knows only bos and eos")
    entries.append((_PREFIX + "add_bos_token", "bool", tokenizer.adds_bos))
    entries.append((_PREFIX + "add_eos_token", "bool", bool(ends)))
    return [*entries, *_template_entries(spec.chat_template)]


def _template_entries(templates: str | dict[str, str] | None) -> list[GgufEntry]:
    if templates is None:
        return []
    named = {"default": templates} if isinstance(templates, str) else templates
    entries: list[GgufEntry] = [
        ("tokenizer.chat_template" if name == "default" else f"tokenizer.chat_template.{name}", "string", source)
        for name, source in named.items()
    ]
    others = [name for name in named if name != "default"]
    return [*entries, ("tokenizer.chat_templates", "[string]", others)] if others else entries


def _pieces_as_text(tokenizer: Tokenizer) -> Iterator[str]:
    """Texts made of tokens spread over the vocabulary."""
    step = max(1, tokenizer.vocab_size // _SAMPLED_PIECES)
    ids = [i for i in range(0, tokenizer.vocab_size, step) if not tokenizer.is_special(i)]
    for begin in range(0, len(ids), 100):
        yield "".join(tokenizer.token_text(i) for i in ids[begin : begin + 100]).replace("\ufffd", "")


def _first_difference(tokenizer: Tokenizer, written: Tokenizer, probes: Iterable[str]) -> str | None:
    """The first text that the two encode otherwise, shortened."""
    return _differs(probes, tokenizer.encode, written.encode)


def _differs(
    probes: Iterable[str], encode: Callable[[str], list[int]], written: Callable[[str], list[int]]
) -> str | None:
    for text in probes:
        if encode(text) != written(text):
            return repr(text if len(text) < 60 else text[:60] + "...")
    return None


def _notes(spec: TokenizerSpec, tokenizer: Tokenizer, written: Tokenizer, entries: list[GgufEntry]) -> list[str]:
    """What other programs will not read, and what GGUF cannot say of added tokens."""
    notes = []
    own = [key for key, _type, _value in entries if key in (SPACE_PREFIX, USER_TOKENS)]
    if own:
        notes.append(f"a rule about spaces is in {' and '.join(own)}, which only Pagoda reads")
    tokens = [entry["content"] for entry in spec.json.get("added_tokens") or []]
    texts = [text for token in tokens[:200] for text in (f"a{token}b", f"a {token} b", f"{token}\nb")]

    def encode(one: Tokenizer) -> Callable[[str], list[int]]:
        return lambda text: one.encode(text, parse_special=True)

    fault = _differs(texts, encode(tokenizer), encode(written))
    if fault is not None:
        notes.append(f"GGUF cannot say how spaces beside added tokens are treated: {fault} is encoded otherwise")
    return notes
