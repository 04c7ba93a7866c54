"""The brake: what looks like a broken export stops the run before Engage hears of it."""

from __future__ import annotations

import re
import subprocess
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


def fingerprint(message: str) -> str:
    """The way out that a message names."""
    found = re.search(r"--accept ([0-9a-f]{16})$", message)
    assert found
    return found[1]


def goes_through_once(engage: Engage, messages: Iterable[Message], accepted: str) -> None:
    run = engage.run(messages, accept=accepted)
    assert (run.code, len(run.states)) == (0, 1), run.log
    assert "let through as told" in run.log
    ((found, done),) = engage.query("SELECT fingerprint, finished_at IS NOT NULL FROM accepted")
    assert (found, done) == (accepted, True)


@pytest.mark.parametrize("left", [0, 89])
def test_a_shrunken_snapshot_is_held_back_and_goes_through_when_it_was_looked_at(engage: Engage, left: int) -> None:
    engage.run(engage.snapshot(engage.subscriptions(100)))
    small = engage.snapshot(engage.subscriptions(left))
    said = held_back(engage, small)
    assert f"is complete with {left} rows, where the ledger holds 100; {100 - left} would have vanished" in said
    assert f"{100 - left} of 100 readers" in said
    goes_through_once(engage, small, fingerprint(said))
    assert len(engage.sent()) == 100 - left


def test_what_was_let_through_once_is_held_back_when_it_comes_again(engage: Engage) -> None:
    full, small = engage.snapshot(engage.subscriptions(100)), engage.snapshot(engage.subscriptions(50))
    engage.run(full)
    accepted = fingerprint(held_back(engage, small))
    goes_through_once(engage, small, accepted)
    assert engage.run(full).code == 0
    run = engage.run(small, accept=accepted)
    assert (run.code, run.states) == (BRAKE, [])
    assert f"--accept {accepted} was used up on 20" in run.errors


def test_another_plan_is_held_back_although_one_was_let_through(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(100)))
    accepted = fingerprint(held_back(engage, engage.snapshot(engage.subscriptions(50))))
    run = engage.run(engage.snapshot(engage.subscriptions(49)), accept=accepted)
    assert (run.code, run.states) == (BRAKE, [])
    assert f"--accept {accepted} is for another plan" in run.errors
    assert fingerprint(run.errors) != accepted


def test_the_same_rows_are_held_back_under_the_same_fingerprint(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(100)))
    small = engage.snapshot(engage.subscriptions(50))
    assert fingerprint(held_back(engage, small)) == fingerprint(held_back(engage, small))


@pytest.mark.parametrize("way", ["environment", "command line"])
def test_the_ways_that_the_message_names_work(engage: Engage, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    engage.run(engage.snapshot(engage.subscriptions(100)))
    small = engage.lines(engage.snapshot(engage.subscriptions(50)))
    accepted = fingerprint(engage.run(small).errors)
    command = engage.command()
    if way == "environment":
        monkeypatch.setenv("TARGET_RECURLY_ENGAGE_ACCEPT", accepted)
        command += ["--config", "ENV"]
    else:
        command += ["--accept", accepted]
    done = subprocess.run(command, input=small, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert len(engage.sent()) == 50


def test_a_brake_that_lets_everything_pass_that_was_accepted_before_is_found_out(engage: Engage) -> None:
    """The broken double: it looks at no fingerprint."""
    double = (
        "from target_recurly_engage import run\nrun.Brake.apply = lambda self, plan, accepted, used: bool(accepted)"
    )
    engage.run(engage.snapshot(engage.subscriptions(100)))
    run = engage.run(engage.snapshot(engage.subscriptions(50)), script=double, accept="0123456789abcdef")
    with pytest.raises(AssertionError):
        assert (run.code, run.states) == (BRAKE, [])


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
    goes_through_once(engage, engage.snapshot([*readers[:90], *many]), fingerprint(said))


def test_a_snapshot_of_other_readers_is_held_back(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(50)))
    others = [engage.subscription(n, f"other-{n}") for n in range(1000, 1050)]
    said = held_back(engage, engage.snapshot(others))
    assert "50 of 50 readers (every one: did the readers' ids change?)" in said
    assert "all ids changed, none of the 50 known rows is among the 50 that came" in said


def test_other_subscriptions_of_the_same_readers_are_held_back(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(50)))
    others = [engage.subscription(n + 1000, n) for n in range(1, 51)]
    said = held_back(engage, engage.snapshot(others))
    assert "all ids changed" in said
    goes_through_once(engage, engage.snapshot(others), fingerprint(said))


def test_the_same_subscriptions_of_other_readers_are_held_back(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(50)))
    others = [engage.subscription(n, f"other-{n}") for n in range(1, 51)]
    assert "50 of 50 readers (every one: did the readers' ids change?)" in held_back(engage, engage.snapshot(others))


def test_too_many_changes_are_held_back(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(10)))
    other = engage.snapshot(engage.subscriptions(10, term_name="Other"))
    assert "10 of 10 users (100.0 %) would change, most of them in term_name" in held_back(engage, other)
    assert engage.run(other, brake_max_change_fraction=1).code == 0


def test_nothing_of_a_dry_run_stays(engage: Engage) -> None:
    records = engage.subscriptions(20)
    engage.run(engage.snapshot(records))
    before = engage.dump()
    records[3]["term_name"] = "Other"
    run = engage.run(engage.snapshot(records[:-1]), dry_run=True)
    assert (run.code, run.states, len(engage.files)) == (0, [], 1), run.log
    assert engage.dump() == before
    assert "dry run: 0 new, 1 changed, 1 cleared, 18 unchanged; delivery: file" in run.log
    assert "u4: term_name none → Other" in run.log
    assert engage.summaries[-1]["status"] == "dry run"


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
    said = held_back(engage, messages)
    assert "no column for subscription_status, term_type, which" in said
    if form == "record":
        goes_through_once(engage, messages, fingerprint(said))
        assert {row["term_type"] for row in engage.sent().values()} == {"none"}


def test_without_the_brake_the_readers_would_have_been_cleared(engage: Engage) -> None:
    """The broken double: a brake that never holds."""
    double = "from target_recurly_engage import run\nrun.Brake.apply = lambda *a, **k: False"
    engage.run(engage.snapshot(engage.subscriptions(20)))
    run = engage.run(engage.snapshot([]), script=double)
    assert run.code == 0
    with pytest.raises(AssertionError):
        assert (run.code, run.states, len(engage.files)) == (BRAKE, [], 1)
