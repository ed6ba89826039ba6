"""`enginectl chat`: the conversation's commands, its memory, and a whole session over piped input."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import enginectl.chat
import enginectl.session
from enginectl.__main__ import main
from enginectl.chat import Conversation
from pagoda.client import TokenEvent
from pagoda.config import Config, SamplingParams

Messages = list[dict[str, str]]


def filled(*turns: str, system: str = "") -> Conversation:
    """A conversation of these user turns, all but the last answered."""
    talk = Conversation()
    if system:
        talk.command(f"/system {system}")
    for text in turns:
        talk.add("user", text)
        if text != turns[-1]:
            talk.add("assistant", f"re {text}")
    return talk


def contents(talk: Conversation) -> list[str]:
    return [message["content"] for message in talk.messages]


def test_a_system_message_starts_the_conversation_over() -> None:
    talk = filled("a", "b")
    talk.command("/system be brief")
    assert talk.messages == [{"role": "system", "content": "be brief"}]
    talk.command("/system")
    assert talk.messages == []


def test_reset_keeps_the_system_message() -> None:
    talk = filled("a", "b", system="s")
    talk.command("/reset")
    assert contents(talk) == ["s"]


def test_the_oldest_turn_goes_first_and_the_newest_question_stays() -> None:
    talk = filled("a", "b", "c", system="s")
    assert talk.drop_oldest_turn()
    assert contents(talk) == ["s", "b", "re b", "c"]
    assert talk.drop_oldest_turn()
    assert not talk.drop_oldest_turn()
    assert contents(talk) == ["s", "c"]


def test_set_converts_and_checks_by_the_rows() -> None:
    talk = Conversation()
    assert talk.command("/set temperature 0.2") == "temperature = 0.2"
    talk.command("/set max-tokens 5")
    talk.command("/set stop = END")
    assert talk.changes == {"temperature": 0.2, "max_tokens": 5, "stop": ["END"]}
    assert "temperature = 0.2" in (talk.command("/set") or "")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("/set temperature 9", r"temperature must be a number in \[0, 2\], got 9"),
        ("/set temperature", "temperature must be a number"),
        ("/set temprature 1", "did you mean sampling.temperature"),
        ("/set n 2", "n cannot be set in a chat"),
        ("/sytem x", "unknown command /sytem; did you mean /system"),
        ("/zzz", "see /help"),
    ],
)
def test_a_wrong_command_changes_nothing(line: str, part: str) -> None:
    talk = filled("a")
    with pytest.raises(ValueError, match=part):
        talk.command(line)
    assert (contents(talk), talk.changes) == (["a"], {})


@pytest.mark.parametrize("line", ["/quit", "/exit", "/bye", "/quit "])
def test_quit_leaves(line: str) -> None:
    assert Conversation().command(line) is None


class EchoClient:
    """Answers `<number of messages>:<last message>`; fails on `fail`, says nothing on `silence`."""

    model_name = "echo"
    max_model_len = 400
    tokenizer: Any = object()
    chat_template: Any = object()
    default_params: dict[str, Any]

    def __init__(self) -> None:
        self.default_params = {}
        self.prompts: list[Messages] = []
        self.params: list[SamplingParams] = []
        self.seen: Messages = []

    def encode_chat(self, messages: Messages) -> list[int]:
        self.seen = [dict(message) for message in messages]
        return [0] * sum(len(message["content"]) for message in messages)

    async def generate(self, prompt: list[int], params: SamplingParams) -> AsyncIterator[TokenEvent]:
        self.prompts.append(self.seen)
        self.params.append(params)
        last = self.seen[-1]["content"]
        failed = last == "fail"
        text = "" if last == "silence" else f"{len(self.seen)}:{last}"
        yield TokenEvent(
            index=0,
            text=text,
            token_ids=[1],
            logprobs=None,
            finish_reason="error" if failed else "stop",
            stop_reason=None,
            seed=1,
            error="no more memory" if failed else None,
            prompt_logprobs=None,
            num_cached_tokens=0,
        )

    def close(self) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> EchoClient:
    """The engine of the next `enginectl chat`."""
    made = EchoClient()

    def create(config: Config) -> EchoClient:
        return made

    monkeypatch.setattr(enginectl.session, "resolve", lambda name: None)
    monkeypatch.setattr(enginectl.session, "EngineClient", types.SimpleNamespace(create=create))
    return made


def chat(monkeypatch: pytest.MonkeyPatch, lines: str, *flags: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return main(["chat", *flags])


def test_every_piped_line_is_a_turn_and_history_grows(
    client: EchoClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, "hello\n\nagain\n") == 0
    assert capsys.readouterr() == ("1:hello\n3:again\n", "")
    assert [message["role"] for message in client.prompts[1]] == ["user", "assistant", "user"]


def test_commands_work_in_a_pipe_and_quit_ends_it(
    client: EchoClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, "/set temperature 0.1\n/system s\nhello\n/quit\nnever\n", "--n", "3") == 0
    assert capsys.readouterr().out == "2:hello\n"
    assert (client.params[0].temperature, client.params[0].n) == (0.1, 1)


def test_a_system_message_can_be_a_flag(client: EchoClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat(monkeypatch, "hello\n", "--system", "be brief") == 0
    assert client.prompts[0][0] == {"role": "system", "content": "be brief"}


def test_a_failed_turn_is_taken_back_and_the_chat_goes_on(
    client: EchoClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, "fail\nsilence\nhello\n") == 1
    out, err = capsys.readouterr()
    assert "1:hello" in out
    assert "generation failed: no more memory" in err
    assert [message["content"] for message in client.prompts[2]] == ["hello"]


def test_old_turns_are_forgotten_when_the_context_is_full(
    client: EchoClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, "".join(f"{character * 60}\n" for character in "abcd")) == 0
    assert "the oldest turn is forgotten" in capsys.readouterr().err
    assert [len(messages) for messages in client.prompts] == [1, 3, 3, 3]
    assert client.prompts[-1][-1]["content"] == "d" * 60


def test_a_model_without_a_chat_template_is_refused(
    client: EchoClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client.chat_template = None
    assert chat(monkeypatch, "hello\n") == 2
    assert "echo has no chat template" in capsys.readouterr().err


SLOW_CHAT = """
import asyncio, signal, sys, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background hands on an ignored SIGINT
import enginectl.session
from enginectl.__main__ import main
from pagoda.client import TokenEvent

class SlowClient:
    model_name, max_model_len, tokenizer, chat_template, default_params = "slow", 400, object(), object(), {}
    def encode_chat(self, messages):
        return [0] * len(messages)
    async def generate(self, prompt, params):
        try:
            for number in range(1000):
                yield TokenEvent(0, f"word{number} ", [1], None, None, None, 1, None, None, 0)
                await asyncio.sleep(0.05)
        finally:
            print("ABORTED", flush=True)
    def close(self):
        print("CLOSED", flush=True)

enginectl.session.resolve = lambda name: None
enginectl.session.EngineClient = types.SimpleNamespace(create=lambda config: SlowClient())
sys.exit(main(["chat"]))
"""


class Typist:
    """A person at a terminal in which SLOW_CHAT runs: waits for texts and types."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        package_dir = str(Path(enginectl.session.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package_dir, os.environ.get("PYTHONPATH", "")])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SLOW_CHAT], stdin=slave, stdout=slave, stderr=slave, env=environment,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self._unread = ""

    def wait_for(self, text: str) -> None:
        """Reads the screen up to `text`; fails after 20 s."""
        deadline = time.monotonic() + 20
        while text not in self._unread:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"expected {text!r} on the screen, found {self._unread[-500:]!r}"
            self._unread += os.read(self._master, 65536).decode()
        self._unread = self._unread.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> int:
        """Waits for the program to end; returns its exit code."""
        try:
            return self.process.wait(timeout=20)
        finally:
            self.process.kill()
            os.close(self._master)


def test_ctrl_c_stops_the_answer_and_ctrl_d_ends_the_chat() -> None:
    typist = Typist()
    typist.wait_for("slow is ready")
    typist.wait_for("> ")
    typist.type("hello\n")
    typist.wait_for("word2")
    typist.process.send_signal(signal.SIGINT)
    typist.wait_for("ABORTED")
    typist.wait_for("[stopped]")
    typist.wait_for("> ")
    typist.type("again\n")
    typist.wait_for("word1")
    typist.process.send_signal(signal.SIGINT)
    typist.wait_for("> ")
    typist.type("\x04")
    typist.wait_for("CLOSED")
    assert typist.close() == 0


def test_ctrl_c_at_the_prompt_leaves_with_130() -> None:
    typist = Typist()
    typist.wait_for("> ")
    time.sleep(0.5)  # readline shows the prompt a moment before it begins to wait
    typist.process.send_signal(signal.SIGINT)
    typist.wait_for("CLOSED")
    assert typist.close() == 130
