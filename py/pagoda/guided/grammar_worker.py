"""The process that tries grammars: it compiles one, takes a few steps in it, and says what is wrong.

A process, because a grammar is somebody else's program: a few lines can ask for hours and gigabytes. What passes here
within the budget is compiled again where it is used. Started by compiler.py; reads and writes the messages of
template_worker.py on its standard input, a socket. A grammar that needs more than the budget ends the process.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

VOCAB_SIZE = 257
STEPS = 16


class ByteTokens:
    """A vocabulary of all bytes and an end, in the shape that llguidance asks for."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([value]) for value in range(256)), b"<eos>")
    special_token_ids = (256,)
    is_tokenizer_wrapper = True

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def main() -> None:
    """Serves until the parent closes its end, which also happens when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which may still drain requests
    channel = socket.socket(fileno=0)
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from pagoda.template_worker import receive, send

    setup = receive(channel)
    sys.path[:] = setup["path"]
    from llguidance import LLTokenizer

    from pagoda.guided.grammar import Grammar

    tokenizer = LLTokenizer(ByteTokens(), n_vocab=VOCAB_SIZE)  # type: ignore[arg-type]
    resource.setrlimit(resource.RLIMIT_AS, (setup["memory_bytes"], setup["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    send(channel, {})
    while (request := receive(channel)) is not None:
        signal.setitimer(signal.ITIMER_PROF, setup["cpu_seconds"])  # its signal ends the process
        answer = check(tokenizer, Grammar(request["kind"], request["text"]))
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(channel, answer)


def check(tokenizer: Any, grammar: Any) -> dict[str, Any]:
    """{} for a grammar that can be used, else {"error": the compiler's text}."""
    from llguidance import LLMatcher

    from pagoda.guided.grammar import limits

    try:
        matcher = LLMatcher(tokenizer, grammar.source(), log_level=0, limits=limits())
        return walk(matcher) if not matcher.is_error() else {"error": matcher.get_error()}
    except (ValueError, RecursionError, MemoryError) as error:
        return {"error": str(error) or type(error).__name__}


def walk(matcher: Any) -> dict[str, Any]:
    """The first steps of one text: some grammars show only here what they cost."""
    words = (ctypes.c_uint32 * ((VOCAB_SIZE + 31) // 32))()
    for step in range(STEPS):
        matcher.unsafe_compute_mask_ptr(ctypes.addressof(words), ctypes.sizeof(words))
        allowed = [token for token in range(VOCAB_SIZE) if words[token // 32] >> (token % 32) & 1]
        if not allowed or (step == 0 and matcher.is_error()):
            return {"error": "no text satisfies it"}
        if matcher.is_error():
            return {"error": matcher.get_error()}
        if matcher.is_stopped():
            break
        matcher.consume_token(allowed[len(allowed) // 2])
    return {}


if __name__ == "__main__":
    main()
