"""The sandbox's clock: it stands, runs, is moved, and never goes back."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from piano_engage_sandbox.now import Now


def test_a_clock_that_stands_moves_only_by_hand() -> None:
    now = Now(1000.0, running=False)
    assert now() == now() == 1000.0
    assert now.advance(5) == 1005.0
    assert now.set(2000) == 2000.0


def test_a_running_clock_runs_with_the_machines() -> None:
    now = Now(1000.0)
    before = time.monotonic()
    first = now()
    while now() == first:
        pass
    assert 1000.0 <= first < now() <= 1000.0 + time.monotonic() - before + 1


def test_it_begins_with_the_machines_time_unless_told() -> None:
    before = time.time()
    assert before <= Now()() <= time.time()


@pytest.mark.parametrize("running", [True, False])
def test_it_does_not_go_back(running: bool) -> None:  # noqa: FBT001
    now = Now(1000.0, running=running)
    with pytest.raises(ValueError, match="does not go back"):
        now.advance(-1)
    with pytest.raises(ValueError, match="does not go back"):
        now.set(500)
    assert now() >= 1000.0


@given(st.lists(st.one_of(st.booleans(), st.integers(0, 10**6))))
def test_stopping_and_starting_loses_and_gains_no_time(steps: list[bool | int]) -> None:
    now = Now(0.0, running=False)
    moved, last = 0, 0.0
    for step in steps:
        if isinstance(step, bool):
            now.run(running=step)
            assert now.running is step
        else:
            moved += step
            now.advance(step)
        assert now() >= max(last, moved)
        last = now()
    now.run(running=False)
    assert now() < moved + 60


def test_watchers_hear_of_moves_by_hand() -> None:
    now = Now(0.0, running=False)
    heard: list[float] = []
    now.watch(heard.append)
    now.advance(60)
    now.set(100)
    assert heard == [60.0, 100.0]
