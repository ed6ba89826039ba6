"""The files of a batch: requests, one JSON object a line, and the answers that are there. Used by `run-batch`."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagoda.config import ConfigError

_MAX_FAULTS = 20
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line of the input."""

    custom_id: str
    url: str
    body: dict[str, Any]


def check_batch(path: Path, urls: Collection[str]) -> int:
    """Counts the requests in a file. Raises ConfigError that names every faulty line, the first twenty of many."""
    faults: list[str] = []
    seen: dict[str, int] = {}
    count = 0
    for number, line in _lines(path):
        count += 1
        try:
            request = _parse(line, urls)
        except ValueError as fault:
            faults.append(f"{path}:{number}: {fault}")
        else:
            first = seen.setdefault(request.custom_id, number)
            if first != number:
                faults.append(f"{path}:{number}: custom_id {request.custom_id[:60]!r} is also that of line {first}")
        if len(faults) == _MAX_FAULTS:
            break
    if not count:
        faults.append(f"{path} holds no request")
    if faults:
        raise ConfigError(faults)
    return count


def read_batch(path: Path, urls: Collection[str]) -> Iterator[BatchRequest]:
    """The requests of a file that `check_batch` has accepted, read as they are asked for."""
    for _, line in _lines(path):
        yield _parse(line, urls)


def resume(path: Path) -> set[str]:
    """The ids that the output file has answers for; those it need not keep are removed from it.

    These are a last line that was cut off, and answers that tell of a failure of the server (status 500 and above),
    which are tried again. Raises ConfigError when the file is something else than such an output.
    """
    if not path.exists():
        return set()
    done: set[str] = set()
    kept: list[bytes] = []
    data = path.read_bytes()
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            entry = json.loads(line)
            custom_id, status = str(entry["custom_id"]), int(entry["response"]["status_code"])
        except (ValueError, KeyError, TypeError):
            if not line.endswith(b"\n"):
                break
            raise ConfigError([f"{path}:{number}: is no answer of a batch; give another file for the output"]) from None
        if status < _SERVER_ERROR:
            done.add(custom_id)
            kept.append(line if line.endswith(b"\n") else line + b"\n")
    if b"".join(kept) != data:
        beside = path.with_name(f"{path.name}.part")
        beside.write_bytes(b"".join(kept))
        os.replace(beside, path)
    return done


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, numbered from 1."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: must be UTF-8 text, got byte 0x{error.object[error.start]:02x}"]) from None


def _parse(line: str, urls: Collection[str]) -> BatchRequest:
    """Raises ValueError that says what is wrong with the line."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(entry, dict):
        raise ValueError("must be a JSON object")
    custom_id, method, url, body = (entry.get(name) for name in ("custom_id", "method", "url", "body"))
    if not isinstance(custom_id, str) or not custom_id:
        raise ValueError("custom_id must be a string that is not empty")
    if method != "POST":
        raise ValueError(f"method must be POST, got {json.dumps(method)[:60]}")
    if url not in urls:
        raise ValueError(f"url must be one of {', '.join(sorted(urls))}, got {json.dumps(url)[:80]}")
    if not isinstance(body, dict):
        raise ValueError("body must be a JSON object")
    if body.get("stream"):
        raise ValueError("body.stream must be false: the answers of a batch are whole")
    return BatchRequest(custom_id, str(url), body)
