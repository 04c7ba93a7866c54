"""The sandbox in tests: `serving()` as a context manager, and pytest fixtures on free ports.

In a conftest.py: `pytest_plugins = ["piano_engage_sandbox.testing"]`, or import the fixtures. Then

    def test_nothing_is_sent_twice(sandbox):
        sandbox.control("POST", "faults", {"part": "engage", "reset": True, "when": "after", "times": 1})
        ...
        assert sandbox.control("GET", "counters")["lost_answers"] == 1
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from piano_engage_sandbox.server import Server
from piano_engage_sandbox.service import App, Options

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGINS = "2026-03-28T06:00"


@contextmanager
def serving(*, rows: int = 200, **options: Any) -> Iterator[Server]:  # noqa: ANN401 - those of Options
    """Serve a small sandbox whose clock stands still at BEGINS (Amsterdam) until a test moves it."""
    given: dict[str, Any] = {"apps": (App(rows=rows),), "begins": BEGINS, "running": False, **options}
    with Server(Options(**given)) as server:
        yield server


@pytest.fixture(name="sandbox")
def sandbox_fixture() -> Iterator[Server]:
    """Both vendors on a free port, with 200 subscriptions and a clock that stands still; a new one for each test."""
    with serving() as server:
        yield server


@pytest.fixture(name="sandbox_s3")
def sandbox_s3_fixture() -> Iterator[Server]:
    """The same, with the S3 bucket on another free port."""
    with serving(s3_port=0) as server:
        yield server
