"""What `enginectl serve` prints when it is ready, and what it says about an address it cannot have."""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
from collections.abc import Iterator

import pytest

from enginectl.__main__ import main
from enginectl.ports import check_address, port_owner
from enginectl.serve import curl_text, local_url, startup_text
from pagoda.config import load_config

FACTS = {
    "device": "AMD EPYC",
    "isa": "avx512",
    "num_threads": 2,
    "weights_bytes": 96_600_000,
    "kv_bytes_per_block": 184_320,
    "kv_cache_bytes": 4096 * 184_320,
    "num_blocks": 4096,
    "num_swap_blocks": 256,
    "swap_space_bytes": 256 * 1024 * 1024,
    "block_size": 16,
    "max_model_len": 8192,
    "max_concurrency": 8.0,
}


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of the loopback address on which this process listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def test_the_start_block_has_everything_to_begin_with() -> None:
    text = startup_text(load_config(), "smollm2-135m", FACTS, "http://127.0.0.1:8000", chat=True)
    for part in (
        "smollm2-135m (92.1 MiB of weights)",
        "AMD EPYC, avx512 kernels, 2 threads",
        "720.0 MiB: 4,096 blocks x 16 tokens = 65,536 tokens",
        "256.0 MiB of the host: 256 blocks",
        "Maximum concurrency for 8,192 tokens per request: 8.00",
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/metrics",
        "curl http://127.0.0.1:8000/v1/chat/completions",
    ):
        assert part in text


def test_the_start_block_never_shows_a_key() -> None:
    config = load_config(sets=["server.api_keys=[canary]"])
    text = startup_text(config, "m", FACTS, "http://127.0.0.1:1", chat=True)
    assert "canary" not in text
    assert "Authorization: Bearer YOUR_KEY" in text


@pytest.mark.parametrize("name", ["smollm2-135m", "it's", 'a "b"'])
@pytest.mark.parametrize("chat", [True, False])
def test_the_curl_line_survives_a_shell(name: str, chat: bool) -> None:
    words = shlex.split(curl_text("http://127.0.0.1:8000", name, chat, key=False))
    assert words[:2] == ["curl", f"http://127.0.0.1:8000/v1/{'chat/completions' if chat else 'completions'}"]
    body = json.loads(words[words.index("-d") + 1])
    assert body["model"] == name
    assert ("messages" in body) == chat


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("10.0.0.7", "http://10.0.0.7:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_a_wildcard_address_is_shown_as_one_that_can_be_opened(host: str, url: str) -> None:
    assert local_url(host, 8000) == url


def test_a_port_in_use_exits_4_and_names_its_owner(taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", str(taken_port), "--model", "/no/such/model"]) == 4
    err = capsys.readouterr().err
    assert f"port {taken_port} is in use by process {os.getpid()}" in err


def test_the_owner_of_a_free_port_is_nobody(taken_port: int) -> None:
    assert port_owner(taken_port) == os.getpid()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert port_owner(probe.getsockname()[1]) is None


def test_a_free_port_can_be_taken_after_the_check() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    check_address("127.0.0.1", port)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 203\.0\.113\.1:0") as caught:
        check_address("203.0.113.1", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_host_that_cannot_be_resolved_is_named() -> None:
    with pytest.raises(OSError, match="host 'no such host' cannot be resolved"):
        check_address("no such host", 0)
