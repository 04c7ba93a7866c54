"""How a subscription looks at a moment: the facts behind one row of the log.

Where the vendor leaves values open the choice is ours and stands here as a constant: the words of trial and upgrade
status beyond those seen, and that a grace period shows no next billing date (reference sheet of Piano, 2.7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from piano_engage_sandbox.catalogue import CONTRACTS
from piano_engage_sandbox.clock import DAY, end_of_utc_day
from piano_engage_sandbox.lives import FAR

if TYPE_CHECKING:
    from piano_engage_sandbox.catalogue import Term
    from piano_engage_sandbox.lives import Fate, Lives

NO_TRIAL: Final = "No trial"
IN_TRIAL: Final = "In trial"
TRIAL_CONVERTED: Final = "Converted"
TRIAL_LEFT: Final = "Not converted"
NO_UPGRADE: Final = "No upgrade"
UPGRADE_PENDING: Final = "Upgrade pending"
UPGRADED: Final = "Upgraded"


@dataclass(slots=True)
class State:
    """One subscription at one moment. Moments are UTC seconds, None where Piano has no value; money is whole cents."""

    fate: Fate
    status: str
    upgrade_status: str
    trial_status: str
    end: int | None
    days_subscribed: int
    price: int
    auto_renew: bool
    auto_renew_off_at: int | None
    auto_renew_on_at: int | None
    paid_periods: int
    charge_count: int
    total_charged: int
    last_amount: int
    total_refunded: int
    last_billing: int | None
    next_billing: int | None
    in_grace: bool
    grace_start: int | None
    grace_extended_to: int | None
    access_until: int | None
    migrated_at: int | None
    modified: int

    @property
    def live(self) -> bool:
        """Whether the subscription has not ended yet."""
        return self.end is None


def state_of(lives: Lives, fate: Fate, as_of: int) -> State:
    """Look at a subscription at a moment not before its creation."""
    ended = fate.stop_at <= as_of
    term = fate.term
    failing = fate.failed_at <= as_of < fate.recovered_at
    paid = _paid_periods(lives, fate, as_of)
    last = _last_charge(lives, fate, paid)
    auto_renew, off_at, on_at = _auto_renew(fate, as_of, ended=ended)
    access, following = _access(lives, fate, as_of, paid)
    total, amount = _charged(fate, paid)
    return State(
        fate=fate,
        status=_status(fate, as_of),
        upgrade_status=_upgrade_status(fate, as_of),
        trial_status=_trial_status(fate, as_of, paid),
        end=fate.stop_at if ended else None,
        days_subscribed=max(0, (fate.stop_at if ended else as_of) - fate.start) // DAY,
        price=price_of(term, max(paid, 1)),
        auto_renew=auto_renew,
        auto_renew_off_at=off_at,
        auto_renew_on_at=on_at,
        paid_periods=paid,
        charge_count=paid + (term.trial_price > 0),
        total_charged=total,
        last_amount=amount,
        total_refunded=amount if ended and fate.refunds else 0,
        last_billing=last,
        next_billing=following if auto_renew else None,
        in_grace=failing and not ended,
        grace_start=fate.failed_at if failing else None,
        grace_extended_to=fate.extended_to if failing and fate.extended_at <= as_of else None,
        access_until=access,
        migrated_at=fate.migrated_at if fate.migrated_at <= as_of else None,
        modified=_modified(fate, as_of, last),
    )


def price_of(term: Term, period: int) -> int:
    """Give the price in cents of a full-price period, counted from 1."""
    return term.intro_price if period <= term.intro_count else term.price


def _paid_periods(lives: Lives, fate: Fate, as_of: int) -> int:
    if fate.stop_at <= as_of or not fate.term.renews:
        return fate.paid_periods
    paid = lives.begun(fate, as_of)
    if paid > fate.failed_period and as_of < fate.recovered_at:
        return fate.failed_period
    return min(paid, fate.paid_periods)


def _last_charge(lives: Lives, fate: Fate, paid: int) -> int | None:
    if not paid:
        return fate.start if fate.term.trial_price else None
    if not fate.term.renews:
        return fate.create
    if paid == fate.base and fate.charged_at is not None:
        return fate.charged_at
    return fate.recovered_at if paid - 1 == fate.failed_period else lives.boundary(fate, paid - 1)


def _charged(fate: Fate, paid: int) -> tuple[int, int]:
    """Give what was charged in all, and with the last charge; a promotion lowers the first full-price charge."""
    term = fate.term
    intro = min(paid, term.intro_count)
    total = term.trial_price + intro * term.intro_price + (paid - intro) * term.price
    amount = price_of(term, paid) if paid else term.trial_price
    if fate.promotion and paid:
        discount = price_of(term, 1) * fate.promotion.discount // 100
        total -= discount
        amount -= discount if paid == 1 else 0
    return total, amount


def _auto_renew(fate: Fate, as_of: int, *, ended: bool) -> tuple[bool, int | None, int | None]:
    """Give the switch, when it was put off (None while on), and when it was last put on."""
    if not fate.term.renews:
        return False, None, None
    off, on = fate.pause
    switched_on = on if on <= as_of else fate.create
    if fate.off_at <= as_of:
        return False, fate.off_at, switched_on
    if off <= as_of < on:
        return False, off, switched_on
    return not ended, None, switched_on


def _access(lives: Lives, fate: Fate, as_of: int, paid: int) -> tuple[int | None, int | None]:
    """Give the end of access as now known, and the next charge were auto-renew on."""
    if fate.stop_at <= as_of or not fate.term.renews:
        return (fate.stop_at if fate.stop_at < FAR else None), None
    if fate.failed_at <= as_of < fate.recovered_at:
        return (fate.extended_to if fate.extended_at <= as_of else fate.grace_until), None
    period_end = lives.boundary(fate, paid)
    return end_of_utc_day(period_end), period_end


def _status(fate: Fate, as_of: int) -> str:
    if fate.term.type in CONTRACTS:
        return "Completed"
    if as_of < fate.start:
        return "Not started"
    if fate.stop_at <= as_of:
        return fate.stop_status
    return "Failed - Will Retry" if fate.failed_at <= as_of < fate.recovered_at else "Active"


def _upgrade_status(fate: Fate, as_of: int) -> str:
    if fate.stop_at <= as_of and fate.stop_status == UPGRADED:
        return UPGRADED
    return UPGRADE_PENDING if fate.upgrade_asked_at <= as_of < fate.stop_at else NO_UPGRADE


def _trial_status(fate: Fate, as_of: int, paid: int) -> str:
    if fate.trial_end is None:
        return NO_TRIAL
    if paid:
        return TRIAL_CONVERTED
    return IN_TRIAL if as_of < fate.trial_end else TRIAL_LEFT


def _modified(fate: Fate, as_of: int, last_charge: int | None) -> int:
    """Give the last real change: the latest thing that happened to the subscription by the moment."""
    modified = max(fate.create, fate.changed_at)
    for moment in (
        fate.start, fate.trial_end or 0, last_charge or 0, fate.off_at, *fate.pause, fate.failed_at,
        fate.extended_at, fate.recovered_at, fate.upgrade_asked_at, fate.stop_at, fate.migrated_at,
    ):  # fmt: skip
        if modified < moment <= as_of:
            modified = moment
    return modified
