"""Deliveries whose outcome nobody knows: Engage took a change, and the run never learned it.

In each test a change is applied at Engage and the acknowledgement is lost; the next day the value is back as it was
before, so that a plan made of what was acknowledged is empty. Engage must hold the right value all the same.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import boto3
import duckdb
import pytest
from click.testing import CliRunner
from piano_engage_common.stops import Outage
from piano_engage_sandbox.testing import serving
from target_recurly_engage.cli import main

from tests.target.conftest import PATIENCE, all_held, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Engage, Record, Run

DIE = "import os; os.kill(os.getpid(), 9)"
KILLED = -signal.SIGKILL
USERS = 30
FORGETS = """
from target_recurly_engage.delivery import doubt, ingest
doubt.take_as_unknown = ingest.take_as_unknown = lambda *args, **options: 0
"""
"""A broken double: whoever is not acknowledged counts as not sent."""

BLIND = """
from botocore.client import BaseClient
from botocore.exceptions import ClientError
def call(self, operation, parameters, original=BaseClient._make_api_call):
    if operation == "HeadObject":
        raise ClientError({"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, operation)
    return original(self, operation, parameters)
BaseClient._make_api_call = call
"""
"""The right to write, and none to look."""

KILL_INGEST = f"""
from target_recurly_engage.delivery import ingest
def die(*args):
    {DIE}
ingest.IngestDelivery._note = die
"""
KILL_S3 = f"""
from target_recurly_engage import bucket
def die(*args):
    {DIE}
bucket.BucketClient._compare = die
"""
KILL_FILE = f"""
from target_recurly_engage.delivery import choice
def die(*args):
    {DIE}
choice.FileDelivery._acknowledge = die
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(s3_port=0, rows=5, switches={"engage.csv_delay": 0}) as one:
        yield one


@pytest.fixture
def settings(server: Server) -> dict[str, Any]:
    patience = {"requests_per_second": 0, "retry_wait": 0, "retry_attempts": 2, "csv_ingest_hours": 0}
    return {"delivery": "ingest", **places(server), **patience}


def promo_codes(server: Server) -> dict[str, Any]:
    return {user: traits.get("promo_code") for user, traits in all_held(server).items() if user.startswith("u")}


def with_code(records: list[Record], code: str, count: int) -> list[Record]:
    return [record | {"promo_code": code} if n < count else record for n, record in enumerate(records)]


def overtaken(engage: Engage) -> list[str]:
    return [user for (user,) in engage.query("SELECT DISTINCT user_id FROM overtaken ORDER BY user_id")]


class Days:
    """Three days: all is well; a change is applied and its answer lost; the value is back as it was before."""

    def __init__(self, server: Server, engage: Engage, settings: dict[str, Any]) -> None:
        self.server = server
        self.engage = engage
        self.settings = settings
        self.records = engage.subscriptions(USERS, promo_code="BEFORE")

    def first(self) -> None:
        run = self.engage.run(self.engage.snapshot(self.records), **self.settings)
        assert run.code == 0, run.log
        self.wait_for_files()

    def second(self, script: str = "", count: int = 8, **more: Any) -> Run:  # noqa: ANN401 - as run()
        changed = with_code(self.records, "LOST", count)
        run = self.engage.run(self.engage.snapshot(changed), script=script, **self.settings | more)
        assert run.states == []
        return run

    def third(self, script: str = "", **more: Any) -> Run:  # noqa: ANN401 - as run()
        self.server.control("DELETE", "faults")
        run = self.engage.run(self.engage.snapshot(self.records), script=script, **self.settings | more)
        assert (run.code, len(run.states)) == (0, 1), run.log
        self.wait_for_files()
        return run

    def wait_for_files(self, count: int | None = None) -> None:
        """Wait until Engage has read the files that were delivered, or so many."""
        sent = "SELECT count(*) FROM deliveries WHERE channel = 's3' AND status = 'acknowledged'"
        expected = self.engage.query(sent)[0][0] if count is None else count
        deadline = time.monotonic() + PATIENCE
        while sum(file["status"] == "done" for file in self.server.control("GET", "engage")["files"]) < expected:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def all_is_as_before(self) -> None:
        assert set(promo_codes(self.server).values()) == {"BEFORE"}


@pytest.fixture
def days(server: Server, engage: Engage, settings: dict[str, Any]) -> Days:
    return Days(server, engage, settings)


# The Ingest API

LOST: dict[str, tuple[str, list[dict[str, Any]], int]] = {
    "500 after it was applied": ("", [{"status": 500, "when": "after"}], Outage.exit_code),
    "503 after it was applied": ("", [{"status": 503, "when": "after"}], Outage.exit_code),
    "a status nobody knows": ("", [{"status": 599, "when": "after"}], Outage.exit_code),
    "reset": ("", [{"reset": True, "when": "after"}], Outage.exit_code),
    "an answer of HTML": ("", [{"html": True, "when": "after"}], Outage.exit_code),
    "an answer cut short": ("", [{"truncate": 3}], Outage.exit_code),
    "kill -9": (KILL_INGEST, [], KILLED),
}


@pytest.mark.parametrize(("script", "faults", "code"), LOST.values(), ids=list(LOST))
def test_a_change_that_engage_applied_without_an_answer_is_made_good(
    script: str, faults: list[dict[str, Any]], code: int, days: Days
) -> None:
    days.first()
    for fault in faults:
        days.server.control("POST", "faults", {"part": "engage", "path": "/ingest/*", **fault})
    assert days.second(script).code == code
    assert "LOST" in promo_codes(days.server).values()
    again = days.third()
    days.all_is_as_before()
    assert "again" in again.log or "is not known" in again.log or overtaken(days.engage) == []
    assert days.engage.summaries[-1]["users"]["changed"] == 0
    assert days.engage.summaries[-1]["users"]["again"] == days.engage.summaries[-1]["requests"]["acknowledged"] > 0
    days.server.control("DELETE", "requests")
    days.third()
    assert days.server.control("GET", "requests?part=engage") == []


@pytest.mark.parametrize(("script", "faults", "code"), LOST.values(), ids=list(LOST))
def test_who_takes_no_answer_for_not_sent_is_found_out(
    script: str, faults: list[dict[str, Any]], code: int, days: Days
) -> None:
    """The broken double of the test above."""
    days.first()
    for fault in faults:
        days.server.control("POST", "faults", {"part": "engage", "path": "/ingest/*", **fault})
    assert days.second(FORGETS + script).code == code
    days.third(FORGETS)
    with pytest.raises(AssertionError):
        days.all_is_as_before()


FIRST = {"part": "engage", "path": "/ingest/*", "times": 1, "when": "after"}
UNCLEAR: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "reset": {"reset": True},
    "HTML": {"html": True},
}


@pytest.mark.parametrize("first", UNCLEAR.values(), ids=list(UNCLEAR))
@pytest.mark.parametrize("status", [400, 422])
def test_a_rejection_after_an_attempt_without_an_answer_is_unknown(
    status: int, first: dict[str, Any], days: Days
) -> None:
    days.first()
    days.server.control("POST", "faults", FIRST | first | {"user": "u1"})
    days.server.control("POST", "faults", {"part": "engage", "user": "u1", "skip": 1, "status": status, "body": "{}"})
    changed = days.engage.snapshot(with_code(days.records, "LOST", 1))
    assert days.engage.run(changed, **days.settings, max_reject_fraction=1).code == 0
    assert promo_codes(days.server)["u1"] == "LOST"
    assert days.engage.query("SELECT user_id, status FROM rejects") == [("u1", status)]
    with duckdb.connect(str(days.engage.ledger)) as ledger:
        ledger.execute("UPDATE rejects SET next_at = now() - INTERVAL 1 SECOND")
    days.third()
    days.all_is_as_before()
    assert days.engage.query("SELECT user_id FROM rejects") == []


def test_a_rejection_alone_is_a_clear_answer(days: Days) -> None:
    days.first()
    days.server.control("POST", "faults", {"part": "engage", "user": "u1", "status": 400, "body": "{}"})
    changed = days.engage.snapshot(with_code(days.records, "LOST", 1))
    assert days.engage.run(changed, **days.settings, max_reject_fraction=1).code == 0
    assert overtaken(days.engage) == []


@pytest.mark.parametrize("fault", [{"status": 401, "body": "{}"}, {"status": 429}])
def test_what_engage_surely_did_not_begin_is_not_sent_again(fault: dict[str, Any], days: Days) -> None:
    days.first()
    days.server.control("POST", "faults", {"part": "engage", **fault})
    days.second()
    assert overtaken(days.engage) == []


def test_a_new_user_in_doubt_who_vanishes_is_cleared(days: Days) -> None:
    days.first()
    new = days.engage.subscription(99, promo_code="NEW")
    days.server.control("POST", "faults", {"part": "engage", "user": "u99", "status": 500, "when": "after"})
    run = days.engage.run(days.engage.snapshot([*days.records, new]), **days.settings)
    assert run.code == Outage.exit_code
    assert all_held(days.server)["u99"]["promo_code"] == "NEW"
    days.third()
    traits = all_held(days.server)["u99"]
    assert {traits[name] for name in ("subscription_id", "subscription_status", "promo_code")} == {"none"}


def test_unknown_survives_crashes_dry_runs_and_rejections_and_is_no_change_for_the_brake(days: Days) -> None:
    days.settings["brake_max_change_fraction"] = 0.01
    first = days.engage.run(days.engage.snapshot(days.records), script=KILL_INGEST, **days.settings)
    assert first.code == KILLED
    everybody = sorted(record["user_id"] for record in days.records)
    for script in (KILL_INGEST, "from target_recurly_engage import run\nrun.make_plan = lambda *a, **k: 1 / 0\n"):
        assert days.engage.run(days.engage.snapshot(days.records), script=script, **days.settings).code != 0
        assert overtaken(days.engage) == everybody
    assert days.engage.run(days.engage.snapshot(days.records), dry_run=True, **days.settings).code == 0
    assert overtaken(days.engage) == everybody
    days.third()
    assert overtaken(days.engage) == []
    days.all_is_as_before()


def test_whom_a_killed_run_had_acknowledged_or_rejected_is_not_sent_again(days: Days) -> None:
    days.first()
    days.server.control("POST", "faults", {"part": "engage", "user": "u1", "status": 400, "body": "{}"})
    script = f"""
from target_recurly_engage.delivery import ingest
ingest.GROUP = 1
def note(self, outcomes, done, original=ingest.IngestDelivery._note):
    original(self, outcomes, done)
    if done.acknowledged >= 4:
        {DIE}
    return ingest._Outcomes()
ingest.IngestDelivery._note = note
"""
    assert days.second(script, concurrency=1).code == KILLED
    days.third()
    days.all_is_as_before()
    assert days.engage.query("SELECT user_id FROM rejects") == [("u1",)]
    summary = days.engage.summaries[-1]
    assert summary["users"]["changed"] + summary["users"]["again"] <= 7  # of 8, one was rejected


# Files


def test_a_file_in_the_bucket_that_may_not_be_looked_at_counts_as_unknown(days: Days) -> None:
    days.settings |= {"delivery": "s3"}
    days.first()
    assert days.second(BLIND + KILL_S3).code == KILLED
    days.wait_for_files(2)
    assert "LOST" in promo_codes(days.server).values()
    days.third(BLIND)
    days.all_is_as_before()
    assert days.engage.query("SELECT status, count(*) FROM deliveries GROUP BY ALL ORDER BY ALL") == [
        ("acknowledged", 2),
        ("in doubt", 1),
    ]


def test_a_file_in_the_bucket_that_was_taken_away_counts_as_unknown(days: Days) -> None:
    days.settings |= {"delivery": "auto", "ingest_max_users": 0}
    days.first()
    assert days.second(KILL_S3).code == KILLED
    days.wait_for_files(2)
    bucket = boto3.client(
        "s3",
        endpoint_url=days.settings["s3_endpoint_url"],
        region_name="us-west-2",
        aws_access_key_id=days.settings["aws_access_key_id"],
        aws_secret_access_key=days.settings["aws_secret_access_key"],
    )
    for entry in bucket.list_objects_v2(Bucket=days.settings["s3_bucket"])["Contents"]:
        bucket.delete_object(Bucket=days.settings["s3_bucket"], Key=entry["Key"])
    days.third()
    days.all_is_as_before()


@pytest.mark.parametrize("script", ["", FORGETS], ids=["", "the broken double"])
def test_a_local_file_that_another_tool_moved_away_counts_as_unknown(script: str, engage: Engage) -> None:
    records = engage.subscriptions(40, promo_code="BEFORE")
    new = engage.subscription(99, promo_code="NEW")
    moved = engage.folder / "moved"
    held: dict[str, str] = {}

    def move() -> None:
        for path in engage.files:
            held.update({user: row["promo_code"] for user, row in engage.sent(0).items()})
            shutil.move(path, moved)

    moved.mkdir()
    assert engage.run(engage.snapshot(records)).code == 0
    move()
    changed = [*with_code(records, "LOST", 3), new]
    assert engage.run(engage.snapshot(changed), script=script + KILL_FILE).code == KILLED
    move()
    assert held["u1"] == "LOST"
    assert engage.run(engage.snapshot(records), script=script).code == 0
    move()
    expected = dict.fromkeys((record["user_id"] for record in records), "BEFORE") | {"u99": "none"}
    if script:
        with pytest.raises(AssertionError):
            assert held == expected
    else:
        assert held == expected


def test_a_local_file_that_never_appeared_is_not_in_doubt(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(3)))
    script = f"from target_recurly_engage.delivery import file\ndef die(*a):\n    {DIE}\nfile.Path.rename = die\n"
    engage.run(engage.snapshot(engage.subscriptions(4)), script=script)
    engage.run(engage.snapshot(engage.subscriptions(3)))
    assert len(engage.files) == 1
    assert overtaken(engage) == []


def test_a_delivery_that_was_left_open_counts_as_unknown_where_it_went_also_after_runs_to_another_place(
    days: Days,
) -> None:
    days.first()
    assert days.second(KILL_INGEST).code == KILLED
    days.third(delivery="file")  # another destination, which gets everybody
    assert len(days.engage.sent()) == USERS
    assert "LOST" in promo_codes(days.server).values()
    days.third()
    days.all_is_as_before()
    assert days.engage.summaries[-1]["users"]["again"] == 8


# Erasure


def test_an_erasure_that_got_no_answer_is_sent_again(days: Days) -> None:
    days.first()
    days.server.control("POST", "faults", {"part": "engage", "user": "u1", "status": 500, "when": "after"})
    config = days.engage.folder / "erase.json"
    config.write_text(json.dumps(days.engage.config | days.settings), encoding="utf-8")
    asked = ["--config", str(config), "erase", "--user", "u1"]
    assert CliRunner().invoke(main, asked).exit_code == Outage.exit_code
    assert days.engage.query("SELECT user_id FROM delivered WHERE user_id = 'u1'") == [("u1",)]
    days.server.control("DELETE", "faults")
    days.server.control("DELETE", "requests")
    assert days.engage.run(days.engage.snapshot(days.records), **days.settings).code == 0
    assert [one["user"] for one in days.server.control("GET", "requests?part=engage")] == ["u1"]
    assert days.engage.query("SELECT user_id FROM delivered WHERE user_id = 'u1'") == []
    assert overtaken(days.engage) == []
