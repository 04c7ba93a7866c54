"""What the tests of the sandbox share: exports as rows, made once a process."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import pytest
from piano_engage_sandbox.columns import GROUPS
from piano_engage_sandbox.data import log_rows

Rows = list[dict[str, str]]


class MakeRows(Protocol):
    """Makes an export with all columns."""

    def __call__(self, as_of: str, since: str | None = None, *, seed: int = 1, rows: int = 1000) -> Rows:
        """Give the export of a moment, its rows counted at `since`."""


@lru_cache(maxsize=32)
def _rows(as_of: str, since: str | None, seed: int, rows: int) -> Rows:
    return list(log_rows(as_of=as_of, since=since, seed=seed, rows=rows, groups=tuple(GROUPS)))


@pytest.fixture(scope="session")
def make_rows() -> MakeRows:
    """Give exports with all 99 columns; nobody may change the rows."""

    def make(as_of: str, since: str | None = None, *, seed: int = 1, rows: int = 1000) -> Rows:
        return _rows(as_of, since, seed, rows)

    return make
