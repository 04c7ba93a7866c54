"""Progress of whatever takes longer than two seconds: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

    import duckdb

PATIENCE = 2.0
"""Seconds of silence before the first sign of progress."""

EVERY = 10.0
"""Seconds between two lines in a log."""

POLL = 0.25
"""Seconds between two looks at how far a statement is."""

WHOLE = 100.0


class Progress:
    """Tells a person how far a piece of work is.

    Args:
        logger: where the lines go when nobody watches a terminal.
        patience: seconds of silence before the first sign.
        every: seconds between two lines.
        terminal: whether somebody watches standard error; found out when None.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        patience: float = PATIENCE,
        every: float = EVERY,
        terminal: bool | None = None,
    ) -> None:
        """Remember where to report."""
        self._logger = logger
        self._patience = patience
        self._every = every
        self._terminal = sys.stderr.isatty() if terminal is None else terminal

    @contextmanager
    def watch(self, doing: str, connection: duckdb.DuckDBPyConnection, *, size: str = "") -> Iterator[None]:
        """Report on the statements that *connection* runs inside the ``with`` block.

        Args:
            doing: what is being done, such as ``"reading log.csv"``.
            connection: the connection whose progress is asked for, from a thread of our own.
            size: how much there is, such as ``"1,000,000 rows, 824 MB"``; shown behind the percentage.
        """
        with self.steps(doing, lambda: max(connection.query_progress(), 0.0), size=size):
            yield

    @contextmanager
    def steps(self, doing: str, percent: Callable[[], float], *, size: str = "") -> Iterator[None]:
        """Report inside the ``with`` block what *percent* (0 to 100) answers."""
        done = threading.Event()
        report = self._bar if self._terminal else self._lines
        watcher = threading.Thread(target=report, args=(doing, size, percent, done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _bar(self, doing: str, size: str, percent: Callable[[], float], done: threading.Event) -> None:
        if done.wait(self._patience):
            return
        label = f"{doing} ({size})" if size else doing
        with tqdm(desc=label, total=WHOLE, bar_format="{desc} {percentage:3.0f}%|{bar:30}| {elapsed}") as bar:
            while not done.wait(POLL):
                bar.update(max(min(percent(), WHOLE) - bar.n, 0))
            bar.update(WHOLE - bar.n)

    def _lines(self, doing: str, size: str, percent: Callable[[], float], done: threading.Event) -> None:
        started = time.monotonic()
        wait = self._patience
        label = f" of {size}" if size else ""
        spoke = False
        while not done.wait(wait):
            seconds = time.monotonic() - started
            self._logger.info("%s: %.0f %%%s after %.0f s", doing, min(percent(), WHOLE), label, seconds)
            wait, spoke = self._every, True
        if spoke:
            self._logger.info("%s: done%s in %.1f s", doing, label, time.monotonic() - started)
