"""The same as :class:`piano_actions.traits.Reckoner`, in a process of its own.

Working out traits is a quarter of a second of computing. In the service's own process it would hold up whoever is
answered meanwhile: clicks, and webhooks that come two hundred a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from piano_actions import rules
from piano_actions.traits import Reckoner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from piano_actions.traits import Case, Change, Known

NICE: Final = 10
"""How far it stands back where there is not enough of the machine for all: answers come first."""

_RECKONER: list[Reckoner] = []
"""The one of this process, if it is such a process."""


class Aside:
    """Works out what to tell of readers; used by many threads.

    Args:
        config: the target's settings.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Start the process, which takes a second, without waiting for it."""
        self._config = dict(config)
        self._one_at_a_time = threading.Lock()
        self._process = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        process = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self._config,))
        process.submit(os.getpid)
        return process

    def close(self) -> None:
        """Let what is under way come to an end, and end the process."""
        with suppress(BrokenProcessPool):  # which it is, for it ends before it answers
            self._process.submit(_end).result()
        self._process.shutdown(wait=True)

    def look_up(self, ledger: Path | None, user_ids: Iterable[str]) -> dict[str, Known]:
        """Ask the ledger about readers.

        Raises:
            LedgerBusy: a run has it.
            duckdb.Error: it is no ledger.
            OSError: the process ended twice.
        """
        return self._ask(_look_up, ledger, list(user_ids))  # type: ignore[no-any-return]

    def changes(self, cases: Mapping[str, Case], *, now: int) -> dict[str, Change]:
        """Work out which traits of some readers differ from what Engage was told.

        Raises:
            duckdb.Error: that did not succeed.
            OSError: the process ended twice.
        """
        return self._ask(_changes, dict(cases), now)  # type: ignore[no-any-return]

    def _ask(self, what: Callable[..., Any], *given: object) -> Any:  # noqa: ANN401 - what was asked for
        """Ask the process; another one begins where it has ended, for what it was asked is nowhere else."""
        process = self._process
        try:
            return process.submit(what, *given).result()
        except BrokenProcessPool:
            with self._one_at_a_time:
                if self._process is process:
                    self._process = self._start()
        try:
            return self._process.submit(what, *given).result()
        except BrokenProcessPool as e:
            msg = "the process that works out traits ended twice; is there enough memory?"
            raise ChildProcessError(msg) from e


# In that process


def _begin(config: dict[str, Any]) -> None:
    """Make the tables to work on; whoever started the process says when it ends, and it does not outlive him."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    os.nice(NICE)
    _RECKONER.append(Reckoner(rules.contract(config), typed=config["ingest_values"] == "typed"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    _end()


def _end() -> None:
    """Be gone at once: an orderly end of Python has DuckDB complain of what it holds in threads."""
    os._exit(0)


def _look_up(ledger: Path | None, user_ids: list[str]) -> dict[str, Known]:
    return _RECKONER[0].look_up(ledger, user_ids)


def _changes(cases: dict[str, Case], now: int) -> dict[str, Change]:
    return _RECKONER[0].changes(cases, now=now)
