"""Which of a reader's subscriptions speaks for him, compared with a second implementation in plain Python."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from target_recurly_engage.migrations import MIGRATIONS
from target_recurly_engage.primary import TAKES_OVER, Preference, PrimaryRule, judged, taking_over

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOW = datetime(2026, 3, 28, 6, tzinfo=UTC)
Row = dict[str, Any]

DEFAULT = PrimaryRule()
CONNECTION = duckdb.connect()
CONNECTION.execute("SET TimeZone = 'UTC'")
CONNECTION.execute(MIGRATIONS[0].split(";")[0])


def moment(days: float) -> datetime:
    return NOW + timedelta(days=days)


def row(subscription_id: str, status: str | None = "Active", **values: object) -> Row:
    return {"user_id": "u", "subscription_id": subscription_id, "subscription_status": status} | values


def chosen(rows: Sequence[Row], rule: PrimaryRule = DEFAULT) -> str:
    """What the target's SQL says."""
    with CONNECTION.cursor() as connection:
        connection.execute("CREATE OR REPLACE TEMP TABLE subscriptions AS FROM main.subscriptions")
        columns = sorted({column for row in rows for column in row})
        marks = ", ".join("?" for _ in columns)
        names = ", ".join(columns)
        connection.executemany(
            f"INSERT INTO temp.subscriptions ({names}) VALUES ({marks})",
            [[row.get(c) for c in columns] for row in rows],
        )
        now = NOW.isoformat()
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {TAKES_OVER} AS {taking_over(rule, now)}")
        best_first = f"SELECT arg_min(subscription_id, {rule.sql}) FROM ({judged(now)})"
        ((best,),) = connection.execute(best_first).fetchall()
    return str(best)


def expected(rows: Sequence[Row]) -> str:  # noqa: C901 - one small function a criterion
    """What decision 8 says, in Python; shares no code with the target."""
    never, forever = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
    paying, leaving = {"active", "failed - will retry", "payment failure", "completed"}, {"won't renew", "wont renew"}

    def upgraded(row: Row) -> bool:
        ends = [row[one] for one in ("end_date", "access_expiration_date") if row.get(one)]
        recent = not ends or max(ends) > NOW - timedelta(days=7)
        return (row["subscription_status"] or "").lower() == "upgraded" and recent

    was_upgraded = any(map(upgraded, rows))

    def over(row: Row) -> bool:
        """Whether it takes over from one that was upgraded: awaited, or from a later day on, and with access."""
        status, end = (row["subscription_status"] or "").lower(), row.get("access_expiration_date")
        later = row.get("start_date") is not None and row["start_date"] > NOW
        awaited = status in {"pending", "not started", "wait confirmed"} or (status in paying | leaving and later)
        return was_upgraded and awaited and (end is None or end > NOW)

    def live(row: Row) -> bool:
        status = (row["subscription_status"] or "").lower()
        if over(row):
            return True
        if status in {"upgraded", "deleted", "pending", "not started", "wait confirmed"}:
            return False
        if row.get("start_date") is not None and row["start_date"] > NOW:
            return False
        if row.get("currently_in_grace_period"):
            return True
        end = row.get("access_expiration_date")
        if end is not None:
            return bool(end > NOW)
        return status in paying | leaving

    def renews(row: Row) -> bool:
        status = (row["subscription_status"] or "").lower()
        return live(row) and bool(row.get("auto_renew")) and (over(row) or status in paying) and not free(row)

    def access_end(row: Row) -> datetime:
        status = (row["subscription_status"] or "").lower()
        without = forever if over(row) or status in paying | leaving else row.get("end_date") or never
        return row.get("access_expiration_date") or without

    def free(row: Row) -> bool:
        types = {"registration", "newsletter", "ad view", "custom", "access granted"}
        return (row.get("term_type") or "").lower() in types

    def tier(row: Row) -> int:
        trial_end = row.get("trial_period_end_date")
        if trial_end is not None and trial_end > NOW:
            return 1
        return 2 if free(row) else 0

    def last(name: str) -> Callable[[Row], datetime]:
        return lambda row: row.get(name) or never

    best = sorted(rows, key=lambda row: row["subscription_id"])
    keys: list[tuple[Callable[[Row], Any], bool]]
    keys = [(last("start_date"), True), (access_end, True), (tier, False), (renews, True), (live, True)]
    for key, reverse in keys:
        best.sort(key=key, reverse=reverse)
    return str(best[0]["subscription_id"])


LATER, SOON, PAST = moment(40), moment(3), moment(-3)

CASES = {
    "live before not live": [row("B", access_expiration_date=SOON), row("A", access_expiration_date=PAST)],
    "live before not live with a later end": [
        row("B", access_expiration_date=SOON), row("A", "Upgraded", access_expiration_date=LATER),
    ],
    "grace counts as live": [
        row("B", "Expired", access_expiration_date=PAST, currently_in_grace_period=True),
        row("A", "Expired", access_expiration_date=PAST),
    ],
    "active without an end is live": [row("B", "Active"), row("A", "Expired", access_expiration_date=PAST)],
    "expired without an end is not": [row("B", access_expiration_date=SOON), row("A", "Expired")],
    "words in any case": [row("B", "ACTIVE"), row("A", "uPGRADED", access_expiration_date=LATER)],
    "paid before trial": [
        row("B", access_expiration_date=SOON),
        row("A", access_expiration_date=LATER, trial_period_end_date=SOON),
    ],
    "a trial that is over is paid": [
        row("B", access_expiration_date=LATER, trial_period_end_date=PAST), row("A", access_expiration_date=SOON),
    ],
    "trial before free": [
        row("B", access_expiration_date=SOON, trial_period_end_date=SOON),
        row("A", access_expiration_date=LATER, term_type="Registration"),
    ],
    "paid before free even when neither is live": [
        row("B", access_expiration_date=moment(-90)), row("A", access_expiration_date=PAST, term_type="custom"),
    ],
    "latest end of access": [row("B", access_expiration_date=LATER), row("A", access_expiration_date=SOON)],
    "latest start": [
        row("B", access_expiration_date=SOON, start_date=PAST),
        row("A", access_expiration_date=SOON, start_date=moment(-9)),
    ],
    "access without an end is the latest end": [row("B"), row("A", access_expiration_date=LATER)],
    "ended without an end of access is as late as its end": [
        row("B", "Expired", end_date=PAST), row("A", "Expired", access_expiration_date=moment(-9)),
    ],
    "a lifetime that has not begun is not live": [
        row("B", access_expiration_date=SOON), row("A", start_date=moment(1)),
    ],
    "renews before a later end": [
        row("B", access_expiration_date=SOON, auto_renew=True),
        row("A", access_expiration_date=LATER, auto_renew=False),
    ],
    "a trial that renews before what is paid and leaves": [
        row("B", access_expiration_date=SOON, trial_period_end_date=SOON, auto_renew=True),
        row("A", "Cancelled", access_expiration_date=LATER, auto_renew=False),
    ],
    "of both that renew the later end": [
        row("B", access_expiration_date=LATER, auto_renew=True), row("A", access_expiration_date=SOON, auto_renew=True),
    ],
    "cancelled renews nothing, whatever its flag says": [
        row("B", "Won't renew", access_expiration_date=LATER, auto_renew=True),
        row("A", access_expiration_date=SOON, auto_renew=False),
    ],
    "a registration renews nothing": [
        row("B", access_expiration_date=SOON, auto_renew=False),
        row("A", access_expiration_date=LATER, auto_renew=True, term_type="Registration"),
    ],
    "the id settles ties": [row("B"), row("C")],
}  # fmt: skip
AWAITED = [
    row("A", "Upgraded", end_date=NOW), row("C", "Active", start_date=LATER), row("B", "Pending", start_date=SOON),
]  # fmt: skip
"""One that was upgraded, and two that wait to take over from it."""


def test_of_two_that_take_over_the_later_start_is_the_better_one() -> None:
    assert chosen(AWAITED) == expected(AWAITED) == "C"


def test_a_preference_goes_by_the_status_that_the_log_has() -> None:
    rule = PrimaryRule(order=(Preference("subscription_status", ("Active", "Pending")),))
    assert chosen(AWAITED, rule) == "C"  # both count as live


@pytest.mark.parametrize("case", CASES)
def test_primary_is_the_declared_one(case: str) -> None:
    first, second = CASES[case]
    assert chosen([first, second]) == chosen([second, first]) == expected([first, second]) == first["subscription_id"]


MOMENTS = st.none() | st.sampled_from([moment(d) for d in (-400, -3, -1 / 86400, 0, 1 / 86400, 3, 40)])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.just("u"),
            "subscription_id": st.text("ABC", min_size=1, max_size=3),
            "subscription_status": st.sampled_from(
                [
                    None,
                    "Active",
                    "Expired",
                    "Upgraded",
                    "deleted",
                    "Won't renew",
                    "Payment failure",
                    "Cancelled",
                    "Pending",
                ]
            ),
            "term_type": st.sampled_from([None, "Payment", "Registration", "Ad view", "Dynamic", "Access granted"]),
            "currently_in_grace_period": st.sampled_from([None, False, True]),
            "auto_renew": st.sampled_from([None, False, True]),
            "access_expiration_date": MOMENTS,
            "end_date": MOMENTS,
            "start_date": MOMENTS,
            "trial_period_end_date": MOMENTS,
        }
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda row: row["subscription_id"],
)


@given(rows=ROWS, data=st.data())
def test_primary_does_not_depend_on_the_order_of_rows_and_is_that_of_a_second_implementation(
    rows: list[Row], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rows))
    assert chosen(rows) == chosen(shuffled) == expected(rows)
