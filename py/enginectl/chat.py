"""Talk to a model in the terminal; answers stream. Ctrl-C stops an answer, Ctrl-D ends.

Commands: /system TEXT, /set NAME VALUE, /reset, /help, /quit. With piped input every line is one turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import difflib
import sys
import time
from collections.abc import Callable
from typing import Any

from enginectl.console import fail, note, styled
from enginectl.flags import add_config_flags, read_config
from enginectl.session import open_client, sampling_params
from pagoda.client import EngineClient
from pagoda.config import Config, SamplingParams, config_schema
from pagoda.field_rows import FieldError

HELP = """\
/system TEXT      give the model a system message (and start over); without TEXT: none
/set NAME VALUE   set a sampling parameter, for example /set temperature 0.2; without NAME: show what is set
/reset            forget the conversation
/quit             leave (also Ctrl-D); Ctrl-C stops an answer"""
COMMANDS = ("/system", "/set", "/reset", "/help", "/quit")


class Conversation:
    """The messages so far and the sampling changes made with /set. Knows nothing of the terminal or the engine."""

    def __init__(self) -> None:
        self.messages: list[dict[str, str]] = []
        self.changes: dict[str, Any] = {}

    @property
    def num_system(self) -> int:
        """1 when the conversation starts with a system message, else 0."""
        return int(bool(self.messages) and self.messages[0]["role"] == "system")

    def add(self, role: str, content: str) -> None:
        """Appends a message."""
        self.messages.append({"role": role, "content": content})

    def drop_last(self) -> None:
        """Takes back the newest message."""
        self.messages.pop()

    def drop_oldest_turn(self) -> bool:
        """Forgets the oldest question with its answer. False when only the newest question is left."""
        begin = self.num_system
        if len(self.messages) - begin < 2:
            return False
        end = begin + 1
        while end < len(self.messages) - 1 and self.messages[end]["role"] != "user":
            end += 1
        del self.messages[begin:end]
        return True

    def command(self, line: str) -> str | None:
        """Carries out a /command; returns the text to show, or None to leave. Raises ValueError for a wrong command."""
        word, _, rest = line.strip().partition(" ")
        match word:
            case "/quit" | "/exit" | "/bye":
                return None
            case "/help":
                return HELP
            case "/reset":
                self.messages = self.messages[: self.num_system]
                return "the conversation is forgotten"
            case "/system":
                self.messages = [{"role": "system", "content": rest.strip()}] if rest.strip() else []
                return "system message set; the conversation starts over" if rest.strip() else "system message removed"
            case "/set":
                return self._set(rest)
        near = difflib.get_close_matches(word, COMMANDS, n=1)
        raise ValueError(f"unknown command {word}; " + (f"did you mean {near[0]}?" if near else "see /help"))

    def _set(self, rest: str) -> str:
        name, _, text = rest.strip().partition(" ")
        rows = config_schema().rows["sampling"]
        if not name:
            return "\n".join(f"{key} = {value}" for key, value in self.changes.items()) or "nothing is set"
        name = name.replace("-", "_")
        if name not in rows:
            raise ValueError(config_schema().unknown_key("sampling", name))
        if name == "n":
            raise ValueError("n cannot be set in a chat: there is one answer")
        try:
            value = rows[name].from_text(text.strip().removeprefix("=").strip())
        except FieldError as error:
            raise ValueError(f"{name} {error}") from None
        SamplingParams(**{**self.changes, name: value})
        self.changes[name] = value
        return f"{name} = {value}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `enginectl chat`."""
    parser.add_argument("model", nargs="?", metavar="[MODEL]", help="model to talk to (see --model)")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    add_config_flags(parser, ["model", "sampling", "engine"])


def run(args: argparse.Namespace) -> int:
    """Reads turns until the end of input."""
    config = read_config(args, getattr(args, "model", None))
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    conversation = Conversation()
    if hasattr(args, "system"):
        conversation.command(f"/system {args.system}")
    with open_client(config) as client, asyncio.Runner() as runner:
        if client.tokenizer is None or client.chat_template is None:
            missing = (
                "tokenizer"
                if client.tokenizer is None
                else "chat template; use `enginectl complete` or --chat-template"
            )
            return fail(f"{client.model_name} has no {missing}")
        if interactive:
            note(styled(f"{client.model_name} is ready. /help lists the commands, Ctrl-D ends.", "dim", sys.stderr))
        return _talk(client, config, conversation, runner, _reader(interactive))


def _reader(interactive: bool) -> Callable[[], str | None]:
    """A function that gives the next line of input, None at its end."""
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (input() gets line editing and history from it)

    def read() -> str | None:
        try:
            return input("> " if interactive else "")
        except EOFError:
            if interactive:
                print()
            return None

    return read


def _talk(
    client: EngineClient,
    config: Config,
    conversation: Conversation,
    runner: asyncio.Runner,
    read: Callable[[], str | None],
) -> int:
    """The loop over turns. A turn that the engine refuses is taken back and the loop goes on."""
    failures = 0
    while (line := read()) is not None:
        if not line.strip():
            continue
        try:
            if line.startswith("/"):
                shown = conversation.command(line)
                if shown is None:
                    break
                note(styled(shown, "dim", sys.stderr))
            else:
                _turn(client, config, conversation, runner, line)
        except (ValueError, RuntimeError) as error:
            failures += 1
            fail(str(error))
    return 0 if failures == 0 or sys.stdin.isatty() else 1


def _turn(client: EngineClient, config: Config, conversation: Conversation, runner: asyncio.Runner, text: str) -> None:
    """Asks and prints the answer. Ctrl-C ends the answer; what came until then stays in the history."""
    conversation.add("user", text)
    answer: list[str] = []
    try:
        params = sampling_params(client, config, {**conversation.changes, "n": 1})
        runner.run(_answer(client, params, _prompt(client, conversation), answer))
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print(styled(" [stopped]", "dim", sys.stdout))
    except BaseException:
        conversation.drop_last()
        raise
    if answer:
        conversation.add("assistant", "".join(answer))
    else:
        conversation.drop_last()


def _prompt(client: EngineClient, conversation: Conversation) -> list[int]:
    """The conversation as token ids; its oldest turns are forgotten until one quarter of the context is left for the
    answer.
    """
    limit = client.max_model_len - client.max_model_len // 4
    while True:
        token_ids = client.encode_chat(conversation.messages)
        if len(token_ids) <= limit or not conversation.drop_oldest_turn():
            return token_ids
        note(styled("[the context is full: the oldest turn is forgotten]", "dim", sys.stderr))


async def _answer(client: EngineClient, params: SamplingParams, token_ids: list[int], answer: list[str]) -> None:
    """Streams one answer to stdout and into `answer`. Raises RuntimeError when the generation fails."""
    start, num_tokens = time.monotonic(), 0
    async with contextlib.aclosing(client.generate(token_ids, params)) as events:
        async for event in events:
            if event.finish_reason == "error":
                raise RuntimeError(f"generation failed: {event.error}")
            num_tokens += len(event.token_ids)
            if event.text:
                answer.append(event.text)
                print(event.text, end="", flush=True)
    print(flush=True)
    if sys.stderr.isatty():
        speed = num_tokens / max(time.monotonic() - start, 1e-9)
        note(styled(f"{num_tokens} tokens, {speed:.1f} tokens/s", "dim", sys.stderr))
