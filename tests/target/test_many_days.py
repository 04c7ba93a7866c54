"""Seventy days on which some of the subscriptions change, each by an incremental run, against a reference in Python.

It is how a database that loses rows shows, as DuckDB 2.0.0 did with those that a run wrote and then joined by rowid.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from piano_engage_common.stops import RowsLost
from target_recurly_engage import slices
from target_recurly_engage.computed import FORMULAS
from target_recurly_engage.desired import Source
from target_recurly_engage.run import Run

from tests.target import lives
from tests.target.conftest import ROUNDS
from tests.target.test_plan import History

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 3, 28, 6, tzinfo=UTC)
DAYS, SEEDS = (70, range(10)) if ROUNDS > 1 else (6, range(2))
USERS, AT_ONCE, CHANGED = 180, 40, 0.15

TEXTS = (
    "subscription_id", "subscription_status", "term_type", "promo_code", "billing_period", "upgrade_status",
    "resource_name", "term_id", "lifecycle_stage", "last_promo_code",
)  # fmt: skip
BOOLEANS = ("currently_in_grace_period", "auto_renew", "has_used_promo")
OF_LOG = (
    *TEXTS[:8], *BOOLEANS[:2], "total_charged", "access_expiration_date", "end_date", "start_date",
    "trial_period_end_date", "grace_period_start_date", "auto_renew_disablement_date",
)  # fmt: skip


def written(trait: str, value: Any) -> str:  # noqa: ANN401 - of any type that a trait has
    """Write a value as Engage gets it."""
    if value is None or (isinstance(value, str) and not value.strip()):
        of_number = "9999-12-31" if trait.endswith("_date") else "-1"
        return "none" if trait in TEXTS else "false" if trait in BOOLEANS else of_number
    if isinstance(value, bool):
        return str(value).lower()
    return str(lives.day(value)) if isinstance(value, datetime) else str(value)


def expected(rows: dict[str, lives.Row], *, computed: bool) -> dict[str, dict[str, str]]:
    """Work out what Engage must hold of each user."""
    by_user: dict[str, list[lives.Row]] = {}
    for row in rows.values():
        by_user.setdefault(row["user_id"], []).append(row)
    found = {}
    for user, owned in by_user.items():
        made = lives.computed(owned, NOW)
        traits = {trait: written(trait, made["primary"].get(trait)) for trait in OF_LOG}
        if computed:
            traits |= {trait: written(trait, value) for trait, value in made.items() if trait != "primary"}
            traits |= {f"segment_{one}": str(inside).lower() for one, inside in lives.ready(made).items()}
        found[user] = traits
    return found


def changes(rows: dict[str, lives.Row], day: int, choose: random.Random) -> dict[str, lives.Row]:
    """Make the rows that change on a day: with other values, some with another user, and one that is new."""
    others = lives.lives(choose.randrange(10**6), USERS, NOW)
    changed = {}
    for key in choose.sample(sorted(rows), int(CHANGED * len(rows))):
        user = choose.choice(others) if choose.random() < 0.1 else rows[key]
        changed[key] = choose.choice(others) | {"subscription_id": key, "user_id": user["user_id"]}
    return changed | {f"RC-new-{day}": choose.choice(others) | {"subscription_id": f"RC-new-{day}"}}


def of_pipe(row: lives.Row) -> dict[str, Any]:
    return {column: cell.isoformat() if isinstance(cell, datetime) else cell for column, cell in row.items()}


def day_by_day(seed: int, folder: Path, *, days: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield after each day what Engage holds, and what it must hold."""
    choose, computed = random.Random(seed), bool(seed % 2)  # noqa: S311 - days, not secrets
    history = History(folder, ",".join(["all", *(one.name for one in FORMULAS)]) if computed else "all")
    history.config |= {
        "timezone": str(lives.ZONE), "segments": "all" if computed else "",
        "thresholds": {one.name: "daily" for one in FORMULAS if one.thresholds} if computed else {},
    }  # fmt: skip
    rows = {row["subscription_id"]: row for row in lives.lives(seed, USERS, NOW)}
    came = rows
    for day in range(days):
        history.step({key: of_pipe(row) for key, row in came.items()}, complete=not day)
        wanted = expected(rows, computed=computed)
        gone = {user: {"subscription_id": "none"} for user in history.held.keys() - wanted.keys()}
        held = {
            user: {trait: history.held.get(user, {}).get(trait) for trait in traits}
            for user, traits in (wanted | gone).items()
        }
        yield held, wanted | gone
        came = changes(rows, day, choose)
        rows = rows | came


@pytest.fixture(autouse=True)
def _in_slices_and_without_a_brake() -> Iterator[None]:
    """So many changes, and subscriptions that go to others, are no good days: here they are what is wanted."""
    with patch.object(slices, "AT_ONCE", AT_ONCE), patch.object(Run, "_judge", lambda *_: None):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_each_day_engage_holds_what_the_reference_says(seed: int, tmp_path: Path) -> None:
    for day, (held, wanted) in enumerate(day_by_day(seed, tmp_path, days=DAYS)):
        assert held == wanted, f"day {day}"


def test_a_join_that_loses_rows_ends_the_days(tmp_path: Path) -> None:
    """The broken double: what DuckDB 2.0.0 did."""
    whole = Source.joined

    def lossy(self: Source, table: str) -> str:
        return f"{whole(self, table)} AND hash({table}.user_id) % 10 <> 0"

    days = day_by_day(0, tmp_path, days=3)
    held, wanted = next(days)
    assert held == wanted
    files = list(tmp_path.glob("out/*"))
    with patch.object(Source, "joined", lossy), pytest.raises(RowsLost, match="the database lost rows"):
        next(days)
    assert list(tmp_path.glob("out/*")) == files


def test_a_change_that_is_forgotten_is_found_out(tmp_path: Path) -> None:
    """The broken double: a table that the run has brought up to date but for one row, and that no count gives away."""
    whole = Run._make_plan

    def forgetful(self: Run, delivery_id: str) -> None:
        self._ledger.connection.execute("UPDATE incoming SET term_id = 'TM9' WHERE subscription_id = 'RC-new-0'")
        whole(self, delivery_id)

    with patch.object(Run, "_make_plan", forgetful):
        days = list(day_by_day(0, tmp_path, days=3))
    assert [held == wanted for held, wanted in days] == [True, False, False]
