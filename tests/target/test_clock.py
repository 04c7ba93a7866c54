"""A machine whose clock jumps, between two runs or in the middle of one: nobody is lost, forgotten or told twice."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from piano_engage_sandbox.testing import serving

from tests.target.conftest import ROUNDS, all_held, places
from tests.target.test_auto import wait_for_files
from tests.target.test_ingest import asked, held, poison

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Engage

CLOCK = """
import datetime as module
from target_recurly_engage import ledger, run
from target_recurly_engage.delivery import auto, csvs, ingest
DAYS = {days}
class Clock(module.datetime):
    away = 0
    @classmethod
    def now(cls, tz=None):
        return module.datetime.now(tz) + module.timedelta(days=cls.away)
for one in (run, ledger, auto, csvs, ingest):
    one.datetime = Clock
"""
WRONG = f"{CLOCK}Clock.away = DAYS\n"
"""All of a run is so many days away."""

JUMPS = f"""{CLOCK}
from target_recurly_engage.engage import IngestClient
from target_recurly_engage.delivery.s3 import S3Delivery
def jump(name, kind):
    original = getattr(kind, name)
    def do(self, *arguments):
        Clock.away = DAYS
        return original(self, *arguments)
    setattr(kind, name, do)
jump("write", IngestClient)
jump("_publish", S3Delivery)
"""
"""The clock jumps when the first reader, or the file, is sent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(rows=5, s3_port=0, switches={"engage.csv_delay": 0}) as one:
        yield one


@pytest.fixture
def settings(server: Server) -> dict[str, Any]:
    return places(server) | {"requests_per_second": 0, "retry_wait": 0, "max_reject_fraction": 1}


def moments_ahead(engage: Engage) -> int:
    """Count moments in the ledger, other than of waiting, that lie in the future."""
    columns = {"deliveries": "acknowledged_at", "rejects": "last_at", "runs": "started_at"}
    return sum(
        engage.query(f"SELECT count(*) FROM {table} WHERE {column} > now()")[0][0] for table, column in columns.items()
    )


CASES = list(itertools.product(("ingest", "s3", "auto"), ("all of a run", "in the middle"), (12, -12, -400)))
SOME = [case for case in CASES if case[1:] in {("all of a run", 12), ("in the middle", -12)}]


@pytest.mark.parametrize(("delivery", "when", "days"), CASES if ROUNDS > 1 else SOME)
def test_a_run_whose_clock_is_wrong_loses_nobody_and_the_next_one_goes_on(
    delivery: str, when: str, days: int, server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    settings |= {"delivery": delivery, "ingest_max_users": 10}
    records = engage.subscriptions(30)
    poison(server, "u25")
    if delivery == "auto":  # by a file that may not have been read; the rest by the API
        assert engage.run(engage.snapshot(records[:22]), **settings).code == 0
    script = {"all of a run": WRONG, "in the middle": JUMPS}[when].format(days=days)
    run = engage.run(engage.snapshot(records), script=script, **settings)
    assert (run.code, len(run.states)) == (0, 1), run.log
    server.control("DELETE", "faults")
    records[5]["promo_code"] = "LATER"
    again = engage.run(engage.snapshot(records), **settings)
    assert (again.code, len(again.states)) == (0, 1), again.log
    assert ("by this machine's clock" in again.log) == (days > 0)
    assert moments_ahead(engage) == 0
    due = len(records) - engage.query("SELECT count(*) FROM delivered")[0][0]
    hours_at_most(engage, 4)
    server.control("DELETE", "requests")
    last = engage.run(engage.snapshot(records), **settings, csv_ingest_hours=0)
    assert last.code == 0
    wait_for_files(server)
    assert len(asked(server)) <= due + 2, "nobody is told again who was told"
    found = all_held(server)
    assert {user: found[user] for user in engage.told_all()} == engage.told_all()
    assert len(engage.told_all()) == 30
    assert found["u6"]["promo_code"] == "LATER"


def hours_at_most(engage: Engage, hours: int) -> None:
    """Let the time of those pass who wait no longer than that."""
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute(f"UPDATE rejects SET next_at = next_at - INTERVAL {hours} HOUR")
        connection.execute(f"UPDATE overtaken SET after = after - INTERVAL {hours} HOUR")


@pytest.mark.parametrize("delivery", ["ingest", "s3"])
def test_a_clock_that_is_ahead_by_years_and_comes_back_sends_nothing_again(
    delivery: str, server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    """While it is ahead all readers are old, and are told in full once; the same values, so nothing is wrong."""
    settings |= {"delivery": delivery, "csv_ingest_hours": 0}
    records = engage.subscriptions(10)
    engage.run(engage.snapshot(records), **settings)
    engage.run(engage.snapshot(records), script=WRONG.format(days=1000), **settings)
    assert engage.summaries[-1]["users"]["again"] == 10
    server.control("DELETE", "requests")
    files = len(server.control("GET", "engage")["files"])
    for _ in range(2):
        assert engage.run(engage.snapshot(records), **settings).code == 0
    assert (asked(server), len(server.control("GET", "engage")["files"])) == ([], files)


def test_a_ledger_that_believes_a_wrong_clock_for_ever_is_found_out(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    """The broken double: a reader whom Engage rejected while the clock was ahead waits until it is there again."""
    settings |= {"delivery": "ingest"}
    poison(server, "u1")
    engage.run(engage.snapshot(engage.subscriptions(1)), script=WRONG.format(days=12), **settings)
    server.control("DELETE", "faults")
    double = "from target_recurly_engage import run\nrun.look_at_the_clock = lambda *_: None\n"
    hours_at_most(engage, 4)
    engage.run(engage.snapshot(engage.subscriptions(1)), script=double, **settings)
    with pytest.raises(AssertionError):
        assert held(server, "u1") is not None
    assert engage.run(engage.snapshot(engage.subscriptions(1)), **settings).code == 0
    assert held(server, "u1") is not None


def test_a_clock_that_is_behind_for_one_run_does_not_let_an_unread_file_win(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    """The file counts as read by the wrong clock; when it is read in truth, its readers are told once more."""
    records = engage.subscriptions(10)
    engage.run(engage.snapshot(records), **settings, delivery="s3")
    settings |= {"delivery": "ingest", "csv_overlap": "again"}
    assert engage.run(engage.snapshot(records), script=WRONG.format(days=-2), **settings).code == 0
    waiting = "SELECT count(DISTINCT user_id) FROM overtaken WHERE after BETWEEN now() + INTERVAL 2 HOUR AND now() + "
    assert engage.query(f"{waiting} INTERVAL 4 HOUR") == [(10,)]
    hours_at_most(engage, 4)
    server.control("DELETE", "requests")
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert {request["user"] for request in asked(server)} == {f"u{number}" for number in range(1, 11)}
