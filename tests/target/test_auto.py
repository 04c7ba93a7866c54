"""`delivery: auto`, and the order between a file that Engage may not have read and writes by the Ingest API."""

from __future__ import annotations

import random
import tempfile
import time
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from piano_engage_sandbox.testing import serving

from tests.target.conftest import PATIENCE, ROUNDS, all_held, places
from tests.target.test_cli import answer, ask
from tests.target.test_ingest import asked, held, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Engage


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(rows=5, s3_port=0, switches={"engage.csv_delay": 0}) as one:
        yield one


@pytest.fixture
def settings(server: Server) -> dict[str, Any]:
    return places(server) | {
        "delivery": "auto", "ingest_max_users": 5, "requests_per_second": 0, "retry_wait": 0, "retry_attempts": 3,
    }  # fmt: skip


def channels(engage: Engage) -> list[tuple[str, int]]:
    return engage.query("SELECT channel, users FROM deliveries WHERE status = 'acknowledged' ORDER BY started_at")


def hours_pass(engage: Engage, hours: float) -> None:
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute(
            f"UPDATE deliveries SET started_at = started_at - to_seconds({hours * 3600}), "
            f"acknowledged_at = acknowledged_at - to_seconds({hours * 3600})"
        )
        connection.execute(f"UPDATE overtaken SET after = after - to_seconds({hours * 3600})")


def test_few_go_by_the_api_and_many_by_a_file(server: Server, settings: dict[str, Any], engage: Engage) -> None:
    records = engage.subscriptions(20)
    run = engage.run(engage.snapshot(records), **settings)
    assert (run.code, len(run.states)) == (0, 1), run.log
    assert channels(engage) == [("s3", 20)]
    assert asked(server) == []
    hours_pass(engage, 4)
    for record in records[:5]:
        record["promo_code"] = "P"
    assert answer(engage, "plan", **settings)["delivery"] == "ingest"
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert channels(engage) == [("s3", 20), ("ingest", 5)]
    assert {request["user"] for request in asked(server)} == {f"u{n}" for n in range(1, 6)}
    for record in records[:6]:
        record["promo_code"] = "Q"
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert channels(engage) == [("s3", 20), ("ingest", 5), ("s3", 6)]


def test_a_reader_in_a_file_that_may_not_be_read_waits(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    records = engage.subscriptions(10)
    engage.run(engage.snapshot(records), **settings)
    records[0]["promo_code"] = "P"
    records.append(engage.subscription(11))
    run = engage.run(engage.snapshot(records), **settings)
    assert (run.code, len(run.states)) == (0, 1)
    assert "1 reader(s) wait" in run.log
    assert [request["user"] for request in asked(server)] == ["u11"]
    assert engage.summaries[-1]["requests"]["held"] == 1
    assert answer(engage, "plan", **settings)["waiting"] == {"rejected": 0, "in_flight": 1}
    records[0]["promo_code"] = "NEWEST"
    hours_pass(engage, 3.1)
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert (held(server, "u1") or {})["promo_code"] == told(engage, "u1")["promo_code"] == "NEWEST"


def test_one_file_is_on_its_way_at_a_time(settings: dict[str, Any], engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(10)), **settings)
    more = engage.snapshot(engage.subscriptions(20))
    run = engage.run(more, **settings)
    assert (run.code, channels(engage)) == (0, [("s3", 10)])
    assert "10 readers are due, which is many, but the last file counts as unread until" in run.log
    hours_pass(engage, 3.1)
    assert engage.run(more, **settings).code == 0
    assert channels(engage) == [("s3", 10), ("s3", 10)]


@pytest.mark.parametrize("delivery", ["auto", "ingest"])
def test_or_it_is_sent_at_once_and_again_after_the_file(
    server: Server, settings: dict[str, Any], engage: Engage, delivery: str
) -> None:
    records = engage.subscriptions(10)
    engage.run(engage.snapshot(records), **settings)
    records[0]["promo_code"] = "P"
    settings |= {"csv_overlap": "again", "delivery": delivery}
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert [request["user"] for request in asked(server)] == ["u1"]
    assert engage.query("SELECT user_id FROM overtaken") == [("u1",)]
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert len(asked(server)) == 1
    hours_pass(engage, 3.1)
    server.control("POST", "reset", {})  # Engage forgets: what it holds after is what came since
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert held(server, "u1") == told(engage, "u1")
    assert held(server, "u2") is None
    assert engage.query("SELECT count(*) FROM overtaken") == [(0,)]
    assert engage.summaries[-1]["users"]["again"] == 1


def test_who_vanishes_while_his_file_is_unread_is_cleared_again_after_it(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    records = engage.subscriptions(30)
    engage.run(engage.snapshot(records), **settings)
    settings |= {"csv_overlap": "again"}
    assert engage.run(engage.snapshot(records[1:]), **settings).code == 0
    assert [request["user"] for request in asked(server)] == ["u1"]
    hours_pass(engage, 3.1)
    server.control("POST", "reset", {})
    assert engage.run(engage.snapshot(records[1:]), **settings).code == 0
    assert [request["user"] for request in asked(server)] == ["u1"]
    assert held(server, "u1")["promo_code"] == "none"
    assert held(server, "u1") == told(engage, "u1")
    assert engage.run(engage.snapshot(records[1:]), **settings).code == 0
    assert len(asked(server)) == 1


def test_the_api_alone_waits_for_a_file_too(server: Server, settings: dict[str, Any], engage: Engage) -> None:
    records = engage.subscriptions(10)
    engage.run(engage.snapshot(records), **settings | {"delivery": "s3"})
    records[0]["promo_code"] = "P"
    settings |= {"delivery": "ingest"}
    engage.run(engage.snapshot(records), **settings)
    assert asked(server) == []
    engage.run(engage.snapshot(records), **settings, csv_ingest_hours=0)
    assert [request["user"] for request in asked(server)] == ["u1"]


def test_a_write_that_a_file_overtakes_is_found_out(server: Server, settings: dict[str, Any], engage: Engage) -> None:
    """The broken double: it looks at no file; Engage reads it after the write, and holds the older value."""
    server.control("POST", "switches", {"engage.csv_delay": "3600"})
    double = "from target_recurly_engage.delivery.overlap import Overlap\nOverlap.mark = lambda self, ledger, now: 0\n"
    double += (
        "from target_recurly_engage.delivery.ingest import IngestDelivery\n"
        "IngestDelivery._is_due = lambda self, now: 'true'\n"
    )
    records = engage.subscriptions(10)
    engage.run(engage.snapshot(records), **settings)
    records[0]["promo_code"] = "P"
    engage.run(engage.snapshot(records), script=double, **settings)
    server.control("POST", "clock", {"advance": "2h"})
    wait_for_files(server)
    with pytest.raises(AssertionError):
        assert (held(server, "u1") or {})["promo_code"] == told(engage, "u1")["promo_code"]


def test_a_user_is_in_one_unread_file_only(server: Server, settings: dict[str, Any], engage: Engage) -> None:
    settings |= {"delivery": "s3"}
    records = engage.subscriptions(10, promo_code="A")
    assert engage.run(engage.snapshot(records), **settings).code == 0
    records[0]["promo_code"] = "B"
    records.append(engage.subscription(11))
    assert answer(engage, "plan", **settings)["waiting"]["in_flight"] == 0, "nothing came yet"
    run = engage.run(engage.snapshot(records), **settings)
    assert (run.code, len(run.states)) == (0, 1)
    assert "1 user(s) changed again while their last file counts as unread, until 2" in run.log
    assert channels(engage) == [("s3", 10), ("s3", 1)]
    assert engage.summaries[-1]["requests"]["held"] == 1
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert channels(engage) == [("s3", 10), ("s3", 1)], "only who waits is due, so there is no file"
    records[0]["promo_code"] = "C"
    hours_pass(engage, 3.1)
    assert engage.run(engage.snapshot(records), **settings).code == 0
    assert channels(engage) == [("s3", 10), ("s3", 1), ("s3", 1)]
    wait_for_files(server)
    assert (held(server, "u1") or {})["promo_code"] == "C"


def test_or_both_files_are_sent_and_the_user_once_more_after_them(settings: dict[str, Any], engage: Engage) -> None:
    settings |= {"delivery": "s3", "csv_overlap": "again"}
    records = engage.subscriptions(10)
    engage.run(engage.snapshot(records), **settings)
    records[0]["promo_code"] = "B"
    engage.run(engage.snapshot(records), **settings)
    assert channels(engage) == [("s3", 10), ("s3", 1)]
    hours_pass(engage, 3.1)
    engage.run(engage.snapshot(records), **settings)
    assert channels(engage) == [("s3", 10), ("s3", 1), ("s3", 1)]
    engage.run(engage.snapshot(records), **settings)
    assert len(channels(engage)) == 3


def test_the_same_values_once_more_need_not_wait(settings: dict[str, Any], engage: Engage) -> None:
    """Whichever of two files is read last, it says the same."""
    settings |= {"delivery": "s3"}
    engage.run(engage.snapshot(engage.subscriptions(3)), **settings)
    with duckdb.connect(str(engage.ledger)) as connection:
        connection.execute("INSERT INTO overtaken SELECT 'u2', now()")
    engage.run(engage.snapshot(engage.subscriptions(3)), **settings)
    assert channels(engage) == [("s3", 3), ("s3", 1)]
    assert engage.query("SELECT count(*) FROM overtaken") == [(0,)]


def test_two_unread_files_with_one_user_are_found_out(settings: dict[str, Any], engage: Engage) -> None:
    """The broken double: nobody waits, so a bucket that is read in another order leaves the older value."""
    double = "from target_recurly_engage.delivery.overlap import Overlap\nOverlap.hold_back = lambda *a: (0, None)\n"
    settings |= {"delivery": "s3"}
    records = engage.subscriptions(3, promo_code="A")
    for code in ("A", "B"):
        records[0]["promo_code"] = code
        engage.run(engage.snapshot(records), script=double, **settings)
    with pytest.raises(AssertionError):
        assert channels(engage) == [("s3", 3)]


def test_who_was_rejected_and_dropped_is_tried_when_something_changes(
    server: Server, settings: dict[str, Any], engage: Engage
) -> None:
    settings |= {"delivery": "ingest", "max_reject_fraction": 1}
    server.control("POST", "faults", {"part": "engage", "status": 422, "times": 1})
    records = [engage.subscription(1)]
    engage.run(engage.snapshot(records), **settings)
    dropped = ask(engage, "rejects", "drop", "u1", **settings)
    assert dropped.stdout == "1 will be tried again when something of them changes\n"
    count = len(asked(server))
    engage.run(engage.snapshot(records), **settings)
    assert len(asked(server)) == count
    records[0]["promo_code"] = "P"
    engage.run(engage.snapshot(records), **settings)
    assert held(server, "u1") == told(engage, "u1")
    assert engage.query("SELECT count(*) FROM rejects") == [(0,)]


CHANNELS = ("s3", "ingest", "auto")
SMALL_GROUPS = "from target_recurly_engage.delivery import ingest\ningest.GROUP = 30\n"
WINDOW = 30 + 4 * 8
"""A group of outcomes, what is in flight, and what has landed beside them and is not looked at yet."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(len(CHANNELS) * ROUNDS) if ROUNDS > 1 else [CHANNELS.index("auto")])
def test_kill_at_random_moments(
    server: Server, settings: dict[str, Any], engage: Engage, make_engage: Callable[[], Engage], seed: int
) -> None:
    """Days with kill -9 at some moment, then run again: as if nothing had happened, and hardly anybody told twice."""
    dice = random.Random(seed)  # noqa: S311 - moments, no secrets
    delivery = CHANNELS[seed % len(CHANNELS)]
    settings |= {"delivery": delivery, "csv_ingest_hours": 0, "ingest_max_users": 150, "brake_max_change_fraction": 1}
    undisturbed = make_engage()
    records, longest = engage.subscriptions(200), 0.5
    for day in range(3):
        changed = records[: dice.choice([100, 180]) if day else 200]
        for record in changed:
            record["promo_code"] = f"DAY{day}"
        messages = engage.snapshot(records)
        server.control("DELETE", "requests")
        with tempfile.TemporaryFile() as out:
            process = engage.start(messages, out, script=SMALL_GROUPS, **settings)
            time.sleep(dice.uniform(0, longest))
            process.kill()
            process.wait(PATIENCE)
            out.seek(0)
            if out.read():
                assert told_on(engage, day) == len(changed), "STATE is ahead"
        started = time.monotonic()
        assert engage.run(messages, **settings).code == 0
        longest = time.monotonic() - started
        assert undisturbed.run(messages, brake_max_change_fraction=1).code == 0
        wait_for_files(server)
        assert engage.told_all() == undisturbed.told_all() == all_held(server)
        assert len(asked(server)) <= len(changed) + WINDOW
    assert "0 changes" in engage.run(messages, **settings).log
    ways = {channel for channel, _ in channels(engage)}
    assert ways <= {"s3", "ingest"} if delivery == "auto" else ways == {delivery}


def told_on(engage: Engage, day: int) -> int:
    """Count the readers of whom the ledger says that they were told of that day."""
    return int(engage.query(f"SELECT count(*) FROM delivered WHERE promo_code = 'DAY{day}'")[0][0])


def wait_for_files(server: Server) -> None:
    deadline = time.monotonic() + 60
    while {file["status"] for file in server.control("GET", "engage")["files"]} - {"done"}:
        assert time.monotonic() < deadline
        time.sleep(0.02)
