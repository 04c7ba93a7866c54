"""Each destination is remembered by itself: what one acknowledged, no other one has."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from piano_engage_sandbox.testing import serving
from target_recurly_engage.destinations import Destination, destination_of

from tests.target.conftest import places
from tests.target.test_cli import answer
from tests.target.test_ledger import age
from tests.target.test_s3 import client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from piano_engage_sandbox.server import Server

    from tests.target.conftest import Engage, Record, Run

USERS = 12


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A bucket whose files Engage reads at once."""
    with serving(s3_port=0, rows=5, switches={"engage.csv_delay": 0}) as one:
        yield one


def own_places(server: Server, tmp_path: Path) -> dict[str, Any]:
    """Settings that name both addresses of an application; the prefix is the test's own."""
    return places(server) | {
        "s3_prefix": f"{tmp_path.name}/ingest/", "csv_ingest_hours": 0, "requests_per_second": 0, "retry_wait": 0,
    }  # fmt: skip


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> dict[str, Any]:
    return own_places(server, tmp_path)


@pytest.fixture
def records(engage: Engage) -> list[Record]:
    return engage.subscriptions(USERS)


class Bucket:
    """What lies in a bucket, by prefix."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.client = client(settings)

    def keys(self, prefix: str | None = None) -> list[str]:
        found = self.client.list_objects_v2(
            Bucket=self.settings["s3_bucket"], Prefix=prefix or self.settings["s3_prefix"]
        )
        objects = sorted(found.get("Contents", []), key=lambda one: one["LastModified"])
        return [one["Key"] for one in objects]

    def rows(self, key: str) -> dict[str, dict[str, str]]:
        body = self.client.get_object(Bucket=self.settings["s3_bucket"], Key=key)["Body"].read()
        return {row["user_id"]: row for row in csv.DictReader(body.decode().splitlines())}

    def cells(self, number: int, user: str) -> dict[str, str]:
        """What one of the files says of a user."""
        return self.rows(self.keys()[number])[user]

    def users(self, prefix: str | None = None) -> list[list[str]]:
        """The users of each file."""
        return [sorted(self.rows(key)) for key in self.keys(prefix)]


@pytest.fixture
def bucket(settings: dict[str, Any]) -> Bucket:
    return Bucket(settings)


def everybody(records: list[Record]) -> list[str]:
    return sorted(record["user_id"] for record in records)


def deliver(engage: Engage, records: list[Record], **settings: Any) -> Run:  # noqa: ANN401 - settings
    run = engage.run(engage.snapshot(records), **settings)
    assert run.code == 0, run.log
    return run


def planned(engage: Engage) -> dict[str, int]:
    users = engage.summaries[-1]["users"]
    return {kind: users[kind] for kind in ("new", "changed", "cleared", "again") if users[kind]}


def test_a_bucket_gets_all_that_only_a_folder_got_and_says_so(
    engage: Engage, records: list[Record], settings: dict[str, Any], bucket: Bucket
) -> None:
    first = deliver(engage, records)
    assert first.warnings == [], "the first destination is no news"
    run = deliver(engage, records, **settings | {"delivery": "s3"})
    assert bucket.users() == [everybody(records)]
    (warning,) = run.warnings
    place = f"s3://{settings['s3_bucket']}/{settings['s3_prefix'].strip('/')}"
    assert f"nothing was ever delivered to {place}" in warning
    assert f"{USERS} user(s) were delivered to the folder {engage.output}" in warning
    told = engage.summaries[-1]["destination"]
    assert told["new"]
    assert told["name"].startswith(place)
    assert told["others"] == {f"the folder {engage.output}": USERS}
    page = next(iter(sorted((engage.folder / "runs").glob("*.html"), reverse=True))).read_text(encoding="utf-8")
    assert place in page
    assert "nothing was ever delivered to" in page
    assert planned(engage) == {"new": USERS}
    again = deliver(engage, records, **settings | {"delivery": "s3"})
    assert (len(bucket.keys()), again.warnings) == (1, [])


def test_another_prefix_gets_all_and_the_way_back_only_the_difference(
    engage: Engage, records: list[Record], settings: dict[str, Any], bucket: Bucket
) -> None:
    settings |= {"delivery": "s3", "app_id": None, "brake_max_clear_fraction": 0.5}
    other = settings | {"s3_prefix": f"{settings['s3_prefix']}other/"}
    first = f"{settings['s3_prefix']}traits"
    deliver(engage, records, **settings)
    deliver(engage, records, **other)
    assert bucket.users(other["s3_prefix"]) == [everybody(records)]
    records[0]["promo_code"] = "X"
    gone = records.pop()["user_id"]
    deliver(engage, records, **other)
    assert bucket.users(other["s3_prefix"])[1:] == [sorted(["u1", gone])]
    back = deliver(engage, records, **settings)
    assert bucket.users(first) == [everybody([*records, {"user_id": gone}]), sorted(["u1", gone])]
    assert any("the destination has changed" in line for line in back.warnings)
    assert planned(engage) == {"changed": 1, "cleared": 1}
    deliver(engage, records, **settings)
    assert len(bucket.keys(first)) == 2
    held = engage.query("SELECT promo_code FROM delivered WHERE user_id = 'u1'")
    assert held == [("X",)]


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another folder": ({"delivery": "file"}, {"output_path": "elsewhere"}),
    "another application": ({"delivery": "ingest"}, {"app_id": "another", "api_key": "another"}),
    "auto after a folder": ({"delivery": "file"}, {"delivery": "auto"}),
    "another application with the old bucket": ({"delivery": "auto"}, {"app_id": "another", "api_key": "another"}),
    "another endpoint": ({"delivery": "s3"}, {"s3_endpoint_url": "http://localhost:{port}"}),
    "another API": ({"delivery": "ingest"}, {"api_url": "http://localhost:{port}"}),
    "an API that nothing says is of the same application": (
        {"delivery": "s3", "app_id": None},
        {"delivery": "ingest", "app_id": "{app_id}", "s3_bucket": None},
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_another_destination_has_every_user_in_the_plan(
    engage: Engage, records: list[Record], settings: dict[str, Any], case: str
) -> None:
    first, changed = OTHERS[case]
    ports = {"s3_endpoint_url": settings["s3_endpoint_url"], "api_url": settings["api_url"]}
    filled = {
        key: value and value.format(app_id=settings["app_id"], port=ports.get(key, "").rpartition(":")[2])
        for key, value in changed.items()
    }
    if "output_path" in filled:
        filled["output_path"] = str(engage.folder / filled["output_path"])
    deliver(engage, records, **settings | first)
    run = deliver(engage, records, dry_run=True, **settings | first | filled)
    assert planned(engage) == {"new": USERS}
    assert any("the destination is new" in line for line in run.warnings)
    deliver(engage, records, **settings | first)
    assert planned(engage) == {}, "a dry run changes no destination"


def test_ways_to_one_application_are_one_destination(
    engage: Engage, records: list[Record], settings: dict[str, Any], server: Server
) -> None:
    for delivery in ("s3", "ingest", "auto", "ingest", "s3", "auto"):
        run = deliver(engage, records, **settings | {"delivery": delivery})
        assert run.warnings == []
    assert engage.query("SELECT channel, users FROM deliveries") == [("s3", USERS)]
    records[0]["promo_code"] = "X"
    deliver(engage, records, **settings | {"delivery": "ingest", "s3_bucket": None})
    deliver(engage, records, **settings | {"delivery": "s3", "app_id": None})
    assert engage.query("SELECT channel, users FROM deliveries ORDER BY started_at")[1:] == [("ingest", 1)]
    assert server.control("GET", "engage/user/u1")["traits"]["promo_code"] == "X"


SAME = (
    ({"delivery": "file", "output_path": "out"}, {"delivery": "file", "output_path": "./other/../out/"}),
    (
        {"delivery": "s3", "s3_bucket": "b", "s3_prefix": "p/q/"},
        {"delivery": "s3", "s3_bucket": "b", "s3_prefix": "/p/q", "s3_region": "eu-west-1"},
    ),
    (
        {"delivery": "s3", "s3_bucket": "b", "s3_prefix": "p"},
        {"delivery": "s3", "s3_bucket": "b", "s3_prefix": "p", "s3_endpoint_url": "https://s3.us-west-2.amazonaws.com"},
    ),
    (
        {"delivery": "ingest", "app_id": "7", "api_url": "https://conduit.redfast.com"},
        {"delivery": "ingest", "app_id": "7", "api_url": "HTTPS://Conduit.redfast.com:443/", "ingest_form": "query"},
    ),
)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_another_spelling_is_no_other_destination(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = destination_of(one | {"api_url": one.get("api_url", "")}), destination_of({"api_url": ""} | other)
    assert first is not None
    assert first == second


def test_a_variable_of_the_environment_names_another_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"delivery": "s3", "s3_bucket": "b", "s3_prefix": "p"}
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://storage.example.com:9000")
    assert destination_of(settings) == Destination(bucket="s3://b/p at http://storage.example.com:9000")


def test_the_first_delivery_to_a_destination_is_no_change_of_everybody(
    engage: Engage, records: list[Record], settings: dict[str, Any], bucket: Bucket
) -> None:
    strict = {"brake_max_change_fraction": 0.1, "brake_max_clear_fraction": 0.05}
    deliver(engage, records, **strict)
    deliver(engage, [record | {"promo_code": "X"} for record in records], **settings | strict | {"delivery": "s3"})
    assert bucket.users() == [everybody(records)]


def test_a_column_that_is_missing_is_seen_at_a_new_destination_as_well(
    engage: Engage, records: list[Record], settings: dict[str, Any], bucket: Bucket
) -> None:
    deliver(engage, records)
    properties = [one for one in engage.schema()["schema"]["properties"] if one != "access_expiration_date"]
    run = engage.run(engage.snapshot(records, properties=properties), **settings | {"delivery": "s3"})
    assert run.code != 0
    assert "access_expiration_date" in run.errors
    assert bucket.keys() == []
    assert engage.query("SELECT count(*) FROM destinations") == [(1,)]


def test_what_a_crash_left_belongs_to_the_destination_of_then(
    engage: Engage, records: list[Record], settings: dict[str, Any], bucket: Bucket
) -> None:
    killed = (
        "import os\nfrom target_recurly_engage.delivery.csvs import CsvDelivery\n"
        "CsvDelivery._acknowledge = lambda self, delivery_id: os._exit(9)\n"
    )
    assert engage.run(engage.snapshot(records), script=killed).code == 9
    deliver(engage, records, **settings | {"delivery": "s3"})
    assert bucket.users() == [everybody(records)]
    deliver(engage, records)
    assert [len(rows) for rows in engage.sent_sets] == [1 + USERS, 1 + USERS], "of the first file nobody could tell"
    assert engage.query("SELECT channel, status FROM deliveries ORDER BY started_at") == [
        ("file", "in doubt"), ("s3", "acknowledged"), ("file", "written"),
    ]  # fmt: skip


def test_the_commands_speak_of_the_destination_of_the_settings(
    engage: Engage, records: list[Record], settings: dict[str, Any]
) -> None:
    deliver(engage, records)
    assert answer(engage, "plan")["users"]["new"] == 0
    assert answer(engage, "plan", **settings | {"delivery": "s3"})["users"]["new"] == USERS
    assert answer(engage, "explain", "--user", "u1")["sent"]["channel"] == "file"
    assert answer(engage, "explain", "--user", "u1", **settings | {"delivery": "s3"})["sent"] is None
    shown = answer(engage, "ledger", "show", **settings | {"delivery": "s3"})
    assert shown["destinations"] == [{"name": f"the folder {engage.output}", "users": USERS, "is_current": True}]
    assert engage.query("SELECT count(*) FROM destinations") == [(1,)]


# Erasing


def erase(engage: Engage, user: str, **settings: Any) -> dict[str, Any]:  # noqa: ANN401 - settings
    receipt: dict[str, Any] = answer(engage, "erase", "--user", user, **settings)
    return receipt


def named_in(engage: Engage, user: str) -> list[str]:
    """The tables that name a user in any cell."""
    return [table for table, rows in engage.dump(without=()).items() if any(f"'{user}'" in row for row in rows)]


def test_who_is_erased_is_cleared_at_every_destination_and_forgotten_in_all(
    engage: Engage, records: list[Record], settings: dict[str, Any], bucket: Bucket
) -> None:
    mild = {"brake_max_clear_fraction": 0.5}
    old, new = (settings | mild | {"delivery": "s3", "app_id": None, "s3_prefix": f"{one}/"} for one in ("p", "q"))
    for place in (mild, old, new):
        deliver(engage, records, **place)
    receipt = erase(engage, "u1", **new)
    assert receipt["status"] == "clearing"
    assert engage.sent()["u1"]["subscription_id"] == "none", "a folder is at hand, so it is cleared at once"
    assert list(engage.sent()) == ["u1"]
    assert named_in(engage, "u1") == ["delivered", "delivered_2"]
    deliver(engage, records, **new)
    assert bucket.users("q/")[1:] == [["u1"]]
    assert named_in(engage, "u1") == ["delivered_2"]
    receipts = [path.read_text(encoding="utf-8") for path in (engage.folder / "runs" / "erasures").iterdir()]
    assert f"s3://{settings['s3_bucket']}/p" in receipts[0]
    deliver(engage, records, **old)
    assert bucket.users("p/")[1:] == [["u1"]]
    assert named_in(engage, "u1") == []
    assert erase(engage, "u1", **new)["status"] == "done"
    deliver(engage, records, **new)
    assert len(bucket.keys("q/")) == 2


# A ledger of before


def test_an_older_ledger_is_divided_by_its_deliveries(
    engage: Engage, records: list[Record], settings: dict[str, Any], bucket: Bucket
) -> None:
    deliver(engage, records)
    deliver(engage, records[:1], **settings | {"delivery": "s3", "brake_min_rows_fraction": 0, "accept": None})
    with duckdb.connect(str(engage.ledger)) as ledger:  # as an older program did it: one table for both
        ledger.execute("INSERT INTO delivered BY NAME FROM delivered_1 ANTI JOIN delivered USING (user_id)")
    age(engage.ledger, 9)
    deliver(engage, records, **settings | {"delivery": "s3"})
    assert bucket.users()[1:] == [sorted(set(everybody(records)) - {"u1"})]
    deliver(engage, records)
    assert planned(engage) == {"new": 1}, "of the others the folder has all"
