"""The world that moves on with the clock: the same subscriptions as in an export of the same moment."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from piano_engage_sandbox.clock import DAY, zone
from piano_engage_sandbox.export import log_rows
from piano_engage_sandbox.states import state_of
from piano_engage_sandbox.world import Change, Happening, World, next_moment, what_happens

if TYPE_CHECKING:
    from collections.abc import Iterable

    from piano_engage_sandbox.world import Entry

AMSTERDAM = zone("Europe/Amsterdam")
BEGINS = AMSTERDAM.parse("2026-03-28T06:00")


def world(rows: int = 150, seed: int = 1, timezone: str = "Europe/Amsterdam") -> World:
    return World(seed=seed, aid="ExAmPlE4a1", zone=zone(timezone), rows=rows, begins=BEGINS)


def cells(made: World, entry: Entry) -> dict[str, str]:
    stamp = made.lives.zone.piano
    state = entry.state
    return {
        "Subscription status": state.status,
        "Upgrade status": state.upgrade_status,
        "Trial status": state.trial_status,
        "Create date": stamp(entry.fate.create),
        "End date": stamp(state.end),
        "Auto-renew": str(state.auto_renew).upper(),
        "Next billing date": stamp(state.next_billing),
        "Last billing date": stamp(state.last_billing),
        "Access expiration date": stamp(state.access_until),
        "Currently in grace period": str(state.in_grace).upper(),
        "Charge count": str(state.charge_count),
        "User ID (UID)": made.person(entry.reader).uid,
        "Modify time": stamp(state.modified),
    }


def exported(moment: int, **options: object) -> dict[str, dict[str, str]]:
    when = datetime.fromtimestamp(moment, UTC)
    given = {"rows": 150, "seed": 1, "since": "2026-03-28T06:00", "groups": ("DEFAULT", "MODIFY_TIME"), **options}
    return {row["Subscription ID"]: row for row in log_rows(as_of=when, **given)}  # type: ignore[arg-type]


def assert_same_as_exported(made: World, **options: object) -> None:
    rows = exported(made.now, **options)
    assert made.entries.keys() == rows.keys()
    for entry in made.entries.values():
        mine = cells(made, entry)
        assert mine == {name: rows[entry.id][name] for name in mine}


@settings(max_examples=25)
@given(seed=st.integers(0, 99), steps=st.lists(st.integers(0, 90 * DAY), max_size=5))
def test_the_world_holds_what_an_export_of_the_same_moment_holds(seed: int, steps: list[int]) -> None:
    made = world(seed=seed)
    for step in steps:
        made.catch_up(made.now + step)
    assert_same_as_exported(made, seed=seed)


def test_years_later_it_still_does() -> None:
    made = world()
    made.catch_up(BEGINS + 8 * 365 * DAY)
    assert_same_as_exported(made)


@pytest.mark.parametrize("timezone", ["America/New_York", "Pacific/Auckland", "UTC"])
def test_in_any_time_zone(timezone: str) -> None:
    made = World(seed=1, aid="ExAmPlE4a1", zone=zone(timezone), rows=150, begins=BEGINS)
    made.catch_up(BEGINS + 200 * DAY)
    since = datetime.fromtimestamp(BEGINS, UTC)
    assert_same_as_exported(made, timezone=timezone, since=since)


def heard(made: World) -> list[Change]:
    changes: list[Change] = []
    made.listeners.append(changes.append)
    return changes


def brief(changes: Iterable[Change]) -> list[tuple[int, str, str]]:
    return sorted((change.at, change.entry.id, change.what.value) for change in changes)


def test_one_step_tells_the_same_as_many() -> None:
    once, often = world(), world()
    of_once, of_often = heard(once), heard(often)
    once.catch_up(BEGINS + 120 * DAY)
    for hour in range(0, 120 * 24, 7):
        often.catch_up(BEGINS + hour * 3600)
    often.catch_up(BEGINS + 120 * DAY)
    assert brief(of_once) == brief(of_often)
    assert len(of_once) > 100


def test_changes_come_in_order_of_time_and_each_continues_the_one_before() -> None:
    made = world(400)
    changes = heard(made)
    made.catch_up(BEGINS + 400 * DAY)
    assert [c.at for c in changes] == sorted(c.at for c in changes)
    last = {}
    for change in changes:
        if change.entry.id in last and change.before is not None:
            assert change.before.status == last[change.entry.id].status
            assert change.before.charge_count <= change.after.charge_count
        last[change.entry.id] = change.after


def test_everything_happens_in_a_year() -> None:
    made = world(2000)
    counts = Counter(change.what for change in heard_over(made, 365))
    by_actions = {
        Happening.BILL_DATE_MOVED, Happening.PAYMENT_METHOD_CHANGED, Happening.CHANGE_WITHDRAWN,
        Happening.MIGRATED,   # that night was in 2019
    }  # fmt: skip
    assert set(counts) == set(Happening) - by_actions


def heard_over(made: World, days: int) -> list[Change]:
    changes = heard(made)
    made.catch_up(made.now + days * DAY)
    return changes


def test_three_days_bring_conversions_charges_failures_and_ends() -> None:
    happened = {change.what for change in heard_over(world(4000), 3)}
    assert {Happening.CONVERTED, Happening.RENEWED, Happening.FAILED, Happening.EXPIRED} <= happened


def test_a_changed_subscription_has_a_successor_when_listeners_hear_of_it() -> None:
    made = world(2000)
    successors = []
    made.listeners.append(
        lambda change: (
            successors.append(made.get(made.id_of(change.entry.fate.upgraded_to)))
            if change.what is Happening.CHANGED and change.entry.fate.upgraded_to
            else None
        )
    )
    made.catch_up(BEGINS + 200 * DAY)
    assert successors
    assert all(entry is not None for entry in successors)


def test_nothing_changes_between_the_moments_foreseen() -> None:
    """What `next_moment` overlooks would leave a state stale: looked for between the moments, hour by hour."""
    made = world(300)
    for entry in list(made.entries.values()):
        at = BEGINS
        while (following := next_moment(made.lives, entry.fate, at)) < BEGINS + 60 * DAY:
            shown = visible(state_of(made.lives, entry.fate, at))
            for between in {at + (following - at) // 3, at + (following - at) * 2 // 3, following - 1} - {at - 1}:
                assert visible(state_of(made.lives, entry.fate, max(between, at))) == shown
            at = following


def visible(state: object) -> dict[str, object]:
    drifts = {"fate", "days_subscribed"}
    return {name: getattr(state, name) for name in state.__slots__ if name not in drifts}  # type: ignore[attr-defined]


def test_a_double_that_overlooks_failures_is_found_out() -> None:
    """The guard above bites: without the moments of failures a state would change unseen."""
    made = world(2000)
    failing = next(
        e for e in made.entries.values() if e.fate.failed_at > BEGINS and e.fate.failed_at < BEGINS + 300 * DAY
    )
    assert what_happens(made.lives, failing.fate, failing.fate.failed_at) == [Happening.FAILED]
    before = state_of(made.lives, failing.fate, failing.fate.failed_at - 1)
    after = state_of(made.lives, failing.fate, failing.fate.failed_at)
    assert visible(before) != visible(after)


def test_users_are_found_by_their_uid() -> None:
    made = world()
    for uid in made.users():
        found = made.of_user(uid)
        assert all(made.person(entry.reader).uid == uid for entry in found)
        assert [e.fate.create for e in found] == sorted(e.fate.create for e in found)
    assert sum(len(made.of_user(uid)) for uid in made.users()) == len(made.entries)
    assert made.of_user("nobody") == []
    assert made.person_of("nobody") is None


def test_deleted_subscriptions_leave_but_their_users_stay_known() -> None:
    made = world(2000)
    uids = set(made.users())
    gone = [c.entry for c in heard_over(made, 60) if c.what is Happening.DELETED]
    assert gone
    for entry in gone:
        assert made.get(entry.id) is None
        assert entry not in made.of_user(made.person(entry.reader).uid)
    assert uids <= set(made.users())
