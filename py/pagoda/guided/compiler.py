"""GrammarCompiler: from a grammar to matchers over the model's vocabulary, with limits and a cache.

Owns llguidance's view of the tokenizer, the process that tries grammars first, and the least recently used cache of
what was compiled. Used by guide.py. Thread-safe; compiling blocks its thread, so it never runs on an event loop.
"""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pagoda.config import InvalidArgument
from pagoda.guided import grammar_worker
from pagoda.guided.grammar import Grammar, limits
from pagoda.guided.vocabulary import Vocabulary
from pagoda.tokenizer import Tokenizer
from pagoda.worker_process import WorkerFailure, WorkerProcess

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

CPU_BUDGET_S = 1.0  # of the trial, on the processor; what passes is compiled once more
_WAIT_S = 20.0  # for the trial, on a machine that has other things to do
_MEMORY_BYTES = 2 << 30  # address space of the process that tries
_MAX_CACHED = 128
_MAX_CACHED_CHARS = 8 << 20  # of the grammars' texts
_MAX_ERROR_CHARS = 300


class GrammarCompiler:
    """Compiles for one model: `vocab_size` rows of logits, of which `eos_tokens` end an output."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_tokens: Sequence[int], max_cached: int = _MAX_CACHED):
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_tokens = sorted({*eos_tokens, *tokenizer.eos_token_ids})
        self._max_cached = max_cached
        self.num_compiled = 0  # grammars that were not in the cache
        self._lock = threading.Lock()  # around the cache
        self._compiling = threading.Lock()
        # What was compiled, or what is wrong with it.
        self._cache: OrderedDict[Grammar, LLMatcher | str] = OrderedDict()
        self._vocabulary: LLTokenizer | None = None
        cost = f"it needs more than {CPU_BUDGET_S:g} s or {_MEMORY_BYTES >> 30} GiB to compile"
        self._trial = WorkerProcess(
            grammar_worker.__file__,
            {"memory_bytes": _MEMORY_BYTES, "cpu_seconds": CPU_BUDGET_S},
            _WAIT_S,
            late=cost,
            dead=cost,
        )

    def matcher(self, grammar: Grammar) -> LLMatcher:
        """A matcher at the grammar's start, the caller's own. Raises InvalidArgument with the compiler's complaint."""
        found = self._find(grammar)
        if found is None:
            with self._compiling:  # what many ask for at once is compiled once
                found = self._find(grammar)
                if found is None:
                    found = self._compile(grammar)
                    self._keep(grammar, found)
        if isinstance(found, str):
            raise InvalidArgument(f"{grammar.kind} cannot be used: {found}")
        return found.deep_copy()

    def knows(self, grammar: Grammar) -> bool:
        """Whether `matcher` would answer at once."""
        return self._find(grammar) is not None

    def refuse(self, grammar: Grammar, why: str) -> None:
        """From now on `matcher` raises: using the grammar has shown that it costs too much."""
        self._keep(grammar, why)

    def close(self) -> None:
        """Ends the process that tries grammars."""
        self._trial.close()

    def _find(self, grammar: Grammar) -> LLMatcher | str | None:
        with self._lock:
            if grammar in self._cache:
                self._cache.move_to_end(grammar)
            return self._cache.get(grammar)

    def _keep(self, grammar: Grammar, result: LLMatcher | str) -> None:
        with self._lock:
            self._cache[grammar] = result
            self._cache.move_to_end(grammar)
            num_chars = sum(len(cached.text) for cached in self._cache)
            while len(self._cache) > self._max_cached or (num_chars > _MAX_CACHED_CHARS and len(self._cache) > 1):
                oldest, _ = self._cache.popitem(last=False)
                num_chars -= len(oldest.text)

    def _compile(self, grammar: Grammar) -> LLMatcher | str:
        from llguidance import LLMatcher

        self.num_compiled += 1
        try:
            self._trial.ask({"kind": grammar.kind, "text": grammar.text})
        except WorkerFailure as failure:
            return _short(str(failure))
        matcher = LLMatcher(self._tokens(), grammar.source(), log_level=0, limits=limits())
        if matcher.is_error():
            return _short(matcher.get_error())
        first = matcher.deep_copy()
        words = (ctypes.c_uint32 * ((self._vocab_size + 31) // 32))()
        first.unsafe_compute_mask_ptr(ctypes.addressof(words), ctypes.sizeof(words))
        if first.is_error():
            return _short(first.get_error())
        return matcher if any(words) else "no token of this model can begin it"

    def _tokens(self) -> LLTokenizer:
        """The vocabulary as llguidance sees it, about a second's work at the first use."""
        if self._vocabulary is None:
            if not self._eos_tokens:
                raise InvalidArgument("structured output needs an end-of-sequence token, and this model names none")
            from llguidance import LLTokenizer

            tokens = Vocabulary(self._tokenizer, self._vocab_size, self._eos_tokens)
            self._vocabulary = LLTokenizer(tokens, self._vocab_size, self._eos_tokens, _slices())  # type: ignore[arg-type]
        return self._vocabulary


def _slices() -> list[str]:
    """Parts of the vocabulary that llguidance allows as a whole where the grammar allows all of a part.

    Its own for the texts of JSON, and more lengths: near the end of a string with a maxLength, fewer tokens are tried
    alone.
    """
    text = r'[^"\\\x00-\x1F\x7F]'
    return [r"[\x20\x0A\x0D\x09]+", *(f"{text}{{1,{most}}}" for most in (2, 4, 6, 8, 10, 12, 16, 20, 30)), f"{text}+"]


def _short(error: str) -> str:
    """The compiler's first lines: they may quote a whole schema."""
    text = " ".join(error.replace("<non-verbose/>", "").split())
    return text if len(text) <= _MAX_ERROR_CHARS else text[: _MAX_ERROR_CHARS - 3] + "..."
