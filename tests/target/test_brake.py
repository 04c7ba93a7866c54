"""The brake: what looks like a broken export stops the run before Engage hears of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import duckdb
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.target.conftest import Engage, Message

BRAKE = 80


def held_back(engage: Engage, messages: Iterable[Message]) -> str:
    """Nothing is sent, the ledger is as it was, no STATE goes out; the message is in the summary, too."""
    before, files = engage.dump(), engage.files
    run = engage.run(messages)
    assert (run.code, run.states, engage.files) == (BRAKE, [], files)
    assert engage.dump() == before
    told = engage.summaries[-1]
    assert told["status"] == "stopped"
    assert told["message"] in run.errors
    assert "Nothing was sent" in run.errors
    assert engage.query("SELECT status FROM runs ORDER BY started_at DESC LIMIT 1") == [("stopped",)]
    return run.errors


def setting(message: str) -> dict[str, float]:
    """The way out that a message names."""
    found = re.search(r"(brake_\w+) of at (?:most|least) ([0-9.]+)\.$", message)
    assert found
    return {found[1]: float(found[2])}


@pytest.mark.parametrize("left", [0, 89])
def test_a_shrunken_snapshot_is_held_back_and_goes_through_with_the_setting_it_names(engage: Engage, left: int) -> None:
    engage.run(engage.snapshot(engage.subscriptions(100)))
    small = engage.snapshot(engage.subscriptions(left))
    said = held_back(engage, small)
    assert f"the log holds {left} subscriptions, the ledger 100" in said
    said_next = engage.run(small, **setting(said)).errors
    assert f"{100 - left} of 100 readers would have all traits cleared" in said_next
    run = engage.run(small, **setting(said), **setting(said_next))
    assert (run.code, len(run.states)) == (0, 1)
    assert len(engage.sent()) == 100 - left


def test_a_snapshot_just_large_enough_goes_through(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(100)))
    assert engage.run(engage.snapshot(engage.subscriptions(95))).code == 0
    assert set(engage.sent()) == {f"u{n}" for n in range(96, 101)}


def test_too_many_cleared_readers_are_held_back_even_when_the_snapshot_is_large(engage: Engage) -> None:
    readers = engage.subscriptions(100)
    many = [engage.subscription(n, "busy") for n in range(200, 300)]
    engage.run(engage.snapshot([*readers, *many]))
    said = held_back(engage, engage.snapshot([*readers[:90], *many]))
    assert "10 of 101 readers" in said
    assert engage.run(engage.snapshot([*readers[:90], *many]), **setting(said)).code == 0


def test_a_snapshot_of_other_readers_is_held_back(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(50)))
    others = [engage.subscription(n, f"other-{n}") for n in range(1000, 1050)]
    assert "50 of 50 readers would have all traits cleared" in held_back(engage, engage.snapshot(others))


@pytest.mark.parametrize("form", ["record", "parquet"])
def test_a_column_that_is_gone_is_held_back(engage: Engage, form: str) -> None:
    """`renewed` was false for everybody, which is how it is cleared: without it nothing changes."""
    engage.run(engage.snapshot(engage.subscriptions(5)))
    gone = {"subscription_status", "term_type", "renewed"}
    lacking = [name for name in engage.schema()["schema"]["properties"] if name not in gone]
    records = engage.subscriptions(5)
    if form == "record":
        messages = engage.snapshot(records, properties=lacking)
    else:
        messages = engage.batch(records, "parquet", version=1)
        path = messages[1]["manifest"][0].removeprefix("file://")
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT {', '.join(lacking)} FROM '{path}') TO '{path}.new' (FORMAT parquet)")
        messages[1]["manifest"] = [f"file://{path}.new"]
    assert "no column for subscription_status, term_type, which" in held_back(engage, messages)


def test_a_column_that_was_never_there_holds_nothing_back(engage: Engage) -> None:
    never = [name for name in engage.schema()["schema"]["properties"] if name != "promo_code"]
    for _ in range(2):
        run = engage.run(engage.snapshot(engage.subscriptions(5), properties=never))
        assert run.code == 0, run.log
    assert len(engage.files) == 1


def test_without_the_brake_the_readers_would_have_been_cleared(engage: Engage) -> None:
    """The broken double: a brake that never holds."""
    double = (
        "from target_recurly_engage import run\nrun.Brake.check_rows = run.Brake.check_clears = lambda *a, **k: None"
    )
    engage.run(engage.snapshot(engage.subscriptions(20)))
    run = engage.run(engage.snapshot([]), script=double)
    assert run.code == 0
    with pytest.raises(AssertionError):
        assert (run.code, run.states, len(engage.files)) == (BRAKE, [], 1)
