"""What people see while it lasts."""

from __future__ import annotations

import io
import re
import sys

import pytest

from vectorizer_engine.migration import words
from vectorizer_engine.migration.words import Progress, size


def test_sizes_are_told_in_decimal_units() -> None:
    assert [size(nbytes) for nbytes in (0, 999, 1000, 105_110_016, 5e12)] == [
        "0 B", "999 B", "1.0 KB", "105.1 MB", "5000.0 GB",
    ]  # fmt: skip


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 1.0, 10.0, 11.0])
    monkeypatch.setattr(words.time, "monotonic", lambda: next(now))
    with Progress(4000) as progress:
        for _ in range(3):
            progress.advance(500)
    assert capsys.readouterr().err == "1.0 KB of 4.0 KB, 30 s left\n"


def test_a_terminal_gets_a_bar_with_bytes_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    now = 0.0
    monkeypatch.setattr("click._termui_impl.time.time", lambda: now)
    with Progress(4000) as progress:
        now = 10.0
        progress.advance(1000)
        progress.advance(3000)
    assert "migrating" in terminal.getvalue()
    assert re.search(r"25% +00:00:30 +1\.0 KB of 4\.0 KB", terminal.getvalue())
    assert "4.0 KB of 4.0 KB" in terminal.getvalue()
