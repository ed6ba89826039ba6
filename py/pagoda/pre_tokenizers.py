"""How byte-level BPE vocabularies split text into words: one row per name that `tokenizer.ggml.pre` may have.

Owns the patterns (Oniguruma syntax). They are those that the model families publish in their tokenizer.json; the names
are llama.cpp's. Called by gguf_tokenizer.py and tiktoken_file.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pagoda.byte_level_bpe import byte_level, splits

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+"
_CJK = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
_EAST_ASIAN = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+"
_ASCII_MARK = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
# Letters as DeepSeek's first tokenizer lists them: the scripts with case.
_CASED = (
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}"
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}"
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}"
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}"
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}"
    r"\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}"
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}"
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}"
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}"
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}"
    r"\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}"
    r"\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}"
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
)


def _letters(digits: str, contractions: str = _CONTRACTIONS + "|") -> str:
    """Llama 3's and Qwen2's split; they differ in how many digits stay together."""
    return rf"{contractions}[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{_PUNCTUATION}[\r\n]*|{_SPACES}"


def _cased_words(digits: str, suffix: str) -> str:
    """Splits before an upper-case letter that follows a lower-case one (tekken, o200k)."""
    head = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{head}{_UPPER}*{_LOWER}+{suffix}|{head}{_UPPER}+{_LOWER}*{suffix}|{digits}|{_PUNCTUATION}[\r\n/]*|{_SPACES}"
    )


LLAMA3 = _letters(r"\p{N}{1,3}")
O200K = _cased_words(r"\p{N}{1,3}", _CONTRACTIONS + "?")
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++\z|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)
_QWEN2 = _letters(r"\p{N}")
_DEEPSEEK3 = rf"{_ASCII_MARK}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One row. `steps` as in tokenizer.json's `pretokenizers`."""

    steps: list[dict[str, Any]]
    nfc: bool = False  # text is brought into Unicode normal form C first
    ignore_merges: bool = False
    adds_bos: bool = False  # where the file does not say


_GPT2 = PreTokenizer([byte_level(use_regex=True)])
_DIGITS = PreTokenizer([{"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)])
_LLAMA3 = PreTokenizer(splits(LLAMA3), ignore_merges=True, adds_bos=True)
_CL100K = PreTokenizer(splits(LLAMA3))
_QWEN = PreTokenizer(splits(_QWEN2))
_GPT4O = PreTokenizer(splits(O200K))
_DEEPSEEK_V3 = PreTokenizer(splits(r"\p{N}{1,3}", _CJK, _DEEPSEEK3))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **dict.fromkeys(("default", "gpt-2", "phi-2", "jais", "trillion", "granite-docling", "exaone4", "mellum"), _GPT2),
    **dict.fromkeys(("gigachat", "a.x-4.0", "modern-bert"), _GPT2),
    **dict.fromkeys(("olmo", "mpt"), replace(_GPT2, nfc=True)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    "command-r": replace(_DIGITS, nfc=True),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral"), _LLAMA3),
    **dict.fromkeys(("midm-2.0", "lfm2"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _CL100K),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "kormo"), replace(_QWEN, nfc=True)),
    **dict.fromkeys(("stablelm2", "hunyuan", "grok-2", "solar-open"), _QWEN),
    "qwen35": PreTokenizer(
        splits(
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|"
            + _SPACES
        ),
        nfc=True,
    ),
    "seed-coder": PreTokenizer(
        splits(rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|" + _SPACES)
    ),
    "tekken": PreTokenizer(splits(_cased_words(r"\p{N}", "")), ignore_merges=True, adds_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), _GPT4O),
    "deepseek-llm": PreTokenizer(
        splits(
            r"[\r\n]",
            rf"\s?[{_CASED}]+",
            r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            r"(?<!\s)\s++$",  # the published `\s+$`, without trying a long run from each of its spaces
            _EAST_ASIAN,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer(splits(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}")),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), _DEEPSEEK_V3),
}
