"""Progress of what takes long: lines in a log, a bar on a terminal, silence for what is quick."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import duckdb
from piano_engage_common import progress
from piano_engage_common.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

LOGGER = logging.getLogger("tests.progress")
LONG = 60.0


def asked(times: int) -> tuple[Callable[[], float], threading.Event]:
    """A percentage that grows with each look, and an event for when it was looked at so often."""
    looks, enough = [0.0], threading.Event()

    def percent() -> float:
        looks[0] += 1
        if looks[0] >= times:
            enough.set()
        return looks[0] * 10

    return percent, enough


def test_quick_work_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), Progress(LOGGER, patience=LONG, terminal=False).steps("reading", lambda: 50):
        pass
    assert caplog.messages == []


def test_long_work_gets_a_line_now_and_then_and_one_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    percent, enough = asked(2)
    one = Progress(LOGGER, patience=0.001, every=0.001, terminal=False)
    with caplog.at_level("INFO"), one.steps("reading log.csv", percent, size="824 MB"):
        assert enough.wait(LONG)
    assert caplog.messages[0].startswith("reading log.csv: 10 % of 824 MB after ")
    assert caplog.messages[1].startswith("reading log.csv: 20 % of 824 MB after ")
    assert caplog.messages[-1].startswith("reading log.csv: done of 824 MB in ")


def test_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL", 0.001)
    percent, enough = asked(3)
    with Progress(LOGGER, patience=0.001, terminal=True).steps("reading log.csv", percent, size="824 MB"):
        assert enough.wait(LONG)
    shown = capsys.readouterr().err
    assert "reading log.csv (824 MB)" in shown
    assert "100%" in shown


def test_watcher_of_a_statement_ends_with_it(caplog: pytest.LogCaptureFixture) -> None:
    one = Progress(LOGGER, patience=LONG, terminal=False)
    with duckdb.connect() as connection, caplog.at_level("INFO"), one.watch("counting", connection):
        assert connection.sql("SELECT count(*) FROM range(10)").fetchall() == [(10,)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("Thread") and thread.daemon]
