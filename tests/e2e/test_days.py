"""Ten days of the sandbox: the first load by S3, then each day's changes by the Ingest API, on good days and bad ones.

After each day the traits that Engage holds are compared, for every reader, with those that a computation in plain
Python makes of Piano's own export; it shares no code with the pair.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from piano_engage_sandbox.testing import serving

from tests import warm
from tests.e2e.test_samples import BOOLEANS, NUMBERS, ZONE, Traits, expected, moment, trait_name
from tests.e2e.test_samples import DATES as STAMPS
from tests.e2e.test_samples import TEXTS as LABELS
from tests.e2e.test_samples import steady as by_threshold
from tests.target import lives
from tests.target.conftest import PATIENCE, ROUNDS, all_held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from piano_engage_sandbox.server import Server

DAYS = 10
STEP = 1 if ROUNDS > 1 else 2
"""Days from one comparison of segments to the next; `make fault-test` compares each day."""
LINE = "TARGET_RECURLY_ENGAGE_"
TRAITS = tuple(map(trait_name, (*LABELS, *STAMPS, *BOOLEANS, *NUMBERS)))
BAD_DAYS: dict[int, list[dict[str, Any]]] = {
    2: [{"part": "engage", "status": 503, "every": 5}],
    3: [{"part": "engage", "status": 429, "retry_after": "0", "every": 3}],
    5: [{"part": "engage", "reset": True, "when": "after", "every": 4}],
    6: [{"part": "reports", "path": "/rest/export/files/*", "truncate": 20_000, "times": 2}],
    8: [{"part": "engage", "html": True, "every": 6}, {"part": "publisher", "status": 500, "every": 9}],
}

pytestmark = pytest.mark.slow


@dataclass
class Pair:
    """Tap and target over the APIs, with a state that is kept between runs."""

    server: Server
    folder: Path

    @property
    def now(self) -> datetime:
        """The sandbox's clock."""
        return datetime.fromtimestamp(self.server.control("GET", "clock")["now"], UTC)

    def run(self, *, script: str = "", **settings: Any) -> int:  # noqa: ANN401 - settings
        """Pipe the tap into the target; gives the target's exit code, and keeps its state."""
        lines, folder = self.server.environment(), self.folder
        names = ("aid", "api_token", "api_url", "reports_url", "timezone")
        tap = {name: lines[f"TAP_PIANO_{name.upper()}"] for name in names} | {
            "requests_per_second": 0, "retry_wait": 0, "export_poll": 0.02, "rejects_path": str(folder / "rejects"),
        }  # fmt: skip
        names = (
            "app_id", "api_key", "api_url", "s3_bucket", "s3_prefix", "s3_endpoint_url", "aws_access_key_id",
            "aws_secret_access_key",
        )  # fmt: skip
        target = {name: lines[f"{LINE}{name.upper()}"] for name in names} | {
            "ledger": str(folder / "ledger.duckdb"), "runs_path": str(folder / "runs"), "timezone": ZONE,
            "as_of": self.now.isoformat(), "requests_per_second": 0, "retry_wait": 0, "retry_attempts": 12,
            "csv_ingest_hours": 0, "traits": "all",
        }  # fmt: skip
        (folder / "tap.json").write_text(json.dumps(tap))
        (folder / "target.json").write_text(json.dumps(target | settings))
        state = folder / "state.json"
        options = ["--config", folder / "tap.json", *(["--state", state] if state.exists() else [])]
        with (folder / "log").open("ab") as log, tempfile.TemporaryFile() as out:
            source, drain = os.pipe()
            tap_run = warm.start("tap-piano", options, stdout=drain, stderr=log)
            os.close(drain)
            options = ["--config", folder / "target.json"]
            done = warm.start("target-recurly-engage", options, script=script, stdin=source, stdout=out, stderr=log)
            os.close(source)
            code = done.wait(PATIENCE)
            tap_run.wait(PATIENCE)
            out.seek(0)
            if states := out.read().splitlines():
                state.write_bytes(states[-1])
        return code

    def desired(self) -> dict[str, Traits]:
        """What Engage should hold, by an export of our own."""
        lines = self.server.environment()
        base = lines["TAP_PIANO_REPORTS_URL"] + "/export"
        query = {"aid": lines["TAP_PIANO_AID"], "api_token": lines["TAP_PIANO_API_TOKEN"]}

        def ask(route: str, **more: str) -> Any:  # noqa: ANN401 - JSON
            with urllib.request.urlopen(f"{base}/{route}?{urllib.parse.urlencode(query | more)}") as answer:  # noqa: S310
                return json.load(answer)

        job = ask("schedule/vx/subscriptionLog", attribute_groups="DEFAULT,MODIFY_TIME")
        while ask("status", export_id=job["export_id"])["job_status"] != "FINISHED":
            time.sleep(0.02)
        with urllib.request.urlopen(ask("download/url", export_id=job["export_id"])["url"]) as answer:  # noqa: S310
            content = answer.read().decode()
        assert list(csv.DictReader(io.StringIO(content, newline="")))
        path = self.folder / "desired.csv"
        path.write_text(content, newline="", encoding="utf-8")
        return expected(path, self.now)

    def differing(self, *, beside_others: bool = False) -> list[str]:
        """Readers of whom Engage holds something else than it should.

        What drifts is left out: an incremental log brings no subscription of which nothing else changed.

        Args:
            beside_others: whether Engage may hold more than the traits of the log.
        """
        found = all_held(self.server)
        if beside_others:
            found = {user: {name: traits.get(name) for name in TRAITS} for user, traits in found.items()}
        return [user for user, traits in self.desired().items() if steady(found.get(user)) != steady(traits)]

    def first_load(self, **settings: str) -> None:
        """Load all readers by S3, and wait until Engage has read the file."""
        assert self.run(delivery="s3", **settings) == 0, (self.folder / "log").read_text()
        deadline = time.monotonic() + 60
        while [file["status"] for file in self.server.control("GET", "engage")["files"]] != ["done"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def ask(self, *question: str) -> Any:  # noqa: ANN401 - JSON
        """Ask ``recurly-engage`` with the settings of the last run."""
        done = warm.run("recurly-engage", ["--config", self.folder / "target.json", *question, "--json"])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def lives(self) -> dict[str, dict[str, Any]]:
        """Computed traits of each reader by the second implementation, from the export that `desired` asked for."""
        self.desired()
        by_user: dict[str, list[lives.Row]] = {}
        with (self.folder / "desired.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["User ID (UID)"]:
                    by_user.setdefault(row["User ID (UID)"], []).append(life(row))
        return {user: lives.computed(rows, self.now) for user, rows in by_user.items()}

    def requests(self) -> int:
        """Requests to the Ingest API so far."""
        return sum(one["path"] == "/ingest/property" for one in self.server.control("GET", "requests"))


DATES = {
    "access_expiration_date": "Access expiration date", "end_date": "End date", "start_date": "Start date",
    "trial_period_end_date": "Trial period end date", "grace_period_start_date": "Grace period start date",
    "auto_renew_disablement_date": "Auto-renew disablement date",
}  # fmt: skip
TEXTS = {
    "user_id": "User ID (UID)", "subscription_id": "Subscription ID", "subscription_status": "Subscription status",
    "term_type": "Term type", "promo_code": "Promo code", "billing_period": "Billing period",
    "upgrade_status": "Upgrade status",
}  # fmt: skip
FLAGS = {"currently_in_grace_period": "Currently in grace period", "auto_renew": "Auto-renew"}


def life(row: dict[str, str]) -> lives.Row:
    """Read a row of Piano's export as the second implementation takes it."""
    return (
        {name: moment(row[header]) for name, header in DATES.items()}
        | {name: row[header] or None for name, header in TEXTS.items()}
        | {name: {"TRUE": True, "FALSE": False}.get(row[header].upper()) for name, header in FLAGS.items()}
        | {"total_charged": float(row["Total charged"] or 0)}
    )


def steady(traits: Traits | None) -> Traits | None:
    return traits and {name: value for name, value in traits.items() if name != "days_subscribed"}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with serving(rows=800, s3_port=0, switches={"engage.csv_delay": 0}) as server:
        yield Pair(server, tmp_path)


def test_after_each_of_ten_days_engage_holds_what_it_should(pair: Pair) -> None:
    pair.first_load()
    assert pair.differing() == []
    readers = len(pair.desired())
    for day in range(1, DAYS + 1):
        pair.server.control("POST", "clock", {"advance": "1d"})
        assert pair.differing() != [], "a day on which nothing changed shows nothing"
        for fault in BAD_DAYS.get(day, []):
            pair.server.control("POST", "faults", fault)
        pair.server.control("DELETE", "requests")
        assert pair.run(delivery="ingest") == 0, (pair.folder / "log").read_text()
        pair.server.control("DELETE", "faults")
        assert pair.differing() == [], f"day {day}"
        if day not in BAD_DAYS:
            assert 0 < pair.requests() < readers / 4
    pair.server.control("DELETE", "requests")
    assert pair.run(delivery="ingest") == 0
    assert pair.requests() == 0
    (pair.folder / "state.json").unlink()  # a complete log brings those of whom only the days moved on
    assert pair.run(delivery="ingest") == 0
    found = all_held(pair.server)
    wanted = pair.desired()
    assert {user: by_threshold(found[user]) for user in wanted} == {user: by_threshold(wanted[user]) for user in wanted}
    assert pair.requests() < readers / 4


def test_each_day_the_segments_of_engage_are_those_of_the_preview_and_of_a_second_implementation(
    tmp_path: Path,
) -> None:
    """Sizes by the page and the preview; members for all whom Piano knows: no incremental log tells who vanished."""
    with serving(rows=300, s3_port=0, switches={"engage.csv_delay": 0}) as server:
        compare_segments(Pair(server, tmp_path))


def sizes_on_the_page(pair: Pair) -> dict[str, int]:
    """Read the sizes that a person sees."""
    with urllib.request.urlopen(f"{pair.server.url}/segments") as answer:  # noqa: S310 - the sandbox
        shown = re.findall(r'href="/segments/([a-z_]+)".*?<td class="num">(\d+)', answer.read().decode(), re.DOTALL)
    return {name: int(size) for name, size in shown}


MISSES_LEAVERS = """
from target_recurly_engage import engage
def write(self, user_id, properties, *more, original=engage.IngestClient.write):
    left = {k for k, v in properties.items() if k.startswith("segment_") and v in {"false", False}}
    told = {k: v for k, v in properties.items() if k not in left or len(properties) > 40}  # of a new reader all
    return original(self, user_id, told, *more)
engage.IngestClient.write = write
"""


def test_a_target_that_never_tells_who_left_a_segment_is_found_out(tmp_path: Path) -> None:
    """The broken double of the test above."""
    with serving(rows=300, s3_port=0, switches={"engage.csv_delay": 0}) as server, pytest.raises(AssertionError):
        compare_segments(Pair(server, tmp_path), script=MISSES_LEAVERS)


def compare_segments(pair: Pair, *, script: str = "") -> None:
    settings = {"traits": "all,computed,tenure", "segments": "all"}
    pair.first_load(**settings)
    rows = {segment: one["row"] for segment, one in pair.ask("segments", "pulse").items()}
    typed_in = [
        {"name": segment, "filters": [{"trait": row["trait"], "mode": "include", "values": [row["values"]]}]}
        for segment, row in rows.items()
    ]
    pair.server.control("PUT", "engage/segments", typed_in)
    seen: dict[str, set[int]] = {}
    for day in range(0, DAYS + 1, STEP):
        if day:
            pair.server.control("POST", "clock", {"advance": f"{STEP}d"})
            assert pair.run(script=script, delivery="ingest", **settings) == 0, (pair.folder / "log").read_text()
        everybody = pair.lives()
        previewed = {name: one["readers"] for name, one in pair.ask("segments", "preview")["segments"].items()}
        sizes = {one["name"]: one["size"] for one in pair.server.control("GET", "engage")["segments"]}
        del sizes["All Users"]
        assert sizes == sizes_on_the_page(pair) == previewed, f"day {day}"
        found = all_held(pair.server)
        assert pair.differing(beside_others=True) == [], f"day {day}"
        for user, traits in everybody.items():
            held = found.get(user, {})
            for name in ("lifecycle_stage", "in_trial", "in_grace_period", "active_subscription_count"):
                assert held[name] == str(traits[name]).lower(), (day, user, name)
            for segment, inside in lives.ready(traits).items():
                assert held[rows[segment]["trait"]] == str(inside).lower(), (day, user, segment)
        for segment, size in sizes.items():
            seen.setdefault(segment, set()).add(size)
    assert sum(len(one) > 1 for one in seen.values()) >= len(seen) / 2, seen


LOSES = """
import itertools
from target_recurly_engage import engage
count = itertools.count(1)
def write(self, user_id, properties, *more, original=engage.IngestClient.write):
    return None if next(count) % 5 == 0 else original(self, user_id, properties, *more)
engage.IngestClient.write = write
"""


def test_a_channel_that_loses_readers_is_found_out(pair: Pair) -> None:
    """The broken double of the test above."""
    pair.first_load()
    pair.server.control("POST", "clock", {"advance": "5d"})
    assert pair.run(delivery="ingest", script=LOSES) == 0
    assert pair.differing() != []
