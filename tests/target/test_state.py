"""STATE goes out if and only if its rows were delivered; a signal decides the exit code and nothing else."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.target.conftest import Engage

SIGNALS = [signal.SIGTERM, signal.SIGINT]

IMPATIENT = """
from target_recurly_engage.target import TargetRecurlyEngage
TargetRecurlyEngage._MAX_RECORD_AGE_IN_MINUTES = -1
"""
EARLY = (
    IMPATIENT
    + """
from singer_sdk import Target
TargetRecurlyEngage._handle_max_record_age = Target._handle_max_record_age
def fast_path_that_lets_state_out(self, message, process=TargetRecurlyEngage._process_record_message):
    process(self, message)
    self._handle_max_record_age()
TargetRecurlyEngage._process_record_message = fast_path_that_lets_state_out
"""
)

# The signal comes while the database is busy: it turns what the handler raises into an error of its own.
BUSY = """
import os, threading
from target_recurly_engage import run, sources
from target_recurly_engage.delivery import choice
def busy(connection):
    threading.Timer(0.3, os.kill, (os.getpid(), {signum})).start()
    for _ in range(40):
        connection.execute("SELECT sum(hash(range)) FROM range(20_000_000)").fetchall()
        if signalled: break
signalled = []
from target_recurly_engage.target import TargetRecurlyEngage
def noted(self, signum, frame, handle=TargetRecurlyEngage._handle_termination):
    signalled.append(signum)
    handle(self, signum, frame)
TargetRecurlyEngage._handle_termination = noted
"""
LOADING = (
    BUSY
    + """
class SlowIntake(sources.SubscriptionsIntake):
    def _load(self, *args, **options):
        with self._ledger.transaction():
            self._ledger.connection.execute("INSERT INTO incoming (user_id) VALUES ('half')")
            busy(self._ledger.connection)
        super()._load(*args, **options)
sources.SubscriptionsIntake = SlowIntake
"""
)
COMPARING = (
    BUSY
    + """
def slow_plan(ledger, *args, plan=run.make_plan, **options):
    busy(ledger.connection)
    return plan(ledger, *args, **options)
run.make_plan = slow_plan
"""
)
DELIVERING = (
    BUSY
    + """
class SlowDelivery(choice.FileDelivery):
    def {method}(self, *args):
        busy(self._ledger.connection)
        return super().{method}(*args)
choice.FileDelivery = SlowDelivery
"""
)
WRITING_STATE = (
    BUSY
    + """
def slow_state(self, state, write=TargetRecurlyEngage._write_state_message):
    os.kill(os.getpid(), {signum})
    write(self, state)
TargetRecurlyEngage._write_state_message = slow_state
"""
)


def many_states(engage: Engage) -> list[dict[str, object]]:
    start, *rows, last = engage.messages(engage.subscriptions(5))
    return [
        start,
        *(message for row in rows for message in (row, {"type": "STATE", "value": {"at": row["record"]}})),
        last,
    ]


@pytest.mark.parametrize("form", ["record", "parquet"])
def test_state_goes_out_once_at_the_end_however_old_the_rows_are(engage: Engage, form: str) -> None:
    if form == "record":
        messages = many_states(engage)
    else:
        first, second = engage.batch(engage.subscriptions(2), form), engage.batch(engage.subscriptions(4), form)
        messages = [*first[:2], {"type": "STATE", "value": {"early": 1}}, *second[1:]]
    run = engage.run(messages, script=IMPATIENT)
    assert (run.code, run.states) == (0, [messages[-1]["value"]])


def test_a_target_that_lets_state_out_early_is_found_out(engage: Engage) -> None:
    """The broken double of the test above, and of those where nothing is delivered."""
    messages = [*many_states(engage), {"type": "RECORD", "stream": "subscription_log", "record": {"user_id": "a"}}]
    run = engage.run([*messages, engage.schema(["user_id"])], script=EARLY)
    assert run.code != 0
    assert engage.files == []
    with pytest.raises(AssertionError):
        assert run.states == []


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_while_rows_come_ends_the_run_without_state(engage: Engage, signum: int) -> None:
    start, *rows, _ = engage.messages(engage.subscriptions(5))
    process = subprocess.Popen(engage.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(engage.lines([start, *rows, {"type": "STATE", "value": {"a": 1}}]))
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(engage.ledger.with_name("ledger.duckdb.work").glob("records-*.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signum)
    out, log = process.communicate(timeout=60)
    assert (process.returncode, out) == (128 + signum, b"")
    assert b"Traceback" not in log
    assert engage.files == []
    assert engage.summaries[-1]["status"] == "interrupted"
    assert "incoming" not in engage.dump()
    assert engage.run(engage.messages(engage.subscriptions(5))).code == 0
    assert len(engage.sent()) == 5


@pytest.mark.parametrize(
    ("double", "signum"),
    [(LOADING, signal.SIGTERM), (LOADING, signal.SIGINT), (COMPARING, signal.SIGTERM)],
    ids=["loading-15", "loading-2", "comparing"],
)
def test_a_signal_while_the_database_is_busy_ends_the_run_without_state(
    engage: Engage, double: str, signum: int
) -> None:
    run = engage.run(engage.batch(engage.subscriptions(3), "parquet"), script=double.format(signum=signum))
    assert (run.code, run.states, engage.files) == (128 + signum, [], [])
    assert "Traceback" not in run.log
    assert engage.query("SELECT status FROM runs") == [("interrupted",)]
    left = list((engage.folder / "batch").iterdir())
    assert len(left) == (1 if double == LOADING else 0)
    assert engage.query("SELECT count(*) FROM subscriptions") == [(0,)]


@pytest.mark.parametrize(
    ("method", "signum"),
    [("_write", signal.SIGTERM), ("_write", signal.SIGINT), ("_acknowledge", signal.SIGTERM)],
)
def test_a_signal_while_delivering_waits_until_state_is_out(engage: Engage, method: str, signum: int) -> None:
    run = engage.run(engage.messages(engage.subscriptions(3)), script=DELIVERING.format(signum=signum, method=method))
    assert (run.code, len(run.states), len(engage.files)) == (128 + signum, 1, 1)
    assert engage.query("SELECT status FROM deliveries") == [("written",)]
    assert engage.query("SELECT count(*) FROM delivered") == [(3,)]
    assert "0 changes" in engage.run(engage.messages(engage.subscriptions(3))).log


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_while_state_goes_out_lets_it_out_once(engage: Engage, signum: int) -> None:
    run = engage.run(engage.messages(engage.subscriptions(3)), script=WRITING_STATE.format(signum=signum))
    assert (run.code, len(run.states), len(engage.files)) == (128 + signum, 1, 1)


def test_state_goes_out_when_the_delivery_went_well_but_its_summary_cannot_be_written(engage: Engage) -> None:
    (engage.folder / "runs").write_text("in the way", encoding="utf-8")
    run = engage.run(engage.messages(engage.subscriptions(3)))
    assert (run.code, len(run.states), len(engage.files)) == (74, 1, 1)
    assert "writing the summary" in run.errors


def test_without_state_from_the_tap_none_goes_out(engage: Engage) -> None:
    run = engage.run(engage.messages(engage.subscriptions(1), state=None))
    assert (run.code, run.out) == (0, "")


def test_state_goes_out_as_it_came(engage: Engage) -> None:
    state = {"bookmarks": {"subscription_log": {"at": 1743120000.25, "wörd": [None, True, "é"], "n": 10**20}}}
    assert engage.run(engage.messages(engage.subscriptions(1), state=state)).states == [state]
