"""The brake judges values: damaged exports of the sandbox's population are held, and good nights pass."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from target_recurly_engage import brake_measures, brake_values, sources

from tests.target.conftest import DATES, ROUNDS
from tests.target.nights import BEGIN, Nights, Record, changed, export

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from target_recurly_engage.summary import Summary

    from tests.target.conftest import Engage

Rows = list[Record]

IDS = ("subscription_id", "user_id", "aid")
SMALL = 600
"""Rows of the exports of all forms but the first ones, which are tried on the whole population."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One way in which an export, or what it is judged by, goes wrong.

    Attributes:
        rows: makes the rows of the second morning out of the good ones.
        said: what the message must say, as a regular expression.
        whole: it is tried on the whole population.
        complete: the export is complete; else it holds all rows, or only those that changed.
        changed: the export holds only the rows that changed.
        config: settings of that night.
    """

    said: str
    rows: Callable[[Rows], Rows] = list
    whole: bool = False
    complete: bool = True
    changed: bool = False
    config: dict[str, Any] = field(default_factory=dict)


# Damages


def cells(**change: Callable[[Any], Any]) -> Callable[[Rows], Rows]:
    """Return a damage that changes the cells of columns."""
    return lambda rows: [row | {name: one(row[name]) for name, one in change.items()} for row in rows]


def dates(change: Callable[[str], str]) -> Callable[[Rows], Rows]:
    """Return a damage that changes all dates there are."""
    return cells(**dict.fromkeys(DATES, lambda cell: change(cell) if cell else cell))


def blank(*names: str) -> Callable[[Rows], Rows]:
    return lambda rows: [row | dict.fromkeys(names) for row in rows]


def all_blank(rows: Rows) -> Rows:
    return [{name: row[name] if name in IDS else None for name in row} for row in rows]


def shifted(*names: str, start: int = 0) -> Callable[[Rows], Rows]:
    """Return a damage that moves columns by one row, from a row on."""

    def shift(rows: Rows) -> Rows:
        other = [*rows[:start], *rows[start + 1 :], rows[start]]
        return [row | {name: below[name] for name in names} for row, below in zip(rows, other, strict=True)]

    return shift


def later(**by: float) -> Callable[[str], str]:
    return lambda cell: (datetime.fromisoformat(cell) + timedelta(**by)).isoformat()


def day_and_month_swapped(cell: str) -> str:
    return f"{cell[:5]}{cell[8:10]}-{cell[5:7]}{cell[10:]}" if int(cell[8:10]) <= 12 else cell


def another_application(rows: Rows, *, terms: bool) -> Rows:
    """Return as many rows of another application, on its own terms or on terms that are called like ours."""
    others = export(1, rows=len(rows), seed=99)[: len(rows)]
    return cells(term_id="X{}".format, resource_id="X{}".format)(others) if terms else others


def mixed(rows: Rows) -> Rows:
    """Return an export of which every other row is another application's."""
    return [*rows, *another_application(rows, terms=True)]


def clock(**by: float) -> dict[str, Any]:
    return {"as_of": (BEGIN + timedelta(**by)).isoformat()}


TABLE = {
    "all cells blank but the ids": Damage(
        rows=all_blank, said=r"1,4\d\d of 1,4\d\d users \(100.0 %\) would change", whole=True
    ),
    "access expiration blank": Damage(
        rows=blank("access_expiration_date"), whole=True,
        said=r"access_expiration_date \(1,4\d\d, 99.\d %\) of 1,4\d\d users would be cleared",
    ),
    "user ids shifted by one row": Damage(
        rows=shifted("user_id"), said=r"known subscriptions that came \(7\d.\d %\) have another user", whole=True
    ),
    "status words renamed": Damage(
        rows=cells(subscription_status="{} (new)".format), whole=True,
        said=r"2,0\d\d subscriptions \(100.0 %\) have a subscription_status that is unknown",
    ),
    "a clock 15 years ahead": Damage(
        config=clock(days=15 * 365), whole=True,
        said=r"2041-02-26 06:00 UTC counts as now, and the newest change of a subscription is 5,\d\d\d days older",
    ),
    "another time zone": Damage(
        config={"timezone": "America/Los_Angeles"}, whole=True,
        said=r"most of them in access_expiration_date .* settings changed: timezone\): check the time zone",
    ),
    "an incremental export of another application": Damage(
        rows=lambda rows: another_application(rows, terms=False), complete=False, whole=True,
        said=r"9\d.\d %\) are unknown although they were created before the newest change",
    ),
    "an incremental export of another application on terms of its own": Damage(
        rows=lambda rows: another_application(rows, terms=True), complete=False, whole=True,
        said=r"and on terms and resources that no known subscription has: is it another application's export\?",
    ),
}  # fmt: skip
FORMS = {
    "the last user ids shifted": Damage(rows=shifted("user_id", start=500), said="have another user than before"),
    "subscription ids shifted": Damage(rows=shifted("subscription_id"), said="have another create date than before"),
    "create dates shifted": Damage(rows=shifted("create_date"), said="have another create date than before"),
    "start dates shifted": Damage(rows=shifted("start_date"), said="have another start date than before"),
    "terms shifted": Damage(rows=shifted("term_id", "term_name"), said=r"most of them in term_id .*term_name"),
    "user ids shifted among what changed": Damage(
        rows=shifted("user_id"), complete=False, changed=True,
        said=r"of the \d+ known subscriptions that came \(\d\d.\d %\) have another user",
    ),
    "one status word renamed": Damage(
        rows=cells(subscription_status=lambda word: "Lapsed" if word == "Expired" else word),
        said="have a subscription_status that is unknown and was not before",
    ),
    "status words renamed in what changed": Damage(
        rows=cells(subscription_status="{} (new)".format), complete=False, changed=True,
        said="have a subscription_status that is unknown",
    ),
    "status words in capitals": Damage(
        rows=cells(subscription_status=str.upper), said="most of them in subscription_status"
    ),
    "a clock forty days ahead": Damage(config=clock(days=40), said=r"change of a subscription is 39 days older"),
    "a clock one year behind": Damage(config=clock(days=-365), said="were created or changed after 2025-03-02"),
    "a clock that was never set": Damage(config={"as_of": "1970-01-01T00:00:00Z"}, said=r"\(100.0 %\) were created"),
    "stamps of a zone nine hours away": Damage(rows=dates(later(hours=9)), said="another create date than before"),
    "stamps of the next time zone": Damage(rows=dates(later(hours=1)), said="check the time zone and the form"),
    "days and months swapped": Damage(rows=dates(day_and_month_swapped), said="check the time zone and the form"),
    "amounts in cents": Damage(
        rows=cells(total_charged=lambda cell: cell and str(round(float(cell) * 100))),
        said=r"most of them in total_charged .*: check the currency and the decimals",
    ),
    "auto-renew inverted": Damage(
        rows=cells(auto_renew=lambda cell: not cell), said=r"most of them in auto_renew .*: check whether true and"
    ),
    "a rare column blank": Damage(
        rows=blank("grace_period_start_date"), said=r"before have grace_period_start_date \(0.0 %, before \d.\d %\)"
    ),
    "a true/false column blank": Damage(rows=blank("auto_renew"), said=r"have auto_renew \(0.0 %, before 100.0 %\)"),
    "access blank that is no trait": Damage(
        rows=blank("access_expiration_date"), config={"traits": "term_name"},
        said=r"before have access_expiration_date \(0.0 %, before 9\d.\d %\)",
    ),
    "access blank in what changed": Damage(
        rows=blank("access_expiration_date"), complete=False, changed=True,
        said=r"of the \d+ known subscriptions that came, access_expiration_date \(\d+, \d+.\d %\) would become",
    ),
    "subscription ids in small letters": Damage(
        rows=cells(subscription_id=str.lower), complete=False,
        said="have the user and the create date of a known subscription with another id",
    ),
    "user ids in capitals": Damage(rows=cells(user_id=str.upper), complete=False, said="have another user than before"),
    "all ids in the other case": Damage(
        rows=cells(user_id=str.upper, subscription_id=str.lower), complete=False,
        said="are unknown although they were created before",
    ),
    "users renamed by a suffix": Damage(
        rows=cells(user_id="{}-1".format), complete=False, said="have another user than before"
    ),
    "half of it another application's": Damage(rows=mixed, said="is it another application's export"),
    "half of what changed another application's": Damage(
        rows=lambda rows: [*rows, *another_application(export(1, rows=SMALL)[:20], terms=True)],
        complete=False, changed=True, said="is it another application's export",
    ),
}  # fmt: skip


# The nights


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return a maker of folders with the ledger of a first load, by the rows of its export."""
    made: dict[int, Path] = {}

    def copy(rows: int) -> Path:
        if rows not in made:
            made[rows] = tmp_path_factory.mktemp("loaded")
            assert Nights(made[rows]).run(export(rows=rows)).status == "finished"
        folder = tmp_path_factory.mktemp("nights")
        shutil.copy(made[rows] / "ledger.duckdb", folder)
        return folder

    return copy


def second_night(folder: Path, damage: Damage) -> tuple[Nights, Summary]:
    """Run the night after the first load on a damaged export."""
    nights, rows = Nights(folder), 2000 if damage.whole else SMALL
    good = export(1, rows=rows)
    came = changed(export(rows=rows), good) if damage.changed else good
    if damage.changed:  # more than one day brings, for a share needs some
        came = [*came, *[row for row in good if row not in came][:30]]
    return nights, nights.run(damage.rows(came), 1, complete=damage.complete, **damage.config)


def check_held(folder: Path, damage: Damage) -> None:
    """Check that nothing is sent, that the ledger stays as it was, and what the message says."""
    nights, summary = second_night(folder, damage)
    assert nights.stopped is not None
    message = str(nights.stopped)
    assert re.search(damage.said, message), message
    assert re.search(r"\(brake_m\w+_fraction: \w+ [\d.]+|counts as now", message)
    assert re.search(r"--accept [0-9a-f]{16}$", message)
    assert (summary.status, summary.files) == ("stopped", [])
    assert any(check.wrong for check in summary.brake.checks) if summary.brake else False
    assert not re.search(r"[\w.]+@[\w.]+", message)


@pytest.mark.parametrize("name", TABLE)
def test_what_once_ended_well_is_held(loaded: Callable[[int], Path], name: str) -> None:
    check_held(loaded(2000), TABLE[name])


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_are_held(loaded: Callable[[int], Path], name: str) -> None:
    check_held(loaded(SMALL), FORMS[name])


BROKEN: dict[str, tuple[Any, Damage]] = {
    "check_arrival": (sources, FORMS["user ids shifted among what changed"]),
    "_check_unknown": (brake_values, FORMS["all ids in the other case"]),
    "_check_emptied": (brake_values, FORMS["access blank in what changed"]),
    "_check_changed": (brake_values, FORMS["terms shifted"]),
    "_check_lost": (brake_values, TABLE["access expiration blank"]),
    "_check_filled": (brake_measures, FORMS["access blank that is no trait"]),
    "_check_words": (brake_measures, FORMS["status words renamed in what changed"]),
    "_check_age": (brake_measures, TABLE["a clock 15 years ahead"]),
    "_check_ahead": (brake_measures, FORMS["a clock that was never set"]),
}
"""The broken doubles: each check, where it is, and a damage that is found by it."""


@pytest.mark.parametrize("check", BROKEN)
def test_a_brake_without_one_of_its_checks_is_found_out(loaded: Callable[[int], Path], check: str) -> None:
    owner, damage = BROKEN[check]
    broken = patch.object(owner, check, lambda *_, **__: None)
    with broken, pytest.raises(AssertionError):
        check_held(loaded(2000 if damage.whole else SMALL), damage)


# Slow drains


def drained(rows: Rows, night: int) -> Rows:
    """Return what is left when each night lacks 4.8 % of the users of the night before."""
    users = sorted({row["user_id"] for row in rows})
    for _ in range(night):
        users = users[: round(len(users) * 0.952)]
    left = set(users)
    return [row for row in rows if row["user_id"] in left]


def nights_until_held(nights: Nights, most: int = 5) -> int | None:
    for night in range(1, most + 1):
        nights.run(drained(export(rows=SMALL), night))
        if nights.stopped:
            return night
    return None


def test_users_who_go_missing_a_few_each_night_are_held(loaded: Callable[[int], Path]) -> None:
    nights = Nights(loaded(SMALL))
    held = nights_until_held(nights)
    assert held in {2, 3}
    assert f"{len(drained(export(rows=SMALL), held))} subscriptions are left of the {SMALL}" in str(nights.stopped)
    nights.run(drained(export(rows=SMALL), held), accept=nights.accepted())
    assert nights.stopped is None
    nights.run(drained(export(rows=SMALL), held + 1))  # what was accepted is what counts from now on
    assert nights.stopped is None


def test_a_brake_that_knows_only_the_night_before_is_found_out(loaded: Callable[[int], Path]) -> None:
    """The broken double: earlier measures are forgotten."""
    double = patch.object(brake_measures, "_check_numbers", lambda *_: None)
    with double, pytest.raises(AssertionError):
        assert nights_until_held(Nights(loaded(SMALL)), 4)


def test_values_that_go_missing_a_few_each_night_are_held(loaded: Callable[[int], Path]) -> None:
    nights, rows, held = Nights(loaded(SMALL)), export(rows=SMALL), []
    for night in range(1, 6):
        part = len(rows) * 4 * night // 100
        nights.run([*blank("access_expiration_date")(rows[:part]), *rows[part:]])
        held.append(bool(nights.stopped))
    assert held == [False, False, True, True, True]
    assert "fewer subscriptions than before have access_expiration_date" in str(nights.stopped)


def test_a_dry_run_and_a_run_that_was_held_leave_no_measure(loaded: Callable[[int], Path]) -> None:
    nights = Nights(loaded(SMALL))
    before = nights.query("FROM measures")
    nights.run(export(1, rows=SMALL), 1, dry_run=True)
    nights.run(all_blank(export(1, rows=SMALL)), 1)
    assert nights.stopped
    assert nights.query("FROM measures") == before
    nights.run(export(1, rows=SMALL), 1)
    assert len(nights.query("FROM measures")) == 2


# What must pass


def test_a_rebranding_is_held_once_and_goes_through_by_its_fingerprint(loaded: Callable[[int], Path]) -> None:
    nights = Nights(loaded(SMALL))
    rebranded = cells(term_name="{} Plus".format)
    nights.run(rebranded(export(1, rows=SMALL)), 1)
    assert "would change, most of them in term_name" in str(nights.stopped)
    accepted = nights.accepted()
    nights.run(rebranded(export(1, rows=SMALL)), 1)
    assert nights.accepted() == accepted
    summary = nights.run(rebranded(export(1, rows=SMALL)), 1, accept=accepted)
    assert nights.stopped is None
    assert summary.plan
    assert summary.plan.changed > 400
    nights.run(rebranded(export(2, rows=SMALL)), 2)
    assert nights.stopped is None


@pytest.mark.parametrize("users", [3, 9])
def test_a_share_of_a_handful_of_users_proves_nothing(engage: Engage, users: int) -> None:
    engage.run(engage.snapshot(engage.subscriptions(users)))
    assert engage.run(engage.snapshot(engage.subscriptions(users, term_name="Other"))).code == 0
    assert engage.run(engage.snapshot(engage.subscriptions(users, term_name=None))).code == 0


def test_ten_users_are_enough(engage: Engage) -> None:
    engage.run(engage.snapshot(engage.subscriptions(10)))
    run = engage.run(engage.snapshot(engage.subscriptions(10, term_name="Other")))
    assert (run.code, run.states, len(engage.files)) == (80, [], 1)
    assert "10 of 10 users (100.0 %) would change, most of them in term_name (10, 100.0 %)" in run.errors


@pytest.mark.parametrize(
    "config",
    [
        {"traits": "all,computed,tenure"},
        {"traits": "term_name,subscription_id"},
        {"segments": "all"},
        {"resend_after_days": 1, "resend_over_days": 1, **clock(days=1)},
        {"trait_prefix": "p_"},
    ],
    ids=str,
)
def test_a_new_trait_a_segment_and_a_resend_are_no_change(
    loaded: Callable[[int], Path], config: dict[str, Any]
) -> None:
    nights = Nights(loaded(SMALL))
    summary = nights.run(export(1, rows=SMALL), 1, **config)
    assert nights.stopped is None
    assert summary.plan


def test_a_setting_that_changes_every_user_is_named(loaded: Callable[[int], Path]) -> None:
    nights = Nights(loaded(SMALL))
    nights.run(export(1, rows=SMALL), 1, clear_date="9999-12-30")
    assert "since then these settings changed: clear_date)" in str(nights.stopped)


def test_after_a_pause_more_users_may_change(loaded: Callable[[int], Path]) -> None:
    """In forty days nearly all who pay monthly are charged again."""
    nights = Nights(loaded(SMALL))
    summary = nights.run(export(40, rows=SMALL), 40)
    assert nights.stopped is None
    assert summary.plan
    assert summary.plan.altered > 0.3 * summary.plan.known


def test_an_old_export_may_be_read_again_every_night(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    for night in (200, 201, 208):
        nights.run(export(rows=SMALL), night)
        assert nights.stopped is None


def test_each_check_has_its_limit_in_a_setting(loaded: Callable[[int], Path]) -> None:
    off = {"brake_max_change_fraction": 1, "brake_max_identity_fraction": 1, "brake_max_clear_fraction": 1}
    nights = Nights(loaded(SMALL), brake_min_rows_fraction=0, **off)
    nights.run(shifted("user_id")(all_blank(export(1, rows=SMALL))), 1)
    assert nights.stopped is None


# A month


CAMPAIGN = range(5, 12)
MIGRATION = 14
DAYS = 30 if ROUNDS > 1 else 16
"""Nights of the month; `make fault-test` has all of them, on the whole population."""


def campaign(rows: Rows, day: int) -> Rows:
    """Change the price and the offer of 8 % of the users on each day of the campaign."""
    users = sorted({row["user_id"] for row in export(rows=len(rows))})
    done = {user for i, user in enumerate(users) if i % 100 < 8 * sum(one <= day for one in CAMPAIGN)}
    return [
        row
        | {"total_charged": str(float(row["total_charged"] or 0) + 5), "offer_name": "Spring", "promo_code": "SPRING"}
        if row["user_id"] in done
        else row
        for row in rows
    ]


def migrated(rows: Rows, day: int) -> Rows:
    """Move all users to one term on the day of the migration."""
    return (
        cells(term_id=lambda _: "TMNEW", term_name=lambda _: "New", term_type=lambda _: "Dynamic")(rows)
        if (day >= MIGRATION)
        else rows
    )


def month(nights: Nights, rows: int, *, complete: bool) -> Iterator[int]:
    """Run the nights of a month; yields those on which the brake stopped, and accepts what it found."""
    before: Rows = []
    for day in range(DAYS):
        came = migrated(campaign(export(day, rows=rows), day), day)
        touched = came if complete or not before else [row for row in came if row not in before]
        nights.run(touched, day, complete=complete or not before)
        if nights.stopped:
            yield day
            nights.run(touched, day, complete=complete or not before, accept=nights.accepted())
            assert nights.stopped is None
        before = came


@pytest.mark.parametrize("complete", [True, False] if ROUNDS > 1 else [True])
def test_a_normal_month_passes_and_a_migration_is_accepted_once(tmp_path: Path, complete: bool) -> None:  # noqa: FBT001
    rows = 2000 if ROUNDS > 1 else 300
    assert list(month(Nights(tmp_path), rows, complete=complete)) == [MIGRATION]
