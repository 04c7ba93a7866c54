"""`recurly-engage resend`: what a destination lost goes out again with the next run, and nothing else does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from piano_engage_sandbox.testing import serving

from tests.target.test_cli import answer, ask
from tests.target.test_destinations import USERS, Bucket, deliver, everybody, own_places, planned
from tests.target.test_ingest import asked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Engage, Record


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A bucket whose files Engage reads at once."""
    with serving(s3_port=0, rows=5, switches={"engage.csv_delay": 0}) as one:
        yield one


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> dict[str, Any]:
    return own_places(server, tmp_path)


@pytest.fixture
def bucket(settings: dict[str, Any]) -> Bucket:
    return Bucket(settings)


@pytest.fixture
def records(engage: Engage) -> list[Record]:
    return engage.subscriptions(USERS)


@pytest.fixture
def s3(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"delivery": "s3", "brake_max_clear_fraction": 0.5}


def test_a_delivery_that_was_deleted_goes_out_again_and_nothing_else(
    engage: Engage, records: list[Record], s3: dict[str, Any], bucket: Bucket
) -> None:
    deliver(engage, records, **s3)
    for record in records[:3]:
        record["promo_code"] = "X"
    deliver(engage, records, **s3)
    first, second = bucket.keys()
    bucket.client.delete_object(Bucket=s3["s3_bucket"], Key=second)
    name = second.rpartition("/")[2]
    before = engage.dump(without=())
    counted = answer(engage, "resend", "--delivery", name, **s3)
    assert (counted["users"], counted["delivered"], counted["done"]) == (3, len(records), False)
    assert engage.dump(without=()) == before, "without --yes nothing is changed"
    deliver(engage, records, **s3)
    assert bucket.keys() == [first]
    part = name.removesuffix(".csv").rpartition("-")[2]
    assert answer(engage, "resend", "--delivery", part, "--yes", **s3)["done"]
    deliver(engage, records, **s3)
    assert planned(engage) == {"again": 3}
    assert bucket.users()[1:] == [["u1", "u2", "u3"]]
    deliver(engage, records, **s3)
    assert len(bucket.keys()) == 2, "once is enough"
    assert answer(engage, "resend", "--delivery", part, **s3)["users"] == 0, "a later one has all of theirs"


def test_all_some_and_since(engage: Engage, records: list[Record], s3: dict[str, Any], bucket: Bucket) -> None:
    deliver(engage, records, **s3)
    then = datetime.now(tz=UTC).replace(hour=10, minute=0, second=0, microsecond=0) - timedelta(days=5)
    after = (then + timedelta(seconds=1)).isoformat()
    noon = after.replace("T10:", "T12:").replace("+00:", "+02:")
    with duckdb.connect(str(engage.ledger)) as ledger:
        ledger.execute("UPDATE deliveries SET acknowledged_at = ?, started_at = ?", [then, then])
    records[4]["promo_code"] = "X"
    deliver(engage, records, **s3)
    assert answer(engage, "resend", "--since", after, **s3)["users"] == 1
    assert answer(engage, "resend", "--since", noon, **s3)["users"] == 1
    assert answer(engage, "resend", "--since", f"{then:%Y-%m-%d}", **s3)["users"] == len(records)
    assert answer(engage, "resend", "--all", **s3)["users"] == len(records)
    assert answer(engage, "resend", "--user", "u2", "--user", "u3", "--yes", **s3)["users"] == 2
    assert answer(engage, "resend", "--since", after, "--yes", **s3)["users"] == 1
    assert engage.run(engage.messages([]), **s3).code == 0
    assert bucket.users()[2:] == [["u2", "u3", "u5"]]
    assert "add --yes" in ask(engage, "resend", "--all", **s3).stdout
    assert "the next run sends them" in ask(engage, "resend", "--all", "--yes", **s3).stdout
    deliver(engage, records, **s3)
    assert bucket.users()[3:] == [everybody(records)]


def test_who_has_vanished_is_cleared_once_more_and_who_is_erased_gets_nothing_else(
    engage: Engage, records: list[Record], s3: dict[str, Any], bucket: Bucket
) -> None:
    deliver(engage, records, **s3)
    deliver(engage, records[1:], **s3)
    assert answer(engage, "erase", "--user", "u2", **s3)["status"] == "clearing"
    told = answer(engage, "resend", "--all", "--yes", **s3)
    assert (told["users"], told["erased"]) == (len(records), 1)
    deliver(engage, records[1:], **s3)
    assert bucket.users()[2:] == [everybody(records)]
    assert [bucket.cells(-1, user)["subscription_id"] for user in ("u1", "u2", "u3")] == ["none", "none", "RC000003"]
    assert answer(engage, "resend", "--all", **s3)["users"] == len(records) - 1, "who was erased is forgotten"


def test_a_user_of_whom_later_deliveries_sent_a_part_is_of_all_of_them(
    engage: Engage, records: list[Record], settings: dict[str, Any], server: Server
) -> None:
    auto = settings | {"delivery": "auto", "ingest_max_users": 5}
    deliver(engage, records, **auto)
    for trait in ("promo_code", "term_name"):
        records[0][trait] = "X"
        deliver(engage, records, **auto)
    deliveries = engage.query("SELECT delivery_id, channel FROM deliveries ORDER BY started_at")
    assert [channel for _, channel in deliveries] == ["s3", "ingest", "ingest"]
    counts = [answer(engage, "resend", "--delivery", one, **auto)["users"] for one, _ in deliveries]
    assert counts == [len(records), 1, 1]
    before = len(asked(server))
    answer(engage, "resend", "--delivery", deliveries[1][0], "--yes", **auto)
    deliver(engage, records, **auto)
    assert [one["user"] for one in asked(server)[before:]] == ["u1"]
    assert answer(engage, "resend", "--delivery", deliveries[0][0], **auto)["users"] == len(records) - 1


def test_who_waits_is_counted(engage: Engage, records: list[Record], settings: dict[str, Any]) -> None:
    auto = settings | {"delivery": "auto", "ingest_max_users": 5, "csv_ingest_hours": 3}
    deliver(engage, records, **auto)
    told = answer(engage, "resend", "--all", "--yes", **auto)
    assert told["in_flight"] == len(records)
    run = deliver(engage, records, **auto)
    assert engage.summaries[-1]["requests"]["held"] == len(records), run.log
    with duckdb.connect(str(engage.ledger)) as ledger:
        ledger.execute("INSERT INTO rejects VALUES ('u1', 422, 'no', 1, now(), now(), now() + INTERVAL 1 DAY, NULL)")
    assert answer(engage, "resend", "--user", "u1", **auto)["rejected"] == 1
    assert "rejects retry" in ask(engage, "resend", "--user", "u1", **auto).stdout


REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "nothing said": ((), 2, "say which users"),
    "two things said": (("--all", "--user", "u1"), 2, "say which users"),
    "an empty id": (("--delivery", ""), 66, "names no delivery"),
    "no such delivery": (("--delivery", "0123456789"), 66, "names no delivery"),
    "too few characters": (("--delivery", "0"), 66, "names no delivery"),
    "no such user": (("--user", "u1", "--user", "nobody"), 66, "1 of the users named"),
    "no moment": (("--since", "yesterday"), 2, "is not a date"),
    "a moment to come": (("--since", "2999-01-01"), 2, "still to come"),
}


def test_what_cannot_be_meant_is_refused_and_changes_nothing(
    engage: Engage, records: list[Record], settings: dict[str, Any]
) -> None:
    deliver(engage, records)
    before = engage.dump(without=())
    for words, code, said in REFUSED.values():
        done = ask(engage, "resend", *words, "--yes")
        assert (done.returncode, said in done.stderr) == (code, True), (words, done.stderr)
        assert "nobody" not in done.stderr, "no id in a message"
    elsewhere = ask(engage, "resend", "--all", "--yes", **settings | {"delivery": "s3"})
    assert elsewhere.returncode == 66
    assert "nothing was ever delivered to s3://" in elsewhere.stderr
    assert engage.dump(without=()) == before


def test_it_is_the_destination_of_the_settings_that_gets_users_again(
    engage: Engage, records: list[Record], s3: dict[str, Any], bucket: Bucket
) -> None:
    deliver(engage, records)
    deliver(engage, records, **s3)
    ((of_folder,),) = engage.query("SELECT delivery_id FROM deliveries WHERE channel = 'file'")
    wrong = ask(engage, "resend", "--delivery", of_folder, "--yes", **s3)
    assert wrong.returncode == 66
    assert f"went to the folder {engage.output}" in wrong.stderr
    assert answer(engage, "resend", "--user", "u1", "--yes")["destination"] == f"the folder {engage.output}"
    deliver(engage, records, **s3)
    assert len(bucket.keys()) == 1
    deliver(engage, records)
    assert list(engage.sent()) == ["u1"]
