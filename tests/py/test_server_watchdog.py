"""A stalled engine or event loop is noticed; the line of a busy server; log records as JSON and in a file."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from logging.handlers import WatchedFileHandler
from pathlib import Path

import pytest
from fake_client import FakeClient, fake_api, serving

from pagoda.server.logs import JsonFormatter, configure_logging, reopen_log_files
from pagoda.server.settings import ServerSettings
from pagoda.server.stats_line import StatsLine, is_busy, stats_text
from pagoda.server.watchdog import Watchdog

PATH = "/v1/completions"


async def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds; the test's own time limit ends it."""
    while not condition():
        await asyncio.sleep(0.01)


def test_a_stalled_engine_is_not_ready_until_it_goes_on() -> None:
    async def run() -> None:
        async with fake_api(stall_timeout_s=1) as (session, client):
            for stalled_s, expected in ((0.0, 200), (0.9, 200), (1.1, 503), (0.0, 200)):
                client.stalled_s = stalled_s
                async with session.get("/health/ready") as response:
                    assert response.status == expected, stalled_s
                    if expected == 503:
                        assert (await response.json())["error"]["code"] == "engine_stalled"
                async with session.post(PATH, json={"prompt": "a"}) as response:
                    assert response.status == expected
            async with session.get("/health/live") as response:
                assert response.status == 200

    asyncio.run(run())


def test_a_stall_is_dumped_once_with_state_and_stacks(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient()

    def records() -> list[str]:
        texts = [record.getMessage() for record in caplog.records if record.name == "pagoda.server.watchdog"]
        return [text for text in texts if text.startswith("the engine")]  # on a busy machine the loop is late as well

    async def run() -> None:
        async with serving(client, stall_timeout_s=0.1):
            client.stalled_s = 7.0
            await until(lambda: bool(records()))
            await asyncio.sleep(0.2)
            client.stalled_s = 0.0
            await until(lambda: len(records()) > 1)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    dump, end = records()
    assert dump.startswith("the engine has not got on for 7.0 seconds")
    assert "num_preemptions=3" in dump
    assert "unfinished: 1" in dump
    assert "cmpl-1-0#7[1]: chunk 0-3" in dump
    assert "(most recent call first)" in dump
    assert end == "the engine goes on"


def test_a_hanging_event_loop_is_dumped_with_the_line_that_holds_it(caplog: pytest.LogCaptureFixture) -> None:
    def hold_the_loop() -> None:
        deadline = time.monotonic() + 20
        while (
            not any(record.name == "pagoda.server.watchdog" for record in caplog.records)
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)

    async def run() -> None:
        watchdog = Watchdog(FakeClient(), asyncio.get_running_loop(), 0.2)  # type: ignore[arg-type]
        watchdog.start()
        hold_the_loop()
        watchdog.stop()

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    text = caplog.records[0].getMessage()
    assert text.startswith("the event loop has not got on for")
    assert "hold_the_loop" in text


def test_the_watchdog_ends_with_the_server() -> None:
    async def run() -> None:
        async with serving():
            assert any(thread.name == "pagoda-watchdog" for thread in threading.enumerate())

    asyncio.run(run())
    assert not any(thread.name == "pagoda-watchdog" for thread in threading.enumerate())


def test_the_stats_line_has_the_numbers_of_its_interval() -> None:
    before = {
        "num_prompt_tokens": 100,
        "num_generation_tokens": 10,
        "prefix_cache_queries": 50,
        "prefix_cache_hits": 50,
    }
    now = {
        "num_prompt_tokens": 300,
        "num_generation_tokens": 35,
        "num_running": 2,
        "num_waiting": 1,
        "num_preemptions": 4,
        "kv_cache_usage": 0.125,
        "prefix_cache_queries": 250,
        "prefix_cache_hits": 100,
    }
    assert stats_text(before, now, 10.0) == (
        "Avg prompt throughput: 20.0 tokens/s, Avg generation throughput: 2.5 tokens/s, Running: 2 reqs, "
        "Waiting: 1 reqs, Preemptions: 4, KV cache usage: 12.5%, Prefix cache hit rate: 25.0%"
    )
    drafted = now | {"spec_decode_num_draft_tokens": 40, "spec_decode_num_accepted_tokens": 30}
    assert stats_text(before, drafted, 10.0).endswith("25.0%, Draft acceptance rate: 75.0%")
    assert is_busy(before, now)
    assert is_busy(now, now)
    assert not is_busy(now, now | {"num_running": 0, "num_waiting": 0})


def test_an_idle_server_logs_no_stats(caplog: pytest.LogCaptureFixture) -> None:
    client = FakeClient()

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "pagoda.server.stats_line"]

    async def run() -> None:
        task = asyncio.create_task(StatsLine(client).run(0.01))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        assert not lines()
        client.running = 3
        await until(lambda: len(lines()) >= 2)
        client.running = 0
        await until(lambda: "Running: 0 reqs" in lines()[-1])
        count = len(lines())
        await asyncio.sleep(0.1)
        assert len(lines()) == count
        task.cancel()

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    assert "Running: 3 reqs" in lines()[0]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger; handlers that the test adds are taken away again."""
    root = logging.getLogger()
    level = root.level
    yield root
    for handler in [handler for handler in root.handlers if type(handler) is WatchedFileHandler]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def test_json_records_are_one_object_a_line_whatever_the_client_sends(
    root_logger: logging.Logger, tmp_path: Path
) -> None:
    file = tmp_path / "log"
    configure_logging(ServerSettings(log_format="json", log_file=str(file)))

    async def run() -> None:
        async with fake_api() as (session, _):
            async with session.post(
                PATH, json={"prompt": "secret words"}, headers={"x-request-id": "req-1"}
            ) as response:
                assert response.status == 200
            async with session.get('/no%0a%1b[31m"/\u2028') as response:
                assert response.status == 404

    asyncio.run(run())
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    access = [entry for entry in entries if entry["logger"] == "pagoda.server.access"]
    assert len(access) == 2
    first = access[0]
    assert (first["request_id"], first["method"], first["path"], first["status"]) == ("req-1", "POST", PATH, "200")
    assert first["milliseconds"] >= 0
    assert first["time"].endswith("+00:00")
    assert "secret words" not in file.read_text()


def test_an_exception_is_part_of_its_json_record() -> None:
    try:
        raise ValueError("broken\nin two lines")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("a", logging.ERROR, __file__, 1, "failed: %s", ("x",), info)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["level"], entry["message"]) == ("ERROR", "failed: x")
    assert "ValueError: broken" in entry["exception"]


def test_a_rotated_log_file_is_opened_anew(root_logger: logging.Logger, tmp_path: Path) -> None:
    file = tmp_path / "log"
    configure_logging(ServerSettings(log_file=str(file)))
    root_logger.info("before")
    file.rename(tmp_path / "log.1")
    reopen_log_files()
    root_logger.info("after")
    assert "before" in (tmp_path / "log.1").read_text()
    assert "after" in file.read_text()
    assert "before" not in file.read_text()


def test_an_unknown_log_format_is_refused() -> None:
    with pytest.raises(ValueError, match="log_format must be one of text, json, got 'xml'"):
        ServerSettings(log_format="xml").validate()
