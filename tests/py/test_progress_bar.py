"""Progress bars: nothing where there is no terminal, and a bar that goes away where there is one."""

from __future__ import annotations

import io
import sys

import pytest

from pagoda.progress_bar import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, shown: bool = True) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar("reading", total=4_000_000, shown=shown) as bar:
        bar.add(1_000_000)
        bar.show(2_000_000, 5_000_000)
    return stream.getvalue()


def test_a_terminal_shows_bytes_and_is_left_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(monkeypatch, Terminal())
    assert "reading" in text
    assert "4.00M" in text
    assert text.rsplit("\r", 1)[1].strip() == ""


def test_nothing_is_written_elsewhere_or_when_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, io.StringIO()) == ""
    assert drawn(monkeypatch, Terminal(), shown=False) == ""
