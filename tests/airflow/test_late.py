"""What is called when a run is late; that Airflow calls it, test_airflow.py shows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import piano_engage_late
import pytest
from piano_engage_late import tell

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT: dict[str, Any] = {"dag_run": {"dag_id": "log", "state": "running"}, "deadline": {"id": "1"}}


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    """A program that notes with which words it was called."""
    path = tmp_path / "hook"
    path.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >> {tmp_path}/called\ncat\n')
    path.chmod(0o755)
    return path


def test_the_hook_is_told_the_dag_and_the_minutes(hook: Path, tmp_path: Path) -> None:
    asyncio.run(tell(str(hook), 7.5, CONTEXT))
    assert (tmp_path / "called").read_text() == "log||deadline|minutes=7.5|"
    assert asyncio.run(tell(None, 90, CONTEXT)) == "nobody is to be told"


@pytest.mark.parametrize(("state", "called"), [("queued", True), ("success", True), ("failed", False)])
def test_what_failed_was_told_then_and_is_not_told_again(state: str, called: bool, hook: Path, tmp_path: Path) -> None:  # noqa: FBT001
    context = {"dag_run": {"dag_id": "log", "state": state}}
    asyncio.run(tell(str(hook), 90, context))
    assert (tmp_path / "called").exists() is called


@pytest.mark.parametrize(("does", "words"), [("exit 3", "ended with 3"), ("exec sleep 60", "took more than")])
def test_a_hook_that_fails_or_hangs_is_told_to_airflow(
    does: str, words: str, hook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piano_engage_late, "HOOK_SECONDS", 0.3)
    hook.write_text(f"#!/bin/sh\n{does}\n")
    with pytest.raises(RuntimeError, match=words):
        asyncio.run(tell(str(hook), 90, CONTEXT))
