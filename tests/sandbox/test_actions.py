"""What actions do to subscriptions, what they refuse, and that exports and the world stay of one mind afterwards."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from piano_engage_sandbox import actions
from piano_engage_sandbox.actions import Refused, default_options, guards, pending_change
from piano_engage_sandbox.catalogue import CONTRACTS, TERM_BY_ID
from piano_engage_sandbox.clock import DAY, end_of_utc_day, zone
from piano_engage_sandbox.lives import Life
from piano_engage_sandbox.log import LogRows
from piano_engage_sandbox.world import Change, Happening, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from piano_engage_sandbox.world import Entry

ZONE = zone("Europe/Amsterdam")
BEGINS = ZONE.parse("2026-03-28T06:00")
OPTIONS = default_options()


@pytest.fixture
def made() -> World:
    return World(seed=1, aid="ExAmPlE4a1", zone=ZONE, rows=2000, begins=BEGINS)


def find(made: World, fits: Callable[[Entry], bool]) -> Entry:
    return next(entry for entry in made.entries.values() if fits(entry))


def dynamic(entry: Entry) -> bool:
    return entry.fate.term.type == "Dynamic" and entry.state.live and entry.state.status == "Active"


def renewing(entry: Entry) -> bool:
    return dynamic(entry) and entry.state.auto_renew and entry.state.upgrade_status == "No upgrade"


def leaving(entry: Entry) -> bool:
    return dynamic(entry) and not entry.state.auto_renew


def paying(entry: Entry) -> bool:
    return (
        entry.fate.term.type == "Payment" and entry.state.auto_renew and entry.state.charge_count > 0
        and entry.state.status == "Active" and entry.state.upgrade_status == "No upgrade"
    )  # fmt: skip


def ended(entry: Entry) -> bool:
    return not entry.state.live and entry.fate.term.renews


def refusal(act: Callable[[], None]) -> str:
    with pytest.raises(Refused) as caught:
        act()
    return caught.value.reason


def test_resume_takes_a_cancellation_back_for_good(made: World) -> None:
    entry = find(made, leaving)
    was_to_end = entry.fate.stop_at
    actions.resume(made, entry)
    assert entry.state.auto_renew
    assert entry.state.next_billing == made.period_end(entry)
    assert entry.state.modified == BEGINS
    assert not guards(entry).can_be_resumed
    charges = entry.state.charge_count
    made.catch_up(was_to_end + 40 * DAY)
    assert entry.state.live
    assert entry.state.charge_count > charges


def test_a_reader_who_resumed_does_not_come_back_a_second_time(made: World) -> None:
    """What the generator had in store after the end is taken back with it."""
    later = [
        entry for entry in made.entries.values()
        if leaving(entry) and any(f.create > BEGINS and f.number % 8 > 1 for f in made._fates[entry.reader])
    ]  # fmt: skip
    entry = later[0]
    actions.resume(made, entry)
    made.catch_up(BEGINS + 900 * DAY)
    others = [e for e in made.entries.values() if e.reader == entry.reader and e.fate.create > BEGINS]
    assert all(e.fate.number % 8 == 1 for e in others)


def test_a_deferred_cancellation_keeps_access_to_the_end_of_the_period(made: World) -> None:
    entry = find(made, renewing)
    next_billing = entry.state.next_billing
    assert next_billing
    actions.cancel_deferred(made, entry)
    assert entry.state.live
    assert not entry.state.auto_renew
    assert entry.state.next_billing is None
    assert entry.state.auto_renew_off_at == BEGINS
    assert entry.state.access_until == end_of_utc_day(next_billing)
    assert guards(entry).can_be_resumed
    made.catch_up(end_of_utc_day(next_billing))
    assert entry.state.status == "Expired"
    assert entry.state.end == end_of_utc_day(next_billing)


def test_a_trial_that_is_cancelled_and_resumed_converts(made: World) -> None:
    entry = find(made, lambda e: renewing(e) and e.state.trial_status == "In trial" and e.fate.off_at > BEGINS)
    trial_end = entry.fate.trial_end
    assert trial_end
    actions.cancel_deferred(made, entry)
    actions.resume(made, entry)
    made.catch_up(trial_end)
    assert entry.state.trial_status == "Converted"
    assert entry.state.last_billing == trial_end


def test_cancel_ends_subscription_and_access_at_once(made: World) -> None:
    entry = find(made, paying)
    actions.cancel(made, entry)
    assert (entry.state.status, entry.state.end, entry.state.access_until) == ("Cancelled", BEGINS, BEGINS)
    assert entry.state.total_refunded == 0
    assert refusal(lambda: actions.cancel(made, entry)) == "cancel_failed"


def test_cancel_with_refund_gives_the_last_payment_back(made: World) -> None:
    entry = find(made, lambda e: paying(e) and e.state.last_amount > 0)
    amount = entry.state.last_amount
    actions.cancel(made, entry, refund=True)
    assert entry.state.total_refunded == amount


def test_a_refund_of_nothing_is_refused_and_nothing_is_cancelled(made: World) -> None:
    entry = find(made, lambda e: e.fate.term.trial_days > 0 and e.state.live and e.state.last_amount == 0)
    assert refusal(lambda: actions.cancel(made, entry, refund=True)) == "refund_failed"
    assert entry.state.live


def test_auto_renew_of_a_payment_term_is_switched_off_and_on(made: World) -> None:
    entry = find(made, paying)
    actions.update(made, entry, auto_renew=False)
    assert not entry.state.auto_renew
    actions.update(made, entry, auto_renew=True)
    assert entry.state.auto_renew
    assert entry.state.auto_renew_on_at == BEGINS


def test_the_next_bill_date_moves_and_periods_count_from_it(made: World) -> None:
    entry = find(made, paying)
    charges, last = entry.state.charge_count, entry.state.last_billing
    date = ZONE.shift(BEGINS, 0, 11)
    actions.update(made, entry, next_bill_date=date)
    assert (entry.state.next_billing, entry.state.charge_count, entry.state.last_billing) == (date, charges, last)
    made.catch_up(date)
    assert (entry.state.charge_count, entry.state.last_billing) == (charges + 1, date)
    term = entry.fate.term
    assert entry.state.next_billing == ZONE.shift(date, term.months, term.days)


@pytest.mark.parametrize("timing", ["0", "1"])
def test_a_term_change_ends_one_subscription_and_begins_another(made: World, timing: str) -> None:
    option = next(o for o in OPTIONS if o.billing_timing == timing)
    entry = find(
        made, lambda e: e.fate.term.term_id == option.from_term and e.state.auto_renew and not e.state.in_grace
        and e.state.upgrade_status == "No upgrade",
    )  # fmt: skip
    at = BEGINS if timing == "0" else made.period_end(entry)
    told: list[Change] = []
    made.listeners.append(told.append)
    ask(made, entry)
    if timing == "1":
        pending = pending_change(made, entry)
        assert pending
        assert (pending.to_term, pending.asked_at, pending.at) == (option.to_term, BEGINS, at)
        assert entry.state.upgrade_status == "Upgrade pending"
        made.catch_up(at)
    assert (entry.state.status, entry.state.end) == ("Upgraded", at)
    assert entry.fate.upgraded_to
    successor = made.get(made.id_of(entry.fate.upgraded_to))
    assert successor
    assert successor.fate.term.term_id == option.to_term
    assert (successor.fate.start, successor.state.auto_renew, successor.fate.upgraded_from) == (at, True, entry.fate)
    whats = [change.what for change in told if change.entry is entry]
    expected = [Happening.CHANGED] if timing == "0" else [Happening.CHANGE_ASKED, Happening.CHANGED]
    assert whats == expected
    assert pending_change(made, entry) is None


def ask(made: World, entry: Entry, **other: object) -> None:
    """Ask for the first option of a subscription's term, with the option's own settings unless others are given."""
    option = actions.option_for(OPTIONS, entry)
    assert option
    given_settings = {
        "billing_timing": option.billing_timing,
        "immediate_access": option.immediate_access,
        "prorate_access": option.prorate_access,
        **other,
    }
    actions.change(made, entry, option.to_term, options=OPTIONS, **given_settings)  # type: ignore[arg-type]


def changeable(entry: Entry) -> bool:
    option = actions.option_for(OPTIONS, entry)
    return option is not None and option.billing_timing == "1" and paying(entry)


def test_a_pending_change_can_be_taken_back(made: World) -> None:
    entry = find(made, changeable)
    ask(made, entry)
    assert refusal(lambda: ask(made, entry)) == "already_pending"
    assert refusal(lambda: actions.update(made, entry, auto_renew=False)) == "auto_renew_fixed"
    at = made.period_end(entry)
    actions.change_cancel(made, entry)
    assert entry.state.upgrade_status == "No upgrade"
    assert refusal(lambda: actions.change_cancel(made, entry)) == "nothing_pending"
    made.catch_up(at + DAY)
    assert entry.state.live
    assert made._fates[entry.reader][-1] is entry.fate or made._fates[entry.reader][-1].upgraded_from is None


REFUSALS: list[tuple[str, Callable[[Entry], bool], Callable[[World, Entry], None]]] = [
    ("not_resumable", renewing, actions.resume),
    ("not_resumable", lambda e: e.fate.term.type == "Dynamic" and not e.state.live, actions.resume),
    ("not_dynamic", paying, actions.resume),
    ("not_dynamic", paying, actions.cancel_deferred),
    ("deferred_not_possible", leaving, actions.cancel_deferred),
    ("cancel_failed", ended, actions.cancel),
    ("cancel_failed", lambda e: e.fate.term.type in CONTRACTS and e.state.live, actions.cancel),
    ("already_ended", ended, lambda made, e: actions.update(made, e, auto_renew=True)),
    ("auto_renew_fixed", renewing, lambda made, e: actions.update(made, e, auto_renew=False)),
    ("bill_date_past", paying, lambda made, e: actions.update(made, e, next_bill_date=BEGINS + 3600)),
    ("bill_date_past", paying, lambda made, e: actions.update(made, e, next_bill_date=BEGINS - DAY)),
    ("settings_differ", changeable, lambda made, e: ask(made, e, prorate_access=True, billing_timing="3")),
    ("nothing_pending", paying, actions.change_cancel),
    (
        "no_change_option", lambda e: e.fate.term.term_id == "TMPUZZLES009" and e.state.live,
        lambda made, e: actions.change(
            made, e, "TMPREYEAR006", options=OPTIONS, billing_timing="0", immediate_access=True, prorate_access=True
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "fits", "act"), REFUSALS)
def test_refusals_change_nothing(
    made: World, reason: str, fits: Callable[[Entry], bool], act: Callable[[World, Entry], None]
) -> None:
    entry = find(made, fits)
    state, touched = entry.state, dict(made.touched)
    assert refusal(lambda: act(made, entry)) == reason
    assert entry.state is state
    assert made.touched == touched


def test_in_grace_there_is_no_period_to_go_by(made: World) -> None:
    while not (one := failing(made, "Dynamic")) or not failing(made, "Payment"):
        made.catch_up(made.now + DAY)
    dynamic_one, payment_one = one[0], failing(made, "Payment")[0]
    assert refusal(lambda: actions.cancel_deferred(made, dynamic_one)) == "deferred_not_possible"
    later = made.now + 9 * DAY
    assert refusal(lambda: actions.update(made, payment_one, next_bill_date=later)) == "in_grace"
    grace_ends = payment_one.state.access_until
    actions.update(made, payment_one, auto_renew=False)
    assert payment_one.state.in_grace
    made.catch_up(grace_ends or 0)
    assert payment_one.state.status == "Expired Due To Payment Error"


def failing(made: World, kind: str) -> list[Entry]:
    return [e for e in made.entries.values() if e.state.in_grace and e.fate.term.type == kind]


def test_today_is_a_day_of_the_application(made: World) -> None:
    """At 06:00 in Amsterdam a bill date at 23:59 of the same local day is today; one minute later is not."""
    entry = find(made, paying)
    midnight = ZONE.parse("2026-03-29T00:00")
    assert refusal(lambda: actions.update(made, entry, next_bill_date=midnight - 60)) == "bill_date_past"
    actions.update(made, entry, next_bill_date=midnight)
    assert entry.state.next_billing == midnight


ACTS = ("resume", "cancel", "refund", "deferred", "on", "off", "move", "change", "change_cancel", "method")
steps = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 10**6), st.integers(0, 50 * DAY)), max_size=25)


@settings(max_examples=60)
@given(seed=st.integers(0, 20), steps=steps)
def test_whatever_is_done_exports_and_world_agree(seed: int, steps: list[tuple[str, int, int]]) -> None:
    made = World(seed=seed, aid="ExAmPlE4a1", zone=ZONE, rows=60, begins=BEGINS)
    told: list[Change] = []
    made.listeners.append(told.append)
    for act, which, wait in steps:
        able = [e for e in made.entries.values() if possible(act, e)] or list(made.entries.values())
        do(made, able[which % len(able)], act, wait)
        made.catch_up(made.now + wait)
        check_states(made)
    assert [c.at for c in told] == sorted(c.at for c in told)
    for reader, fates in made.touched.items():
        life = Life(reader, made._bits[reader], [f for f in fates if f.create <= made.now < f.deleted_at])
        rows = LogRows(made.lives, made.now, groups=("DEFAULT",)).of(life)
        entries = [e for e in made.entries.values() if e.reader == reader]
        assert {row[0]: row[6] for row in rows} == {e.id: e.state.status for e in entries}


def possible(act: str, entry: Entry) -> bool:
    allowed = guards(entry)
    return {
        "resume": allowed.can_be_resumed,
        "deferred": allowed.deferred_cancelable,
        "cancel": allowed.cancelable,
        "change_cancel": entry.state.upgrade_status == "Upgrade pending",
        "on": allowed.auto_renew_change_enabled and not entry.state.auto_renew,
    }.get(act, entry.state.live)


def do(made: World, entry: Entry, act: str, number: int) -> None:
    option = actions.option_for(OPTIONS, entry)
    acts: dict[str, Callable[[], None]] = {
        "resume": lambda: actions.resume(made, entry),
        "cancel": lambda: actions.cancel(made, entry),
        "refund": lambda: actions.cancel(made, entry, refund=True),
        "deferred": lambda: actions.cancel_deferred(made, entry),
        "on": lambda: actions.update(made, entry, auto_renew=True),
        "off": lambda: actions.update(made, entry, auto_renew=False),
        "move": lambda: actions.update(made, entry, next_bill_date=made.now + DAY + number),
        "change": lambda: ask(made, entry) if option else None,
        "change_cancel": lambda: actions.change_cancel(made, entry),
        "method": lambda: actions.update(made, entry, payment_method="UPM1"),
    }
    before = entry.state
    try:
        acts[act]()
    except Refused:
        assert entry.state is before
        return
    if entry.state is not before:
        assert entry.state.modified == made.now


def check_states(made: World) -> None:
    for entry in made.entries.values():
        state = entry.state
        assert state.end is None or state.end <= made.now
        assert entry.next_at > made.now
        if state.next_billing is not None:
            assert state.live
            assert state.auto_renew
            assert state.next_billing > made.now
        if state.live and state.access_until is not None and entry.fate.start <= made.now:
            assert state.access_until >= made.now


def test_change_options_lead_from_and_to_terms_there_are() -> None:
    assert len({o.option_id for o in OPTIONS}) == len(OPTIONS)
    assert {o.from_term for o in OPTIONS} | {o.to_term for o in OPTIONS} <= TERM_BY_ID.keys()
    assert Counter(o.billing_timing for o in OPTIONS)["0"] == 3
