"""Lives of readers: which subscriptions reader number i takes, and all that will ever happen to each.

A life depends on the seed, the application, its time zone and the reader's number, on nothing else. What happens to a
subscription is settled when it begins (a `Fate`), so a later look at the same life always continues an earlier one:
trials convert or not, charges fail and recover, readers switch auto-renew off, upgrade, leave, come back. How a fate
looks at a given moment is the business of `states`.

Chances are invented; they are set so that every situation occurs in a file of 2,000 rows.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, log, sqrt
from random import Random
from typing import TYPE_CHECKING, Final
from zlib import crc32

from piano_engage_sandbox import catalogue
from piano_engage_sandbox.clock import DAY, end_of_utc_day

if TYPE_CHECKING:
    from piano_engage_sandbox.catalogue import Promotion, Term
    from piano_engage_sandbox.clock import Zone

FAR: Final = 1 << 40
"""A moment that never comes."""
FIRST_ARRIVAL: Final = 1_514_764_800
"""2018-01-01 UTC: nobody subscribes earlier."""
LAST_ARRIVAL: Final = 2_051_222_400
"""2035-01-01 UTC: nobody arrives later."""
MIGRATED_AT: Final = 1_572_577_200
"""2019-11-01 UTC: the night part of the older subscriptions were brought over from another system."""
SLOTS: Final = 8
"""Most subscriptions one reader can ever have."""
_YEARS_AHEAD: Final = 20
_LEAP_DAYS: Final = (1_582_934_400, 1_709_164_800, 1_835_395_200, 1_961_625_600)
_YEAR: Final = 31_557_600
_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


class Odds:
    """Chances by what they are chances of."""

    TRIAL_LEFT = 0.35
    PAYMENT_FAILS = 0.3
    RECOVERS = 0.65
    EXTENDED = 0.3
    UPGRADES = 0.2
    UPGRADE_WAITS = 0.4
    CANCELLED_AT_ONCE = 0.04
    SECOND_THOUGHTS = 0.08
    COMES_BACK = 0.4
    SIDE = 0.12
    PROMO = 0.22
    STARTS_LATER = 0.6
    UNLIMITED = 0.4
    DELETED = 0.1
    ERASED = 0.1
    MIGRATED = 0.4


@dataclass(slots=True)
class Fate:
    """All that will ever happen to one subscription. Moments are UTC seconds; FAR is never.

    `paid_periods` is how many full-price periods will be charged at most; period k begins k periods after `anchor`.
    `failed_period` is the one whose charge fails at `failed_at`. `pause` is auto-renew switched off and on again.
    `stop_at` ends the subscription with `stop_status`.
    """

    number: int
    term: Term
    create: int
    start: int
    anchor: int
    trial_end: int | None = None
    paid_periods: int = 0
    off_at: int = FAR
    pause: tuple[int, int] = (FAR, FAR)
    failed_period: int = FAR
    failed_at: int = FAR
    grace_until: int = FAR
    extended_at: int = FAR
    extended_to: int = FAR
    recovered_at: int = FAR
    stop_at: int = FAR
    stop_status: str = "Expired"
    refunds: bool = False
    upgrade_asked_at: int = FAR
    upgraded_from: Fate | None = None
    upgraded_to: Fate | None = None
    promotion: Promotion | None = None
    migrated_at: int = FAR
    deleted_at: int = FAR
    base: int = 0
    """Periods charged before `anchor` was moved: period `base` begins at `anchor`."""
    charged_at: int | None = None
    """The last charge before `anchor` was moved."""
    changed_at: int = 0
    """When an action last changed it."""


@dataclass(slots=True)
class Life:
    """One reader: his number, the random bits his person is made of, and his subscriptions so far."""

    reader: int
    bits: int
    fates: list[Fate]
    arrives: int = 0
    """Nothing of him is seen earlier, though one in sixty brings a subscription that began before."""


_FIRST_TERMS: Final = [term for term in catalogue.TERMS if term.weight]
_FIRST_WEIGHTS: Final = list(accumulate(term.weight for term in _FIRST_TERMS))
_ALL_WEIGHTS: Final = _FIRST_WEIGHTS[-1]
_BACK_TERMS: Final = tuple(term for term in catalogue.TERMS if term.renews and term.weight)


class Lives:
    """The readers of one application, by number; every method is a pure function of its arguments and the seed."""

    def __init__(self, *, seed: int, aid: str, zone: Zone) -> None:
        """Mix seed and application id, so that two applications have different readers."""
        self.zone = zone
        self.salt = _mix(_mix(seed) + crc32(aid.encode()))
        self._random = Random()
        self._repeated = [at for at in zone.repeated_hours if at > FIRST_ARRIVAL]

    def arrived(self, first: int, last: int, as_of: int) -> list[int]:
        """List the readers from first to last - 1 who can have come by a moment: quicker than to ask for each life."""
        salt, latest = self.salt, ceil(_MASK * ((as_of + 1 - FIRST_ARRIVAL) / (LAST_ARRIVAL - FIRST_ARRIVAL)) ** 2)
        return [reader for reader in range(first, last) if (salt + reader * _GOLDEN) & _MASK <= latest]

    def _turn(self, reader: int) -> int:
        """Give a reader's place in the order of arrivals: evenly scattered, with more arrivals the later it is."""
        return (self.salt + reader * _GOLDEN) & _MASK

    def life(self, reader: int, as_of: int) -> Life | None:
        """Tell a reader's life up to a moment; None for one who has not come yet, or whose data were erased."""
        arrival = FIRST_ARRIVAL + int((LAST_ARRIVAL - FIRST_ARRIVAL) * sqrt(self._turn(reader) / _MASK))
        if arrival > as_of:
            return None
        mixed = _mix(self.salt + reader)
        arrival = self._odd_moment(arrival, mixed)
        rng = self._random
        rng.seed(mixed)
        bits = rng.getrandbits(320)
        if rng.random() < Odds.ERASED and self._clean_up(arrival + int(rng.random() * 8 * _YEAR)) <= as_of:
            return None
        fates = [f for f in self._fates(rng, reader * SLOTS, arrival, as_of) if f.create <= as_of < f.deleted_at]
        return Life(reader, bits, fates) if fates else None

    def whole(self, reader: int) -> Life:
        """Tell all of a reader's life that begins before LAST_ARRIVAL, what is still to come included.

        A fate is there from `create` until `deleted_at`; who is erased has all his fates deleted then.
        """
        arrives = FIRST_ARRIVAL + int((LAST_ARRIVAL - FIRST_ARRIVAL) * sqrt(self._turn(reader) / _MASK))
        mixed = _mix(self.salt + reader)
        arrival = self._odd_moment(arrives, mixed)
        rng = self._random
        rng.seed(mixed)
        bits = rng.getrandbits(320)
        erased = FAR
        if rng.random() < Odds.ERASED:
            erased = self._clean_up(arrival + int(rng.random() * 8 * _YEAR))
        fates = self._fates(rng, reader * SLOTS, arrival, LAST_ARRIVAL)
        for fate in fates:
            fate.deleted_at = min(fate.deleted_at, erased)
        return Life(reader, bits, fates, arrives)

    def goes_on(self, fate: Fate, paid: int) -> None:
        """Let a subscription be charged period after period from now on, without end and without failures."""
        term = fate.term
        more = _YEARS_AHEAD * 12 // term.months if term.months else _YEARS_AHEAD * 365 // term.days
        fate.paid_periods = paid + more
        fate.stop_at, fate.stop_status, fate.refunds = FAR, "Expired", False

    def _fates(self, rng: Random, number: int, arrival: int, as_of: int) -> list[Fate]:
        term = _FIRST_TERMS[bisect_right(_FIRST_WEIGHTS, rng.random() * _ALL_WEIGHTS, hi=len(_FIRST_TERMS) - 1)]
        side_chance, side_delay = rng.random(), rng.random()
        fate = self._fate(rng, number, term, arrival)
        fates = [fate]
        if side_chance < Odds.SIDE:
            fates.append(self._fate(rng, number + 1, catalogue.SIDE_TERM, arrival + int(side_delay * 3 * _YEAR)))
        slot = 2
        while fate.stop_at <= as_of and slot < SLOTS:
            following = self._following(rng, fate, number + slot)
            if following is None or following.create > as_of:
                break
            fate = following
            fates.append(fate)
            slot += 1
        return fates

    def _following(self, rng: Random, fate: Fate, number: int) -> Fate | None:
        """Say what comes after a subscription: the upgraded one at once, perhaps a new one some time after a lapse."""
        if fate.stop_status == "Upgraded":
            term = catalogue.TERM_BY_ID[fate.term.upgrade]
            following = self._fate(rng, number, term, fate.stop_at)
            following.create = following.start
            following.upgraded_from, fate.upgraded_to = fate, following
            return following
        if number % SLOTS >= SLOTS // 2 or rng.random() >= Odds.COMES_BACK:
            return None
        start = fate.stop_at + int((10 + 490 * rng.random()) * DAY)
        following = self._fate(rng, number, _BACK_TERMS[int(rng.random() * len(_BACK_TERMS))], start)
        following.promotion = catalogue.WINBACK
        return following

    def _fate(self, rng: Random, number: int, term: Term, start: int) -> Fate:
        fate = Fate(number, term, start + 1, start, start)
        if rng.random() < Odds.DELETED:
            fate.deleted_at = self._clean_up(start + int(rng.random() * 8 * _YEAR))
        if term.renews:
            self._renewing(rng, fate)
        elif term.price:
            self._bought_once(rng, fate)
        else:
            self._granted(rng, fate)
        if start < MIGRATED_AT < fate.stop_at and rng.random() < Odds.MIGRATED:
            fate.migrated_at = MIGRATED_AT
        return fate

    def _renewing(self, rng: Random, fate: Fate) -> None:
        term = fate.term
        if rng.random() < Odds.PROMO:
            fate.promotion = catalogue.PROMOTIONS[int(rng.random() * len(catalogue.PROMOTIONS))]
        if term.trial_days:
            fate.trial_end = fate.anchor = self.zone.shift(fate.start, 0, term.trial_days)
            if rng.random() < Odds.TRIAL_LEFT:
                fate.off_at = _between(rng, fate.start, fate.anchor)
                fate.stop_at = end_of_utc_day(fate.anchor)
                return
        most = _YEARS_AHEAD * 12 // term.months if term.months else _YEARS_AHEAD * 365 // term.days
        periods = min(1 + int(log(1 - rng.random()) / log(1 - term.churn)), most)
        fate.paid_periods = periods
        turn = rng.random() - Odds.PAYMENT_FAILS
        if turn < 0:
            self._payment_fails(rng, fate, 1 + int(rng.random() * periods))
            return
        turn -= Odds.UPGRADES
        if turn < 0 and term.upgrade:
            self._upgraded(rng, fate, int(rng.random() * periods))
        elif 0 <= turn < Odds.CANCELLED_AT_ONCE:
            self._cancelled_at_once(rng, fate, int(rng.random() * periods))
        else:
            self._leaves(rng, fate)

    def _leaves(self, rng: Random, fate: Fate) -> None:
        """Switch auto-renew off some time in the last period; access stays to its end."""
        begin, end = self._period(fate, fate.paid_periods - 1)
        fate.off_at = _between(rng, begin, end)
        fate.stop_at = end_of_utc_day(end)
        if rng.random() < Odds.SECOND_THOUGHTS and fate.paid_periods > 1:
            period = int(rng.random() * (fate.paid_periods - 1))
            begin, end = self._period(fate, period)
            off = _between(rng, begin, end)
            if period != fate.failed_period:
                fate.pause = (off, _between(rng, off, end))

    def _payment_fails(self, rng: Random, fate: Fate, period: int) -> None:
        """Let the charge of a period fail: grace begins, is perhaps extended, and recovers or expires."""
        fate.failed_period = period
        fate.failed_at = self.boundary(fate, period)
        grace = fate.term.grace_days * DAY
        fate.grace_until = end_of_utc_day(fate.failed_at + grace)
        if rng.random() < Odds.EXTENDED:
            fate.extended_at = _between(rng, fate.failed_at, fate.failed_at + grace)
            fate.extended_to = fate.grace_until + 7 * DAY
        if rng.random() < Odds.RECOVERS:
            fate.recovered_at = _between(rng, fate.failed_at, fate.failed_at + grace)
            if fate.extended_at > fate.recovered_at:
                fate.extended_at = fate.extended_to = FAR
            fate.paid_periods = max(fate.paid_periods, period + 2 + int(rng.random() * 12))
            self._leaves(rng, fate)
            return
        fate.paid_periods = period
        fate.stop_at = fate.grace_until if fate.extended_at == FAR else fate.extended_to
        fate.stop_status = "Expired Due To Payment Error"

    def _upgraded(self, rng: Random, fate: Fate, period: int) -> None:
        begin, end = self._period(fate, period)
        fate.paid_periods = period + 1
        fate.stop_at = _between(rng, begin, end)
        fate.stop_status = "Upgraded"
        if rng.random() < Odds.UPGRADE_WAITS:
            fate.upgrade_asked_at, fate.stop_at = fate.stop_at, end

    def _cancelled_at_once(self, rng: Random, fate: Fate, period: int) -> None:
        fate.paid_periods = period + 1
        fate.stop_at = fate.off_at = _between(rng, *self._period(fate, period))
        fate.stop_status = "Cancelled"
        fate.refunds = True

    def _bought_once(self, rng: Random, fate: Fate) -> None:
        """Sell a day pass or a gift: charged when bought, sometimes to begin on a later day."""
        fate.paid_periods = 1
        if fate.term.type == "Gift" and rng.random() < Odds.STARTS_LATER:
            fate.start += int((1 + 40 * rng.random()) * DAY)
        fate.stop_at = end_of_utc_day(self.zone.shift(fate.start, fate.term.months, fate.term.days))

    def _granted(self, rng: Random, fate: Fate) -> None:
        """Give access without a price: a grant of the service desk, or to a member of a site licence."""
        if fate.term.type in catalogue.CONTRACTS:
            fate.stop_status = "Completed"
        elif rng.random() < Odds.UNLIMITED:
            return
        fate.stop_at = end_of_utc_day(fate.start + int((30 + 1800 * rng.random()) * DAY))

    def boundary(self, fate: Fate, period: int) -> int:
        """Give the moment a full-price period begins, which is when it is charged."""
        term = fate.term
        since = period - fate.base
        return self.zone.shift(fate.anchor, since * term.months, since * term.days)

    def begun(self, fate: Fate, moment: int) -> int:
        """Count the full-price periods that have begun by a moment."""
        if moment < fate.anchor:
            return fate.base
        term, zone = fate.term, self.zone
        if term.months:
            whole = zone.months_between(fate.anchor, moment) // term.months
        else:
            whole = (zone.wall(moment) // DAY - zone.wall(fate.anchor) // DAY) // term.days
        whole += fate.base
        return whole + 1 if self.boundary(fate, whole) <= moment else whole

    def _period(self, fate: Fate, period: int) -> tuple[int, int]:
        return self.boundary(fate, period), self.boundary(fate, period + 1)

    def _clean_up(self, moment: int) -> int:
        """Give the next night of deletions: the 30th of a month, or its last day."""
        night = self.zone.month_day(moment, 30)
        return night if night > moment else self.zone.month_day(self.zone.shift(moment, 1), 30)

    def _odd_moment(self, arrival: int, mixed: int) -> int:
        """Move one arrival in sixty to a leap day or into an hour that clocks show twice."""
        kind = mixed % 120
        if kind > 1:
            return arrival
        second = mixed // 120
        if kind:
            earlier = bisect_right(_LEAP_DAYS, arrival - DAY)
            return _LEAP_DAYS[second % earlier] + second % DAY if earlier else arrival
        earlier = bisect_right(self._repeated, arrival - 3600)
        return self._repeated[second % earlier] + second % 7200 - 3600 if earlier else arrival


def _mix(number: int) -> int:
    """Scatter an integer over 64 bits (the finaliser of SplitMix64): neighbours become unrelated."""
    number = (number * _GOLDEN) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def _between(rng: Random, begin: int, end: int) -> int:
    return begin + int(rng.random() * (end - begin))
