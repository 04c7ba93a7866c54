"""What the Publisher API can do to a subscription: resume, cancel, update, change its term.

Each action changes the fate of one subscription, or refuses. Rules follow the reference sheet of Piano, 3.4 and 3.6;
which answer a refusal becomes is the business of `piano.subscription_api`. What the generator had in store for the
reader after the subscription is taken back: from an action on, it goes on as the action left it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from piano_engage_sandbox import catalogue
from piano_engage_sandbox.clock import DAY, end_of_utc_day
from piano_engage_sandbox.lives import FAR, Fate
from piano_engage_sandbox.states import UPGRADE_PENDING, UPGRADED
from piano_engage_sandbox.world import Happening

if TYPE_CHECKING:
    from collections.abc import Iterable

    from piano_engage_sandbox.world import Entry, World

DYNAMIC: Final = "Dynamic"
AT_ONCE: Final = "0"


class Refused(Exception):  # noqa: N818 - not an error of ours: the vendor says no
    """An action that is not possible; `reason` is a word of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(REASONS[reason])
        self.reason = reason


REASONS: Final = {
    "not_resumable": "there is no cancellation to take back",
    "not_dynamic": "only dynamic subscriptions are resumed or cancelled at the period's end",
    "in_grace": "the last charge failed: until it is paid there is no period to go by",
    "already_ended": "the subscription has ended",
    "auto_renew_fixed": "auto-renew of this subscription cannot be switched",
    "cancel_failed": "the subscription cannot be cancelled",
    "refund_failed": "nothing was charged that could be refunded",
    "deferred_not_possible": "the subscription is in grace, or about to end already",
    "bill_date_past": "the next bill date must be later than today",
    "no_change_option": "the term has no such change option",
    "settings_differ": "the change option has other settings",
    "already_pending": "a term change is pending already",
    "nothing_pending": "no term change is pending",
}
"""Why an action is refused."""


@dataclass(frozen=True, slots=True)
class ChangeOption:
    """A way from one term to another. `billing_timing` is "0" at once, "1" to "3" at the end of the running period."""

    option_id: str
    from_term: str
    to_term: str
    billing_timing: str
    immediate_access: bool
    prorate_access: bool
    description: str = ""


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A term change that was asked for and has not taken place. Moments are UTC seconds."""

    to_term: str
    asked_at: int
    at: int


@dataclass(frozen=True, slots=True)
class Guards:
    """What may be done to a subscription now (the guard fields of subscription/get)."""

    can_be_resumed: bool
    deferred_cancelable: bool
    cancelable: bool
    cancelable_and_refundable: bool
    auto_renew_change_enabled: bool


def default_options() -> list[ChangeOption]:
    """List the change options the publisher has set up: up along `Term.upgrade`, and a few ways back."""
    ways = [(term.term_id, term.upgrade) for term in catalogue.TERMS if term.upgrade]
    ways += [("TMPREM0NTH05", "TMD1GM0NTH01"), ("TMPREYEAR006", "TMD1GYEAR004"), ("TMD1GM0NTH01", "TMD1GYEAR004")]
    settings = ((AT_ONCE, True, True), ("1", False, False), ("1", True, False))
    return [
        ChangeOption(f"TC0PT10N{n:04}", one, other, *settings[0 if n < _UPGRADES_AT_ONCE else 1 + n % 2])
        for n, (one, other) in enumerate(ways)
    ]


_UPGRADES_AT_ONCE: Final = 3


def option_for(options: Iterable[ChangeOption], entry: Entry, to_term: str | None = None) -> ChangeOption | None:
    """Find the option that leads from a subscription's term, to a term if one is named."""
    return next(
        (o for o in options if o.from_term == entry.fate.term.term_id and to_term in (None, o.to_term)),
        None,
    )


def guards(entry: Entry) -> Guards:
    """Say what may be done to a subscription now."""
    state, term = entry.state, entry.fate.term
    live = state.live and term.renews
    dynamic = term.type == DYNAMIC
    settled = state.upgrade_status != UPGRADE_PENDING
    return Guards(
        can_be_resumed=live and dynamic and settled and not state.auto_renew,
        deferred_cancelable=live and dynamic and settled and state.auto_renew and not state.in_grace,
        cancelable=live,
        cancelable_and_refundable=live and state.last_amount > 0,
        auto_renew_change_enabled=live and settled and not dynamic,
    )


def pending_change(world: World, entry: Entry) -> PendingChange | None:
    """Give the term change that waits for its day, if there is one."""
    fate = entry.fate
    if not fate.upgrade_asked_at <= world.now < fate.stop_at:
        return None
    to_term = fate.upgraded_to.term.term_id if fate.upgraded_to else fate.term.upgrade
    return PendingChange(to_term, fate.upgrade_asked_at, fate.stop_at)


def resume(world: World, entry: Entry) -> None:
    """Take a deferred cancellation back: auto-renew is on again, the subscription goes on."""
    if entry.fate.term.type != DYNAMIC:
        raise Refused("not_dynamic")
    if not guards(entry).can_be_resumed:
        raise Refused("not_resumable")
    _switch_on(world, entry)


def cancel(world: World, entry: Entry, *, refund: bool = False) -> None:
    """End a subscription and its access now; with `refund` the last payment is given back."""
    allowed = guards(entry)
    if not allowed.cancelable:
        raise Refused("cancel_failed")
    if refund and not allowed.cancelable_and_refundable:
        raise Refused("refund_failed")
    fate, at = entry.fate, world.now
    _forget(world, entry)
    fate.off_at, fate.stop_at = min(fate.off_at, at), at
    fate.stop_status, fate.refunds = "Cancelled", refund
    world.touch(entry, Happening.CANCELLED, at)


def cancel_deferred(world: World, entry: Entry) -> None:
    """Switch auto-renew off: the subscription and its access end with the running period."""
    if entry.fate.term.type != DYNAMIC:
        raise Refused("not_dynamic")
    if not guards(entry).deferred_cancelable:
        raise Refused("deferred_not_possible")
    _switch_off(world, entry)


def update(
    world: World,
    entry: Entry,
    *,
    next_bill_date: int | None = None,
    auto_renew: bool | None = None,
    payment_method: str | None = None,
) -> None:
    """Change the next bill date, auto-renew or the means of payment; all or, when one is refused, nothing."""
    if not entry.state.live or not entry.fate.term.renews:
        raise Refused("already_ended")
    switched = auto_renew is not None and auto_renew != entry.state.auto_renew
    if switched and not guards(entry).auto_renew_change_enabled:
        raise Refused("auto_renew_fixed")
    zone = world.lives.zone
    if next_bill_date is not None and zone.wall(next_bill_date) // DAY <= zone.wall(world.now) // DAY:
        raise Refused("bill_date_past")
    if next_bill_date is not None and entry.state.in_grace:
        raise Refused("in_grace")
    if next_bill_date is not None and pending_change(world, entry):
        raise Refused("already_pending")
    if switched:
        (_switch_on if auto_renew else _switch_off)(world, entry)
    if next_bill_date is not None:
        _move(world, entry, next_bill_date)
    if payment_method is not None:
        world.touch(entry, Happening.PAYMENT_METHOD_CHANGED, world.now)


def change(  # noqa: PLR0913 - the parameters of term/change/do
    world: World,
    entry: Entry,
    to_term: str,
    *,
    options: Iterable[ChangeOption],
    billing_timing: str,
    immediate_access: bool,
    prorate_access: bool,
    exact: bool = True,
) -> None:
    """Change the term, at once or when the running period ends. With `exact` the settings must be the option's own."""
    option = option_for(options, entry, to_term)
    if option is None:
        raise Refused("no_change_option")
    if not entry.state.live:
        raise Refused("already_ended")
    if pending_change(world, entry):
        raise Refused("already_pending")
    given = (billing_timing, immediate_access, prorate_access)
    if exact and given != (option.billing_timing, option.immediate_access, option.prorate_access):
        raise Refused("settings_differ")
    fate, now = entry.fate, world.now
    at = now if billing_timing == AT_ONCE else world.period_end(entry)
    if at < now:
        raise Refused("in_grace")
    _forget(world, entry)
    fate.stop_at, fate.stop_status = at, UPGRADED
    fate.upgraded_to = world.add(entry.reader, lambda number: _begun(world, number, to_term, at, fate))
    if at > now:
        fate.upgrade_asked_at = now
        world.touch(entry, Happening.CHANGE_ASKED, now)
    else:
        world.catch_up(now)
        world.touch(entry, Happening.CHANGED, now)


def change_cancel(world: World, entry: Entry) -> None:
    """Take back a term change that waits for its day."""
    if not pending_change(world, entry):
        raise Refused("nothing_pending")
    fate = entry.fate
    world.forget_plans(entry)
    fate.upgrade_asked_at = FAR
    _go_on(world, entry)
    if not entry.state.auto_renew:
        _stop_after_period(world, entry)
    world.touch(entry, Happening.CHANGE_WITHDRAWN, world.now)


def _begun(world: World, number: int, term_id: str, at: int, before: Fate) -> Fate:
    """Begin the subscription that follows a term change."""
    fate = Fate(number, catalogue.TERM_BY_ID[term_id], at, at, at)
    fate.upgraded_from = before
    world.lives.goes_on(fate, 0)
    return fate


def _switch_on(world: World, entry: Entry) -> None:
    fate, now = entry.fate, world.now
    off = fate.off_at if fate.off_at <= now else fate.pause[0]
    _forget(world, entry)
    fate.pause, fate.off_at = (off, now), FAR
    _go_on(world, entry)
    world.touch(entry, Happening.AUTO_RENEW_ON, now)


def _switch_off(world: World, entry: Entry) -> None:
    _forget(world, entry)
    entry.fate.off_at = world.now
    _stop_after_period(world, entry)
    world.touch(entry, Happening.AUTO_RENEW_OFF, world.now)


def _go_on(world: World, entry: Entry) -> None:
    """Let a subscription go on; one in grace as long as the grace lasts."""
    world.lives.goes_on(entry.fate, entry.state.paid_periods)
    if entry.state.in_grace:
        _end_with_grace(entry)


def _stop_after_period(world: World, entry: Entry) -> None:
    """Let a subscription end with the day its running period, or its grace, ends in."""
    fate = entry.fate
    fate.paid_periods = entry.state.paid_periods
    if entry.state.in_grace:
        _end_with_grace(entry)
    else:
        fate.stop_at, fate.stop_status = end_of_utc_day(world.period_end(entry)), "Expired"


def _end_with_grace(entry: Entry) -> None:
    fate = entry.fate
    fate.stop_at, fate.stop_status = entry.state.access_until or FAR, "Expired Due To Payment Error"
    fate.paid_periods, fate.recovered_at = entry.state.paid_periods, FAR


def _move(world: World, entry: Entry, next_bill_date: int) -> None:
    fate, state = entry.fate, entry.state
    _forget(world, entry)
    fate.charged_at, fate.base, fate.anchor = state.last_billing, state.paid_periods, next_bill_date
    if state.paid_periods == 0 and fate.trial_end is not None:
        fate.trial_end = next_bill_date
    world.lives.goes_on(fate, state.paid_periods)
    if not state.auto_renew:
        _stop_after_period(world, entry)
    world.touch(entry, Happening.BILL_DATE_MOVED, world.now)


def _forget(world: World, entry: Entry) -> None:
    """Take back what the generator had in store, a failure of a charge to come included."""
    fate, now = entry.fate, world.now
    world.forget_plans(entry)
    fate.paid_periods = entry.state.paid_periods
    if fate.failed_at > now:
        fate.failed_period = fate.failed_at = fate.grace_until = fate.recovered_at = FAR
        fate.extended_at = fate.extended_to = FAR
    if fate.off_at > now:
        fate.off_at = FAR
    if fate.upgrade_asked_at > now:
        fate.upgrade_asked_at = FAR
    if fate.pause[0] > now:
        fate.pause = (FAR, FAR)
    elif fate.pause[1] > now:
        fate.off_at, fate.pause = fate.pause[0], (FAR, FAR)
