"""The shipped samples through tap and target, compared with a computation in plain Python that shares no code."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from tests import warm
from tests.target.conftest import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLES = Path(__file__).parents[2] / "samples"
DAY_1, DAY_4 = SAMPLES / "subscription-log-day-1.csv", SAMPLES / "subscription-log-day-4.csv"
NOW = {DAY_1: "2026-03-28T06:00:00+01:00", DAY_4: "2026-03-31T06:00:00+02:00"}
ZONE = "Europe/Amsterdam"
FORMS = {
    "record": None,
    "parquet": {"format": "parquet"},
    "jsonl": {"format": "jsonl"},
    "jsonl.gz": {"format": "jsonl", "compression": "gzip"},
}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("samples")]  # one worker makes the three runs, once

TEXTS = (
    "Subscription ID", "Subscription status", "Upgrade status", "Trial status", "Billing period", "Resource ID (RID)",
    "Resource name", "Term ID", "Term name", "Term type", "Template ID", "Template name", "Offer ID", "Offer name",
    "Promo code",
)  # fmt: skip
DATES = (
    "Create date", "Start date", "End date", "Trial period end date", "Auto-renew disablement date",
    "Next billing date", "Grace period start date", "Grace period extended to", "Access expiration date",
)  # fmt: skip
BOOLEANS = ("Auto-renew", "Renewed", "Currently in grace period")
NUMBERS = ("Days subscribed", "Total charged")

THRESHOLDS = (30, 90, 120, 365)

Traits = dict[str, str]
Row = dict[str, str]


# The second implementation


def moment(cell: str) -> datetime | None:
    return datetime.strptime(cell, "%Y-%m-%d %H:%M:%S %z") if cell else None


RUNS = {"active", "renewed", "completed", "failed - will retry", "payment failure"}
GOES_ON = RUNS | {"won't renew", "wont renew"}
AWAITED = {"pending", "not started", "wait confirmed"}
FREE = {"registration", "newsletter", "ad view", "custom", "access granted"}
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)


def status(row: Row) -> str:
    return row["Subscription status"].lower()


def is_later(row: Row, now: datetime) -> bool:
    start = moment(row["Start date"])
    return start is not None and start > now


def is_upgraded(rows: Sequence[Row], now: datetime) -> bool:
    """Return whether one of a user's subscriptions was upgraded within the last seven days."""
    for row in rows:
        ends = [end for end in map(moment, (row["End date"], row["Access expiration date"])) if end]
        if status(row) == "upgraded" and (not ends or max(ends) > now - timedelta(days=7)):
            return True
    return False


def takes_over(row: Row, now: datetime) -> bool:
    """Return whether a subscription of a user who was upgraded is the one that is awaited."""
    end = moment(row["Access expiration date"])
    return (end is None or end > now) and (status(row) in AWAITED or (is_later(row, now) and status(row) in GOES_ON))


def live(row: Row, now: datetime) -> bool:
    if is_later(row, now) or status(row) in AWAITED | {"upgraded", "deleted", "na"}:
        return False
    end = moment(row["Access expiration date"])
    return row["Currently in grace period"] == "TRUE" or (end > now if end else status(row) in GOES_ON)


def tier(row: Row, now: datetime) -> int:
    trial_end = moment(row["Trial period end date"])
    if trial_end and trial_end > now:
        return 1
    return 2 if row["Term type"].lower() in FREE else 0


def access_end(row: Row, *, goes_on: bool) -> float:
    """Return the end of access in seconds; access without an end is the latest end."""
    end = moment(row["Access expiration date"]) or (FOREVER if goes_on else moment(row["End date"]))
    return end.timestamp() if end else 0.0


def rank(row: Row, now: datetime, *, upgraded: bool) -> tuple[Any, ...]:
    over = upgraded and takes_over(row, now)
    is_live = over or live(row, now)
    sold = row["Term type"].lower() not in FREE
    renews = is_live and row["Auto-renew"].lower() == "true" and (over or status(row) in RUNS) and sold
    start = moment(row["Start date"])
    return (
        not is_live, not renews, tier(row, now), -access_end(row, goes_on=over or status(row) in GOES_ON),
        -start.timestamp() if start else 0.0, row["Subscription ID"],
    )  # fmt: skip


def trait_name(header: str) -> str:
    return header.split("(", maxsplit=1)[0].strip().lower().replace("-", "_").replace(" ", "_")


def written(row: Row) -> Traits:
    traits = {header: row[header] or "none" for header in TEXTS}
    for header in DATES:
        found = moment(row[header])
        traits[header] = f"{found.astimezone(ZoneInfo(ZONE)):%Y-%m-%d}" if found else "9999-12-31"
    traits |= {header: row[header].lower() or "false" for header in BOOLEANS}
    for header in NUMBERS:
        number = row[header].rstrip("0").rstrip(".") if "." in row[header] else row[header]
        traits[header] = number or ("0" if row[header] else "-1")
    return {trait_name(header): value for header, value in traits.items()}


def expected(export: Path, now: datetime | None = None) -> dict[str, Traits]:
    now = now or datetime.fromisoformat(NOW[export])
    with export.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["User ID (UID)"]]
    by_user: dict[str, list[Row]] = {}
    for row in rows:
        by_user.setdefault(row["User ID (UID)"], []).append(row)
    return {user: written(best(own, now)) for user, own in by_user.items()}


def best(rows: Sequence[Row], now: datetime) -> Row:
    """Return the primary subscription among the *rows* of one user."""
    upgraded = is_upgraded(rows, now)
    return min(rows, key=lambda row: rank(row, now, upgraded=upgraded))


def steady(traits: Traits | None) -> Traits | None:
    """Of what drifts only the thresholds count that it has passed."""
    if not traits:
        return traits
    days = float(traits["days_subscribed"])
    return traits | {"days_subscribed": str(-1 if days == -1 else sum(days >= one for one in THRESHOLDS))}


def expected_changes(before: dict[str, Traits], after: dict[str, Traits]) -> dict[str, Traits]:
    cleared = dict.fromkeys(map(trait_name, TEXTS), "none") | dict.fromkeys(map(trait_name, BOOLEANS), "false")
    cleared |= dict.fromkeys(map(trait_name, DATES), "9999-12-31") | dict.fromkeys(map(trait_name, NUMBERS), "-1")
    gone = dict.fromkeys(before.keys() - after.keys(), cleared)
    return {user: traits for user, traits in (after | gone).items() if steady(before.get(user)) != steady(traits)}


# The real thing


@dataclass(frozen=True, slots=True)
class Pair:
    """Tap and target with a folder of their own."""

    folder: Path
    form: str = "record"
    columns: str = "traits"

    def run(self, export: Path, *, as_of: str | None = None) -> str:
        """Pipe the tap into the target; both must end well. Gives both logs."""
        encoding = FORMS[self.form]
        batch = {"encoding": encoding, "storage": {"root": (self.folder / "batch").as_uri()}, "batch_size": 700}
        tap = {"export_path": str(export), "rejects_path": str(self.folder / "rejects"), "columns": self.columns}
        target = {
            "ledger": str(self.folder / "ledger.duckdb"), "output_path": str(self.folder / "ingest"),
            "runs_path": str(self.folder / "runs"), "timezone": ZONE, "as_of": as_of or NOW[export],
            "traits": "all",
        }  # fmt: skip
        taken, given = os.pipe()
        source = self._start("tap-piano", tap | ({"batch_config": batch} if encoding else {}), stdout=given)
        os.close(given)
        sink = self._start("target-recurly-engage", target, stdin=taken)
        os.close(taken)
        assert (source.wait(PATIENCE), sink.wait(PATIENCE)) == (0, 0), self.log
        return self.log

    def _start(self, command: str, config: dict[str, Any], **pipes: int) -> warm.Process:
        path = self.folder / f"{command}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        with (self.folder / f"{command}.log").open("ab") as log, (self.folder / "state").open("ab") as state:
            return warm.start(command, ["--config", path], stderr=log, **({"stdout": state.fileno()} | pipes))

    @property
    def log(self) -> str:
        """All that both ever said."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("*.log")))

    @property
    def sent(self) -> list[dict[str, Traits]]:
        """What each file says of each reader."""
        files = []
        for path in sorted((self.folder / "ingest").iterdir(), key=lambda path: path.stat().st_mtime_ns):
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, strict=True))
            files.append({row.pop("user_id"): row for row in rows})
            assert len(files[-1]) == len(rows)
        return files

    @property
    def ledger(self) -> dict[str, Sequence[str]]:
        """Subscriptions and delivered traits."""
        with duckdb.connect(str(self.folder / "ledger.duckdb"), read_only=True) as connection:
            return {
                "subscriptions": sorted(map(repr, connection.sql("FROM subscriptions").fetchall())),
                "delivered": sorted(
                    map(repr, connection.sql("SELECT * EXCLUDE delivery_id FROM delivered").fetchall())
                ),
            }


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Export of day 1, of day 4, and of day 4 again."""
    pair = Pair(tmp_path_factory.mktemp("pair"))
    for export in (DAY_1, DAY_4, DAY_4):
        pair.run(export)
    return pair


def test_the_first_file_holds_every_reader_once_with_the_traits_of_a_second_implementation(three_runs: Pair) -> None:
    assert three_runs.sent[0] == expected(DAY_1)


def test_the_second_file_holds_only_readers_whose_traits_changed(three_runs: Pair) -> None:
    changes = expected_changes(expected(DAY_1), expected(DAY_4))
    assert three_runs.sent[1] == changes
    assert 0 < len(changes) < 0.1 * len(expected(DAY_1))


def test_the_third_run_writes_no_file(three_runs: Pair) -> None:
    assert len(three_runs.sent) == 2
    paths = sorted((three_runs.folder / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    told = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert [run["users"]["new"] + run["users"]["changed"] + run["users"]["cleared"] for run in told] == [
        len(three_runs.sent[0]), len(three_runs.sent[1]), 0,
    ]  # fmt: skip
    assert [len(run["files"]) for run in told] == [1, 1, 0]


@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"record"}))
def test_batch_ends_in_the_same_ledger_and_the_same_files(tmp_path: Path, three_runs: Pair, form: str) -> None:
    pair = Pair(tmp_path, form)
    for export in (DAY_1, DAY_4):
        pair.run(export)
    assert pair.sent == three_runs.sent
    assert pair.ledger == three_runs.ledger
    assert [path for path in (tmp_path / "batch").rglob("*") if path.is_file()] == []


def test_what_is_personal_reaches_neither_ledger_nor_files_nor_logs(tmp_path: Path) -> None:
    pair = Pair(tmp_path, "parquet", columns="all")
    for export in (DAY_1, DAY_4):
        pair.run(export)
    with DAY_4.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    personal = ("User email", "Name (first and last)", "Address 1", "Phone", "Payment source", "URL")
    canaries = {row[header].encode() for header in personal for row in rows if len(row[header]) > 6}
    assert len(canaries) > 1000
    left = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "ledger.duckdb" in left
    found = {name: [canary for canary in canaries if canary in content] for name, content in left.items()}
    assert {name: some[:3] for name, some in found.items() if some} == {}


def test_a_column_missing_from_the_next_export_is_held_back(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.run(DAY_1)
    lacking = tmp_path / "lacking.csv"
    with DAY_4.open(newline="", encoding="utf-8") as file:
        rows = [{name: cell for name, cell in row.items() if name != "Promo code"} for row in csv.DictReader(file)]
    with lacking.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(AssertionError, match="the export has no column for promo_code"):
        pair.run(lacking, as_of=NOW[DAY_4])
    assert len(pair.sent) == 1
