"""A later export continues an earlier one: rules for pairs of rows, and pairs that break each of them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from piano_engage_sandbox.clock import zone
from piano_engage_sandbox.columns import DRIFTING, TRAITS
from piano_engage_sandbox.lives import Lives

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import MakeRows

Row = dict[str, str]
DAY_1, DAY_4 = "2026-03-28T06:00", "2026-03-31T06:00"
SEED = 5
"""Any seed will do; one makes the failing of a test the same every time."""
NEXT_STATUSES = {
    "Not started": {"Not started", "Active", "Expired"},
    "Active": {"Active", "Failed - Will Retry", "Expired", "Cancelled", "Upgraded", "Expired Due To Payment Error"},
    "Failed - Will Retry": {
        "Failed - Will Retry",
        "Active",
        "Expired Due To Payment Error",
        "Expired",
        "Cancelled",
        "Upgraded",
    },
    "Completed": {"Completed"},
    "Expired": {"Expired"},
    "Cancelled": {"Cancelled"},
    "Upgraded": {"Upgraded"},
    "Expired Due To Payment Error": {"Expired Due To Payment Error"},
}
NEXT_TRIAL_STATUSES = {
    "No trial": {"No trial"},
    "In trial": {"In trial", "Converted", "Not converted"},
    "Converted": {"Converted"},
    "Not converted": {"Not converted"},
}
FIXED = (
    "Create date", "Start date", "User ID (UID)", "User email", "Term ID", "Offer ID", "Promo code",
    "Trial period end date",
    "Created via upgrade", "Upgrade from - subscription ID", "Company name", "Address 1", "Phone",
)  # fmt: skip


def status_moves_legally(before: Row, after: Row) -> bool:
    return after["Subscription status"] in NEXT_STATUSES[before["Subscription status"]]


def trial_moves_legally(before: Row, after: Row) -> bool:
    return after["Trial status"] in NEXT_TRIAL_STATUSES[before["Trial status"]]


def what_was_is(before: Row, after: Row) -> bool:
    return all(before[c] == after[c] for c in FIXED)


def charges_never_shrink(before: Row, after: Row) -> bool:
    money = ("Total charged", "Total refunded", "Charge count", "Days subscribed")
    return all(Decimal(before[c]) <= Decimal(after[c]) for c in money)


def the_end_is_the_end(before: Row, after: Row) -> bool:
    return not before["End date"] or all(before[c] == after[c] for c in TRAITS)


def visits_move_on(before: Row, after: Row) -> bool:
    return bool(after["End date"]) or stamp(before["Last active date"]) <= stamp(after["Last active date"])


def modify_time_tells_of_changes(before: Row, after: Row) -> bool:
    """Say whether Modify time moved exactly when anything but the drifting columns did."""
    earlier, later = stamp(before["Modify time"]), stamp(after["Modify time"])
    changed = any(before[c] != after[c] for c in before if c not in DRIFTING)
    return (earlier < later) if changed else (earlier == later)


def stamp(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S %z")


BREAKS: dict[Callable[[Row, Row], bool], dict[str, str]] = {
    status_moves_legally: {"Subscription status": "Active"},
    trial_moves_legally: {"Trial status": "In trial"},
    what_was_is: {"Term ID": "TMOTHER00000"},
    charges_never_shrink: {"Charge count": "0"},
    the_end_is_the_end: {"End date": ""},
    visits_move_on: {"End date": "", "Last active date": "2018-01-01 00:00:00 +0100"},
    modify_time_tells_of_changes: {"Auto-renew": "TRUE"},
}


def broken(before: Row, after: Row) -> list[str]:
    return [rule.__name__ for rule in BREAKS if not rule(before, after)]


def by_id(rows: list[Row]) -> dict[str, Row]:
    return {row["Subscription ID"]: row for row in rows}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (DAY_1, DAY_4),
        ("2024-02-28T12:00", "2024-03-02T12:00"),
        ("2025-10-25T04:00", "2025-10-26T04:00"),
        ("2022-06-01T04:00", "2023-08-15T04:00"),
    ],
)
def test_rows_move_on_by_the_rules(first: str, second: str, make_rows: MakeRows) -> None:
    before, after = by_id(make_rows(first, seed=SEED)), by_id(make_rows(second, first, seed=SEED))
    both = before.keys() & after.keys()
    assert len(both) > 850
    assert {i: faults for i in both if (faults := broken(before[i], after[i]))} == {}


@pytest.mark.parametrize("rule", BREAKS, ids=lambda rule: rule.__name__)
def test_each_rule_finds_a_pair_that_breaks_it(rule: Callable[[Row, Row], bool], make_rows: MakeRows) -> None:
    before, after = by_id(make_rows(DAY_1, seed=SEED)), by_id(make_rows(DAY_4, DAY_1, seed=SEED))
    lapsed = next(i for i, r in before.items() if r["Subscription status"] == "Expired" and int(r["Charge count"]) > 1)
    assert broken(before[lapsed], after[lapsed]) == []
    assert rule.__name__ in broken(before[lapsed], after[lapsed] | BREAKS[rule])


def test_few_readers_change_in_three_days(make_rows: MakeRows) -> None:
    before, after = by_id(make_rows(DAY_1, seed=SEED, rows=5000)), by_id(make_rows(DAY_4, DAY_1, seed=SEED, rows=5000))
    traits = [t for t in TRAITS if t != "Days subscribed"]
    changed = {r["User ID (UID)"] for i, r in before.items() if i in after and any(r[t] != after[i][t] for t in traits)}
    share = len(changed) / len({r["User ID (UID)"] for r in before.values()})
    assert 0.02 < share < 0.08
    assert sum(r["Days subscribed"] != after[i]["Days subscribed"] for i, r in before.items() if i in after) > 1500


def test_readers_come_and_go(make_rows: MakeRows) -> None:
    before, after = make_rows(DAY_1, seed=SEED, rows=5000), make_rows(DAY_4, DAY_1, seed=SEED, rows=5000)
    then, now = ({r["User ID (UID)"] for r in rows} for rows in (before, after))
    assert now - then, "new readers"
    assert then - now, "erased readers"
    left = by_id(after)
    vanished = [r for i, r in by_id(before).items() if i not in left and r["User ID (UID)"] in now]
    assert vanished, "deleted subscriptions of readers who stay"
    for row in after:
        if row["User ID (UID)"] not in then:
            assert stamp(row["Create date"]) > stamp("2026-03-28 06:00:00 +0100")


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.integers(0, 400),
    st.lists(st.integers(1_546_300_800, 2_000_000_000), min_size=2, max_size=4).map(sorted),
)
def test_a_life_told_later_begins_like_the_life_told_earlier(seed: int, reader: int, moments: list[int]) -> None:
    lives = Lives(seed=seed, aid="ExAmPlE4a1", zone=zone("Europe/Amsterdam"))
    told = [lives.life(reader, moment) for moment in moments]
    known: dict[int, tuple[int, int, str]] = {}
    for life in told:
        for fate in life.fates if life else ():
            facts = (fate.create, fate.stop_at, fate.stop_status)
            assert known.setdefault(fate.number, facts) == facts


def test_lives_do_not_depend_on_who_was_asked_before() -> None:
    def asked_after(*others: int) -> object:
        lives = Lives(seed=3, aid="ExAmPlE4a1", zone=zone("Europe/Amsterdam"))
        for other in others:
            lives.life(other, 1_900_000_000)
        life = lives.life(17, 2_000_000_000)
        return life and (life.bits, [(f.number, f.create, f.stop_at) for f in life.fates])

    assert asked_after() == asked_after(16) == asked_after(400, 2, 17)


def test_arrived_leaves_out_nobody_who_has_come() -> None:
    lives = Lives(seed=3, aid="ExAmPlE4a1", zone=zone("Europe/Amsterdam"))
    for as_of in (1_600_000_000, 1_774_674_000):
        come = [reader for reader in range(3000) if lives.life(reader, as_of)]
        arrived = lives.arrived(0, 3000, as_of)
        assert set(come) <= set(arrived)
        assert len(come) > len(arrived) * 0.9
