"""Which texts the grammars allow, and that a model's tokens spell just those, whatever kind of tokenizer it has."""

from __future__ import annotations

import ctypes
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from text_tokenizers import byte_level_gguf, sentencepiece_gguf, write_directory

from pagoda.config import InvalidArgument, SamplingParams
from pagoda.detokenizer import Detokenizer
from pagoda.guided.behind_reasoning import behind_reasoning
from pagoda.guided.compiler import GrammarCompiler
from pagoda.guided.grammar import Grammar, limits
from pagoda.guided.grammar_worker import ByteTokens
from pagoda.guided.vocabulary import Vocabulary
from pagoda.replies.tool_format import HERMES, LLAMA3, MISTRAL, PLAIN, ToolFormat
from pagoda.tokenizer import Tokenizer

BYTES = LLTokenizer(ByteTokens(), n_vocab=257)  # type: ignore[arg-type]
PADDING = 7  # rows of a model's embedding behind its tokenizer's last token


def allows(params: dict[str, Any], text: str) -> bool:
    """Whether the grammar of these parameters has this text, whole."""
    grammar = Grammar.of(SamplingParams(**params))
    assert grammar is not None
    matcher = LLMatcher(BYTES, grammar.source(), limits=limits())
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


PAIR = json.dumps(
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {}},
        "required": ["a"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ('{"a":1}', True),
        ('{"a": 1, "b": [null, {"c": 1.5e3}]}', True),
        ('{\n  "a": 1,\n  "b": "ä\\n"\n}', True),
        ('{"b": 1, "a": 1}', False),
        ('{"a": 1, "c": 1}', False),
        ('{"a": "1"}', False),
        ('{"a": 1', False),
        ('{                    "a": 1}', False),
        ('{\n\n"a": 1}', False),
    ],
)
def test_json_may_be_spaced_as_people_do(text: str, allowed: bool) -> None:
    assert allows({"guided_json": PAIR}, text) == allowed


@pytest.mark.parametrize(
    "text", ['say "x"', "a\nb", "back\\slash", "/slash/", "日本 👍", "<think>", "%json {}", "\u2028", "'"]
)
def test_a_choice_is_taken_literally(text: str) -> None:
    params = {"guided_choice": [text, "other"]}
    assert allows(params, text)
    assert not allows(params, text + "x")
    assert not allows(params, text[:-1])


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("a/b", "a/b", "a"),
        (r"\d{2}", "12", "1x"),
        ("a|bc", "bc", "ab"),
        ("[^/]+", "x", "/"),
        ("^ab$", "ab", "abc"),
        ("a\nb", "a\nb", "ab"),
    ],
)
def test_a_regex_is_matched_whole(pattern: str, good: str, bad: str) -> None:
    assert allows({"guided_regex": pattern}, good)
    assert not allows({"guided_regex": pattern}, bad)


@pytest.mark.parametrize(
    ("sampling", "form"),
    [
        ({"guided_json": PAIR}, '{"a": 1}'),
        ({"guided_regex": "[0-9]/[a-z]"}, "5/x"),
        ({"guided_choice": ["yes", 'n"o']}, 'n"o'),
        ({"guided_grammar": 'form: "(" form? ")"'}, "(())"),
    ],
)
def test_a_form_may_stand_behind_a_reasoning(sampling: dict[str, Any], form: str) -> None:
    free = behind_reasoning({**sampling, "max_tokens": 9}, is_open=False)
    opened = behind_reasoning(sampling, is_open=True)
    assert free is not None
    assert opened is not None
    assert free.pop("max_tokens") == 9
    assert allows(free, form)
    assert allows(free, f"<think>\nHm, {form} </thin\n</think>\n\n{form}")
    assert not allows(free, f"Hm. {form}")
    assert allows(opened, f"\nHm.</think>{form}")
    assert not allows(opened, form)
    assert not allows(opened, f"Hm.</think>\n\n\n{form}")


def test_what_cannot_stand_behind_a_reasoning_says_so() -> None:
    for sampling in ({}, {"guided_json": "{"}, {"guided_json": "[]"}, {"guided_grammar": "start: form\nform: /a/"}):
        assert behind_reasoning(sampling, is_open=True) is None


FUNCTIONS: list[dict[str, Any]] = [
    {"name": "look", "parameters": {"properties": {"n": {"$ref": "#/$defs/d"}}, "$defs": {"d": {"enum": [1, 2]}}}},
    {"name": "rest"},
]


@pytest.mark.parametrize(
    ("form", "one", "two"),
    [
        (HERMES, "<tool_call>\n{}\n</tool_call>", "<tool_call>\n{}\n</tool_call>\n<tool_call>\n{}\n</tool_call>"),
        (LLAMA3, "{}", "{}; {}"),
        (MISTRAL, "[{}]", "[{}, {}]"),
        (PLAIN, "[{}]", "[{}, {}]"),
    ],
)
def test_demanded_calls_are_in_the_models_format(form: ToolFormat, one: str, two: str) -> None:
    key = form.arguments_key
    look, rest = f'{{"name": "look", "{key}": {{"n": 2}}}}', f'{{"name": "rest", "{key}": {{}}}}'
    single = {"guided_grammar": form.grammar(FUNCTIONS, parallel=False)}
    many = {"guided_grammar": form.grammar(FUNCTIONS, parallel=True)}
    assert allows(single, one.replace("{}", look, 1))
    assert allows(single, one.replace("{}", rest, 1))
    assert allows(many, two.replace("{}", rest, 1)[::-1].replace("{}"[::-1], look[::-1], 1)[::-1])
    assert not allows(single, two.replace("{}", rest, 1)[::-1].replace("{}"[::-1], look[::-1], 1)[::-1])
    assert not allows(single, one.replace("{}", look.replace("2", "3"), 1))
    assert not allows(single, one.replace("{}", look.replace("look", "hear"), 1))
    assert not allows(many, "")


@pytest.fixture(params=["byte-level", "byte-level GGUF", "SentencePiece GGUF"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tokenizer]:
    """Each kind of vocabulary."""
    if request.param == "byte-level":
        yield Tokenizer.from_directory(write_directory(tmp_path))
    else:
        yield Tokenizer.from_gguf(byte_level_gguf() if request.param == "byte-level GGUF" else sentencepiece_gguf())


PATTERNS = ["[a-z]{3,9} the [0-9]{2}", "(the|stop|hello world| )+!", "[äöü日本👍]{2,5}", r'\{"a": "[^"\\\n]{0,12}"\}']


@pytest.mark.parametrize("pattern", PATTERNS)
def test_allowed_tokens_spell_what_the_grammar_says(tokenizer: Tokenizer, pattern: str) -> None:
    vocab_size = tokenizer.vocab_size + PADDING
    compiler = GrammarCompiler(tokenizer, vocab_size, [])
    words = (ctypes.c_uint32 * ((vocab_size + 31) // 32))()
    rng = random.Random(pattern)
    try:
        for _ in range(20):
            matcher, tokens = compiler.matcher(Grammar("guided_regex", pattern)), []
            while not matcher.is_stopped() and len(tokens) < 60:
                matcher.unsafe_compute_mask_ptr(ctypes.addressof(words), ctypes.sizeof(words))
                allowed = [token for token in range(vocab_size) if words[token // 32] >> (token % 32) & 1]
                assert max(allowed) < tokenizer.vocab_size
                control = [token for token in allowed if tokenizer.is_special(token)]
                assert set(control) <= set(tokenizer.eos_token_ids)
                tokens.append(rng.choice(allowed))
                assert matcher.consume_token(tokens[-1])
            if matcher.is_stopped():
                detokenizer = Detokenizer(tokenizer, strip_leading_space=False)
                assert re.fullmatch(pattern, detokenizer.push(tokens) + detokenizer.finish())
    finally:
        compiler.close()


@pytest.mark.parametrize("text", ["the stop", " the", "hello", "日本 tower", "x\n\ny  z", "<s></s>", "\x02", ""])
def test_a_text_is_tokenized_as_the_continuation_of_one(tokenizer: Tokenizer, text: str) -> None:
    vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size, tokenizer.eos_token_ids)
    for data in (text.encode(), text.encode()[1:]):
        ids = vocabulary(data)
        assert b"".join(vocabulary.tokens[token] for token in ids) == data
        assert not set(ids) & set(vocabulary.special_token_ids)


def test_the_cache_keeps_what_was_used_last_and_remembers_refusals() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_gguf())
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size, [], max_cached=3)
    good, bad = Grammar("guided_regex", "a"), Grammar("guided_regex", "(")
    try:
        compiler.matcher(good)
        for grammar in (bad, bad):
            with pytest.raises(InvalidArgument, match="unclosed group"):
                compiler.matcher(grammar)
        assert compiler.num_compiled == 2
        compiler.matcher(Grammar("guided_regex", "b"))
        compiler.matcher(good)
        compiler.matcher(Grammar("guided_regex", "c"))
        assert compiler.knows(good)
        assert not compiler.knows(bad)
        compiler.refuse(good, "it is slow")
        with pytest.raises(InvalidArgument, match="it is slow"):
            compiler.matcher(good)
    finally:
        compiler.close()


def test_a_model_without_an_end_says_so() -> None:
    content = byte_level_gguf()
    del content["tokenizer.ggml.eos_token_id"]
    tokenizer = Tokenizer.from_gguf(content)
    if tokenizer.eos_token_ids:
        pytest.fail(f"the vocabulary has the ends {tokenizer.eos_token_ids}")
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size, [])
    try:
        with pytest.raises(InvalidArgument, match="names none"):
            compiler.matcher(Grammar("guided_regex", "a"))
    finally:
        compiler.close()
