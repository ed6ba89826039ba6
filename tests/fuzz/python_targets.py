"""What is done with one hostile input of each kind that Python reads: a configuration, a vocabulary, a chat, a reply.

Called by the fuzzers (fuzz_python.py) and, with every file of tests/corpus, by tests/py/test_corpus.py. A target tells
whether the input is accepted; the errors that belong to bad input are caught here, and any other is a bug.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from text_tokenizers import CHAT_TEMPLATE, byte_level_gguf

from pagoda.chat_template import ChatTemplate, TemplateError, encode_chat
from pagoda.config import ConfigError, load_config
from pagoda.replies.message_parser import Reading
from pagoda.replies.reasoning_parser import CLOSE, OPEN
from pagoda.replies.tool_format import HERMES, LLAMA3, MISTRAL, PLAIN, QWEN3_CODER
from pagoda.server.errors import ApiError
from pagoda.server.protocol import parse_template_kwargs
from pagoda.template_worker import Renderer
from pagoda.tokenizer import Tokenizer, TokenizerError

Target = Callable[[bytes], bool]

# By the first byte of an input, the file that the rest is.
VOCABULARY_FILES = {b"j": "tokenizer.json", b"s": "tokenizer.model", b"t": "cl100k_base.tiktoken", b"k": "tekken.json"}
TEXT = "Hello wörld 123 <s></s>\n\t👍 日本"
_MAX_OUTPUT_CHARS = 1 << 16


@cache
def _folder() -> Path:
    """A directory that lives as long as this process, in memory where that is possible."""
    root = Path("/dev/shm")
    made = tempfile.TemporaryDirectory(dir=root if root.is_dir() else None)
    _keep_alive.append(made)
    return Path(made.name)


_keep_alive: list[object] = []


def config(data: bytes) -> bool:
    """A configuration file, and the same text as one value of `--set`."""
    path = _folder() / "config.yaml"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        load_config(sets=["server.host=" + data.decode("utf-8", "replace")])
    faults: tuple[str, ...] = ()
    try:
        load_config(path).settings()
    except ConfigError as error:
        faults = error.errors or ("an error without a text",)
    assert all(text.startswith((f"{path}:", *_SECTIONS)) for text in faults), faults
    return not faults


_SECTIONS = ("model", "engine", "server", "sampling")


def vocabulary(data: bytes) -> bool:
    """A vocabulary file by its first byte, or GGUF metadata as JSON; then a text there and back."""
    kind, content = data[:1], data[1:]
    try:
        tokenizer = _read_file(VOCABULARY_FILES[kind], content) if kind in VOCABULARY_FILES else _read_gguf(content)
        if tokenizer is None:
            return False
        for text in (TEXT, "", *tokenizer.control_tokens[:3]):
            ids = tokenizer.encode(text)
            assert all(0 <= i < tokenizer.vocab_size for i in ids)
            tokenizer.decode(ids)
    except TokenizerError:
        return False
    return True


def _read_gguf(content: bytes) -> Tokenizer | None:
    try:
        metadata = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return Tokenizer.from_gguf(metadata) if isinstance(metadata, dict) else None


def _read_file(name: str, content: bytes) -> Tokenizer:
    path = _folder() / "vocabulary"
    path.mkdir(exist_ok=True)
    for other in VOCABULARY_FILES.values():
        (path / other).unlink(missing_ok=True)
    (path / name).write_bytes(content)
    return Tokenizer.from_directory(path)


@cache
def _chat_tools() -> tuple[Tokenizer, ChatTemplate, Renderer]:
    tokenizer = Tokenizer.from_gguf(byte_level_gguf())
    template = ChatTemplate(CHAT_TEMPLATE, time_budget_s=2.0, max_output_chars=_MAX_OUTPUT_CHARS)
    return tokenizer, template, Renderer(_MAX_OUTPUT_CHARS)


def chat(data: bytes) -> bool:
    """A request {"messages", "tools", "template", "continue", "variables"}, rendered and encoded. What is no JSON is a
    template.

    With the tests' own template, the control tokens must be those that it writes, whatever the messages say.
    """
    try:
        request = json.loads(data)
    except (ValueError, RecursionError):
        request = {"messages": [{"role": "user", "content": TEXT}], "template": data.decode("utf-8", "replace")}
    if not isinstance(request, dict):
        return False
    tokenizer, template, renderer = _chat_tools()
    source = request.get("template")
    source = source if isinstance(source, str) else None
    if source is not None:
        assert "error" in (answer := renderer.answer({"source": source})) or answer["literals"] is not None
    go_on = request.get("continue") is True
    variables = request.get("variables")
    try:
        ids = encode_chat(
            tokenizer,
            template,
            request.get("messages"),
            tools=request.get("tools"),
            add_generation_prompt=not go_on,
            continue_final_message=go_on,
            chat_template=source,
            **parse_template_kwargs(variables if isinstance(variables, dict) else {}),
        )
    except (TemplateError, TokenizerError, ApiError):
        return False
    if source is None:
        _check_controls(tokenizer, ids, len(request["messages"]), go_on)
    return True


def _check_controls(tokenizer: Tokenizer, ids: list[int], num_messages: int, go_on: bool) -> None:
    _, start, end = (tokenizer.token_id(token) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    expected = [num_messages, num_messages - 1] if go_on else [num_messages + 1, num_messages]
    assert [ids.count(start), ids.count(end)] == expected, (ids, expected)
    assert not any(tokenizer.is_special(i) for i in ids if i not in (start, end))


_FORMATS = (HERMES, LLAMA3, MISTRAL, QWEN3_CODER, PLAIN)
_SCHEMAS = {"look": {"properties": {"n": {"type": "integer"}, "who": {"type": ["string", "null"]}}}}


def replies(data: bytes) -> bool:
    """A model's text, read in the way that the first byte says. Accepted if it has a call.

    However it is cut, it means the same. Without a call no character is lost but the tags of a reasoning and whitespace
    around them.
    """
    flags, form = divmod(data[0] if data else 0, len(_FORMATS))
    text = data[1:].decode("utf-8", "replace")
    reading = Reading(
        tool_format=_FORMATS[form],
        tool_names=("look", "add"),
        schemas=_SCHEMAS,
        demanded=bool(flags & 1),
        reasoning=bool(flags & 2),
        reasoning_open=bool(flags & 4),
    )
    whole = _read(reading, [text])
    size = 2 + (flags >> 3)
    for pieces in (text, [text[at : at + size] for at in range(0, len(text), size)]):
        assert _read(reading, pieces) == whole, (whole, pieces)
    reasoning, content, calls = whole
    if not calls and reading.reasoning:
        told = ["".join((opening, reasoning, closing, content)) for opening in (OPEN, "") for closing in (CLOSE, "")]
        assert "".join(text.split()) in ["".join(one.split()) for one in told], whole
    elif not calls:
        assert content == text, content
    return bool(calls)


def _read(reading: Reading, pieces: Iterable[str]) -> tuple[str, str, list[tuple[str | None, str]]]:
    """The reasoning, the content, and the calls' names and arguments."""
    parser = reading.parser()
    found = [piece for text in pieces for piece in parser.push(text)] + parser.finish()
    deltas = [piece.delta for piece in found if piece.delta is not None]
    names = [delta.name for delta in deltas if delta.id is not None]
    assert parser.num_calls == len(names)
    parts: list[list[str]] = [[] for _ in names]
    for delta in deltas:
        if delta.index is not None:
            parts[delta.index].append(delta.arguments)
    arguments = map("".join, parts)
    reasoning = "".join(piece.reasoning for piece in found)
    return reasoning, "".join(delta.content for delta in deltas), list(zip(names, arguments, strict=True))


def warm_up() -> None:
    """Makes what the first input would otherwise have to wait for: a directory, a tokenizer, a rendering process."""
    _folder()
    chat(b'{"messages": [{"role": "user", "content": "a"}]}')


TARGETS: dict[str, Target] = {"config": config, "vocabulary": vocabulary, "chat": chat, "replies": replies}
