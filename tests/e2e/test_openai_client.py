"""The `openai` package drives a real server: `enginectl serve` with the embedded default model, in its own process."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from pagoda import models

MODEL = "smollm2-135m"
START_S = 180
PARIS: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9,"
RUNNING = f'vllm:num_requests_running{{engine="0",model_name="{MODEL}"}}'
WAITING = f'vllm:num_requests_waiting{{engine="0",model_name="{MODEL}"}}'


class Running:
    """A server process and clients for it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=120)

    def get(self, path: str) -> str:
        """The body of a GET that succeeds."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as response:
            return str(response.read().decode())

    def metric(self, name: str) -> float:
        """One number of the metrics page; 0 when it is not there yet."""
        match = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return 0.0 if match is None else float(match.group(1))

    def wait_until_ready(self) -> None:
        """Returns when a token can be made; fails with the process's output when it ends first."""
        wait_for(self._is_ready, START_S)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.get("/health/ready")
        except OSError:
            return False
        return True


def wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    """Polls a condition; fails after the timeout."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)


@contextmanager
def serving(directory: Path) -> Iterator[Running]:
    """A server on a free port; killed at the end if it still runs."""
    models.pull(MODEL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = directory / "server.log"
    command = [sys.executable, "-m", "enginectl", "serve", MODEL, "--port", str(port), "--max-model-len", "1024"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        running = Running(process, port, log)
        running.wait_until_ready()
        yield running
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return server.client


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_the_model_is_listed(client: openai.OpenAI, model: str) -> None:
    assert client.models.retrieve(model).id == model


def test_a_string_a_list_and_token_ids_give_the_same_text(server: Running, model: str) -> None:
    create = server.client.completions.create
    alone = create(model=model, prompt=COUNTING, max_tokens=8, temperature=0, extra_body={"return_token_ids": True})
    text = alone.choices[0].text
    assert "10" in text
    assert alone.usage is not None
    assert alone.usage.completion_tokens == 8
    listed = create(model=model, prompt=[COUNTING, "The sun is"], max_tokens=8, temperature=0)
    assert [choice.index for choice in listed.choices] == [0, 1]
    assert listed.choices[0].text == text
    ids = alone.choices[0].model_extra["prompt_token_ids"]  # type: ignore[index]
    assert len(ids) == alone.usage.prompt_tokens
    assert create(model=model, prompt=ids, max_tokens=8, temperature=0).choices[0].text == text
    both = create(model=model, prompt=[ids, ids[:3]], max_tokens=8, temperature=0)
    assert both.choices[0].text == text


def test_echo_with_logprobs_scores_prompt_and_text(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=COUNTING, max_tokens=4, temperature=0, echo=True, logprobs=3)
    choice = answer.choices[0]
    assert choice.text.startswith(COUNTING)
    assert choice.logprobs is not None
    assert answer.usage is not None
    lists = choice.logprobs
    assert lists.tokens is not None
    assert lists.token_logprobs is not None
    assert lists.top_logprobs is not None
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == answer.usage.total_tokens
    assert lists.token_logprobs[0] is None
    assert all(value <= 0 for value in lists.token_logprobs[1:])
    assert "".join(lists.tokens) == choice.text
    for chosen, top in zip(lists.token_logprobs[-4:], lists.top_logprobs[-4:], strict=True):
        assert chosen == max(top.values())  # greedy
        assert 3 <= len(top) <= 4


def test_echo_without_new_tokens_scores_the_prompt_alone(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt=COUNTING, max_tokens=0, echo=True, logprobs=1)
    assert answer.choices[0].text == COUNTING
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_four_choices_of_a_seed_differ_and_come_again(client: openai.OpenAI, model: str) -> None:
    def sample() -> list[tuple[str, int]]:
        answer = client.completions.create(
            model=model, prompt="Once upon a time", n=4, max_tokens=16, temperature=1, seed=11
        )
        return [(choice.text, choice.model_extra["seed"]) for choice in answer.choices]  # type: ignore[index]

    first = sample()
    assert len({text for text, _ in first}) == 4
    assert sample() == first


def test_a_reported_seed_reproduces_its_text(client: openai.OpenAI, model: str) -> None:
    first = client.completions.create(model=model, prompt="My favourite", max_tokens=12, temperature=1).choices[0]
    seed = first.model_extra["seed"]  # type: ignore[index]
    again = client.completions.create(model=model, prompt="My favourite", max_tokens=12, temperature=1, seed=seed)
    assert again.choices[0].text == first.text


def test_a_stop_string_ends_the_text_and_is_not_part_of_it(client: openai.OpenAI, model: str) -> None:
    for stream in (False, True):
        answer: Any = client.completions.create(
            model=model, prompt=COUNTING, max_tokens=60, temperature=0, stop=["13"], stream=stream
        )
        choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
        text = "".join(choice.text for choice in choices)
        assert "12" in text
        assert "13" not in text
        assert not text.endswith("1")
        assert choices[-1].finish_reason == "stop"


def test_a_streamed_completion_is_the_whole_one_in_pieces(client: openai.OpenAI, model: str) -> None:
    asked: dict[str, Any] = {
        "model": model,
        "prompt": ["Hello, my", "The weather"],
        "max_tokens": 12,
        "seed": 5,
        "n": 2,
    }
    whole = client.completions.create(**asked)
    texts = [""] * 4
    usage = None
    chunks = 0
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            chunks += 1
    assert texts == [choice.text for choice in whole.choices]
    assert chunks > 8
    assert usage is not None
    assert whole.usage is not None
    assert usage.total_tokens == whole.usage.total_tokens


def test_the_capital_of_france_is_paris(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=PARIS, temperature=0, max_tokens=32)
    content = answer.choices[0].message.content
    assert content is not None
    assert "Paris" in content
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    texts = []
    reasons = []
    usage = None
    stream = client.chat.completions.create(
        model=model,
        messages=PARIS,
        temperature=0,
        max_tokens=32,
        stream=True,
        stream_options={"include_usage": True},
    )
    for number, chunk in enumerate(stream):
        if number == 0:
            assert chunk.choices[0].delta.role == "assistant"
        usage = chunk.usage
        for choice in chunk.choices:
            texts.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
    assert "".join(texts) == content
    assert [reason for reason in reasons if reason] == [answer.choices[0].finish_reason]
    assert usage is not None
    assert usage.completion_tokens == answer.usage.completion_tokens


def test_chat_logprobs_spell_the_text_in_bytes(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=PARIS, temperature=0, max_tokens=6, logprobs=True, top_logprobs=5
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    spelled = bytes(byte for entry in logprobs.content for byte in entry.bytes or [])
    assert answer.choices[0].message.content == spelled.decode(errors="replace")
    for entry in logprobs.content:
        assert len(entry.top_logprobs) == 5
        assert entry.logprob == entry.top_logprobs[0].logprob  # greedy
        values = [top.logprob for top in entry.top_logprobs]
        assert values == sorted(values, reverse=True)


def test_control_tokens_in_user_text_stay_text(client: openai.OpenAI, model: str) -> None:
    def prompt_tokens(content: str) -> int:
        messages: list[Any] = [{"role": "user", "content": content}]
        usage = client.chat.completions.create(model=model, messages=messages, max_tokens=1).usage
        assert usage is not None
        return usage.prompt_tokens

    assert prompt_tokens("a<|im_end|>b") > prompt_tokens("a b") + 1


def test_a_repeated_prompt_comes_from_the_cache_but_not_across_salts(client: openai.OpenAI, model: str) -> None:
    def cached(salt: str) -> tuple[int, str]:
        answer = client.completions.create(
            model=model,
            prompt="A long shared beginning. " * 20,
            max_tokens=8,
            temperature=0,
            logprobs=1,
            extra_body={"cache_salt": salt},
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0, answer.choices[0].model_dump_json()

    first, again, other = cached("one"), cached("one"), cached("two")
    assert first[0] == other[0] == 0
    assert again[0] > 0

    def tokens(answer: str) -> str:
        return re.sub(r'"seed":-?\d+', "", answer)

    assert tokens(first[1]) == tokens(again[1]) == tokens(other[1])


def test_requests_side_by_side_get_what_they_get_alone(client: openai.OpenAI, model: str) -> None:
    prompts = ["The sea", "In 1969", "Python is", COUNTING, "My name is", "Water boils", "She said", "To be or"]

    def complete(prompt: str) -> str:
        answer = client.completions.create(model=model, prompt=prompt, max_tokens=16, temperature=0.8, seed=3)
        return answer.choices[0].text

    alone = [complete(prompt) for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(complete, prompts)) == alone


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"temperature": 3}, "temperature", None),
        ({"top_p": 0}, "top_p", None),
        ({"n": 0}, "n", None),
        ({"max_tokens": 5000}, "messages", "context_length_exceeded"),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "user", "content": "long " * 3000}]}, "messages", "context_length_exceeded"),
        ({"top_logprobs": 3}, "top_logprobs", None),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias", None),
    ],
)
def test_bad_requests_raise_an_error_that_names_the_field(
    server: Running, model: str, changes: dict[str, Any], param: str, code: str | None
) -> None:
    asked: dict[str, Any] = {"model": model, "messages": PARIS, "max_tokens": 2} | changes
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.chat.completions.create(**asked)
    assert caught.value.param == param
    assert code is None or caught.value.code == code
    assert caught.value.request_id


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="x")


def test_a_client_that_leaves_frees_its_place(server: Running, model: str) -> None:
    left = 'vllm:requests_total{reason="client_disconnect"}'
    before = server.metric(left)
    stream = server.client.completions.create(
        model=model, prompt="x", max_tokens=900, stream=True, n=4, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert server.metric(RUNNING) >= 1
    stream.close()
    wait_for(lambda: server.metric(RUNNING) == 0, 10)
    wait_for(lambda: server.metric(left) == before + 1, 10)
    assert server.metric(WAITING) == 0


def test_a_waiting_client_that_leaves_frees_its_place(server: Running, model: str) -> None:
    impatient = server.client.with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        impatient.completions.create(model=model, prompt="x", max_tokens=900, n=8, extra_body={"ignore_eos": True})
    wait_for(lambda: server.metric(RUNNING) == 0, 10)


def test_a_request_has_a_timeline_and_is_measured(server: Running, model: str) -> None:
    first_tokens = f'vllm:time_to_first_token_seconds_count{{engine="0",model_name="{model}"}}'
    before = server.metric(first_tokens)
    answer = server.client.completions.create(
        model=model, prompt=["a b c", "d e f"], n=2, max_tokens=3, extra_body={"ignore_eos": True}
    )
    choices = json.loads(server.get(f"/v1/requests/{answer.id}/timeline"))["choices"]
    assert sorted((choice["prompt"], choice["index"]) for choice in choices) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for choice in choices:
        events = choice["events"]
        assert (events[0]["event"], events[-1]["event"]) == ("queued", "finished")
        assert (events[-1]["reason"], events[-1]["end"]) == ("length", 3)
        assert [event["offset_s"] for event in events] == sorted(event["offset_s"] for event in events)
        assert abs(events[0]["time"] - time.time()) < 60
    assert server.metric(first_tokens) == before + 4


def test_the_server_listens_on_its_port_and_nowhere_else(server: Running) -> None:
    server.client.chat.completions.create(model=MODEL, messages=PARIS, max_tokens=1)  # starts the template's worker
    root = psutil.Process(server.process.pid)
    family = [root, *root.children(recursive=True)]
    assert len(family) > 1
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }
    assert listening == {("127.0.0.1", int(server.url.rpartition(":")[2]))}
    named = [
        connection.laddr for process in family for connection in process.net_connections("unix") if connection.laddr
    ]
    assert not named


def test_sigterm_while_the_model_loads_ends_the_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "enginectl", "serve", MODEL, "--port", "0"], stderr=output)
    try:
        wait_for(lambda: "Loading" in log.read_text(), 60)
        process.terminate()
        assert process.wait(5) != 0
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()


def test_sigterm_lets_a_stream_end_and_exits_with_zero(tmp_path: Path) -> None:
    with serving(tmp_path) as running:
        model = running.client.models.list().data[0].id
        running.client.chat.completions.create(model=model, messages=PARIS, max_tokens=1)  # starts the worker
        children = psutil.Process(running.process.pid).children(recursive=True)
        assert children
        stream = running.client.completions.create(
            model=model, prompt="x", max_tokens=100, stream=True, extra_body={"ignore_eos": True}
        )
        chunks = iter(stream)
        next(chunks)
        running.process.send_signal(signal.SIGTERM)
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons[-1] == "length"
        assert running.process.wait(15) == 0
        assert psutil.wait_procs(children, timeout=15)[1] == [], "the server leaves no process behind"
        assert "Traceback" not in running.log.read_text()
