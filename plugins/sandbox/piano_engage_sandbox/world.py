"""The readers of one application as the Publisher API and the webhooks see them: what is, and what changes when.

The generator (`lives`) settles each life from the seed. This module keeps the subscriptions that exist, moves them on
with the clock, tells listeners of every change in order of time, and takes what actions do to them. The export reads
the same lives, with the ones that actions touched laid over them (`touched`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from piano_engage_sandbox import people
from piano_engage_sandbox.lives import FAR, SLOTS, Lives
from piano_engage_sandbox.log import IDS, subscription_id
from piano_engage_sandbox.states import UPGRADED, State, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, KeysView

    from piano_engage_sandbox.clock import Zone
    from piano_engage_sandbox.lives import Fate
    from piano_engage_sandbox.people import Person


ADDED: Final = 1 << 40
"""Numbers of subscriptions that actions begin; those of the generator stay far below."""


class Happening(StrEnum):
    """What can happen to a subscription."""

    CREATED = "created"
    STARTED = "started"
    CONVERTED = "converted"
    """The trial ended with the first full charge."""
    RENEWED = "renewed"
    FAILED = "failed"
    """A charge failed: grace begins."""
    GRACE_EXTENDED = "grace_extended"
    RECOVERED = "recovered"
    """The failed charge went through after all."""
    AUTO_RENEW_OFF = "auto_renew_off"
    """Dynamic subscriptions: a deferred cancellation."""
    AUTO_RENEW_ON = "auto_renew_on"
    """Dynamic subscriptions: resumed."""
    BILL_DATE_MOVED = "bill_date_moved"
    PAYMENT_METHOD_CHANGED = "payment_method_changed"
    CHANGE_ASKED = "change_asked"
    """A term change is scheduled."""
    CHANGE_WITHDRAWN = "change_withdrawn"
    CHANGED = "changed"
    """The term change took place: this subscription ended, `entry.fate.upgraded_to` began."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """It ended by itself: the paid period, the gift or the grace is over."""
    MIGRATED = "migrated"
    DELETED = "deleted"


@dataclass(slots=True, eq=False)
class Entry:
    """One subscription that exists."""

    id: str
    reader: int
    fate: Fate
    state: State
    """How it looks now; the same object until something happens to it. `days_subscribed` may be older than now."""
    next_at: int = FAR
    """When something will happen to it next."""


@dataclass(slots=True, frozen=True)
class Change:
    """Something that happened to a subscription at a moment. `by` is `system`, or `api` for what an action did."""

    at: int
    what: Happening
    entry: Entry
    before: State | None
    after: State
    by: str = "system"


class World:
    """Readers and subscriptions of one application, at a moment that only moves on."""

    def __init__(self, *, seed: int, aid: str, zone: Zone, rows: int, begins: int) -> None:
        """Settle who the readers are, so that there are `rows` subscriptions at the moment `begins`."""
        self.lives = Lives(seed=seed, aid=aid, zone=zone)
        self.now = begins
        self.entries: dict[str, Entry] = {}
        """All subscriptions that exist, by id, in order of their creation."""
        self.touched: dict[int, list[Fate]] = {}
        """Readers whose lives an action changed: all their fates, future ones too. For exports."""
        self.listeners: list[Callable[[Change], None]] = []
        self._salt = self.lives.salt % IDS
        self._bits: dict[int, int] = {}
        self._fates: dict[int, list[Fate]] = {}
        self._arrives: dict[int, int] = {}
        self._people: dict[int, Person] = {}
        self._of_reader: dict[int, list[Entry]] = {}
        self._readers: dict[str, int] = {}
        self._added = 0
        self._coming: list[tuple[int, int, int, Fate]] = []
        """Heap of what happens next: moment, number of the subscription, reader, fate."""
        for reader in _chosen(self, rows, begins):
            for fate in self._fates[reader]:
                if self._seen_from(reader, fate) > begins:
                    self._coming.append((self._seen_from(reader, fate), fate.number, reader, fate))
        present = [
            (fate.create, fate.number, reader, fate)
            for reader, fates in self._fates.items()
            for fate in fates
            if self._seen_from(reader, fate) <= begins < fate.deleted_at
        ]
        for _, _, reader, fate in sorted(present, key=lambda one: one[:2]):
            entry = self._enter(reader, fate, begins)
            if entry.next_at < FAR:
                self._coming.append((entry.next_at, fate.number, reader, fate))
        heapify(self._coming)

    def catch_up(self, to: int) -> None:
        """Let all happen that happens up to a moment, in order; listeners hear of each change."""
        while self._coming and self._coming[0][0] <= to:
            at, _, reader, fate = heappop(self._coming)
            self.now = max(self.now, at)
            entry = self.entries.get(self.id_of(fate))
            if entry is None:
                if at == self._seen_from(reader, fate) < fate.deleted_at:
                    self._create(reader, fate, at)
            elif entry.next_at == at:
                self._happen(entry, at)
        self.now = max(self.now, to)

    def get(self, subscription: str) -> Entry | None:
        """Give a subscription by its id."""
        return self.entries.get(subscription)

    def of_user(self, uid: str) -> list[Entry]:
        """Give the subscriptions of a user, in order of creation; empty for one nobody knows."""
        known = self.person_of(uid)
        return list(self._of_reader.get(known[0], ())) if known else []

    def users(self) -> KeysView[str]:
        """Give the uids of all users who have had a subscription since the sandbox began."""
        self._index_people()
        return self._readers.keys()

    def person(self, reader: int) -> Person:
        """Give a reader's person."""
        person = self._people.get(reader)
        if person is None:
            person = self._people[reader] = people.person(reader, self._bits[reader])
        return person

    def person_of(self, uid: str) -> tuple[int, Person] | None:
        """Give the reader's number and person of a uid."""
        self._index_people()
        reader = self._readers.get(uid)
        return None if reader is None else (reader, self.person(reader))

    def id_of(self, fate: Fate) -> str:
        """Give the subscription id of a fate (for `upgraded_from`, `upgraded_to`)."""
        return subscription_id(fate.number + self._salt)

    def period_end(self, entry: Entry) -> int:
        """Give the end of the running period of a live subscription that renews: when it would be charged next."""
        return self.lives.boundary(entry.fate, entry.state.paid_periods)

    def touch(self, entry: Entry, what: Happening, at: int) -> None:
        """Look at a subscription again after an action changed its fate, and tell the listeners."""
        entry.fate.changed_at = at
        self.touched[entry.reader] = self._fates[entry.reader]
        before = entry.state
        self._refresh(entry, at)
        self._tell(Change(at, what, entry, before, entry.state, "api"))

    def forget_plans(self, entry: Entry) -> None:
        """Take back what the generator had in store after a subscription whose course an action changes."""
        fates, fate = self._fates[entry.reader], entry.fate
        fate.upgraded_to = None
        if fate.number % SLOTS == 1 and fate.number < ADDED:
            return
        for later in fates:
            aside = later.number % SLOTS == 1 and later.number < ADDED
            if later.create > self.now and not aside:
                later.create = later.deleted_at = FAR
        fates[:] = [one for one in fates if one.create < FAR]

    def add(self, reader: int, make: Callable[[int], Fate]) -> Fate:
        """Begin a subscription because of an action, now or later; `make` gets its number."""
        fate = make(ADDED + self._added)
        self._added += 1
        self._fates[reader].append(fate)
        self.touched[reader] = self._fates[reader]
        heappush(self._coming, (fate.create, fate.number, reader, fate))
        return fate

    def _create(self, reader: int, fate: Fate, at: int) -> None:
        entry = self._enter(reader, fate, at)
        self._await(entry)
        if fate.upgraded_from is None:
            self._tell(Change(at, Happening.CREATED, entry, None, entry.state))

    def _enter(self, reader: int, fate: Fate, at: int) -> Entry:
        entry = Entry(self.id_of(fate), reader, fate, state_of(self.lives, fate, at), next_moment(self.lives, fate, at))
        self.entries[entry.id] = entry
        self._of_reader.setdefault(reader, []).append(entry)
        return entry

    def _happen(self, entry: Entry, at: int) -> None:
        """Let what happens to a subscription at a moment happen; often that is one thing, or nothing to speak of."""
        before, happenings = entry.state, what_happens(self.lives, entry.fate, at)
        self._refresh(entry, at)
        for what in happenings:
            if what is Happening.DELETED:
                del self.entries[entry.id]
                self._of_reader[entry.reader].remove(entry)
            elif what is Happening.CHANGED and entry.fate.upgraded_to is not None:
                self.catch_up(at)
            self._tell(Change(at, what, entry, before, entry.state))
            before = entry.state

    def _refresh(self, entry: Entry, at: int) -> None:
        entry.state = state_of(self.lives, entry.fate, at)
        entry.next_at = next_moment(self.lives, entry.fate, at)
        self._await(entry)

    def _await(self, entry: Entry) -> None:
        if entry.next_at < FAR:
            heappush(self._coming, (entry.next_at, entry.fate.number, entry.reader, entry.fate))

    def _tell(self, change: Change) -> None:
        for listener in self.listeners:
            listener(change)

    def _take(self, reader: int) -> list[Fate]:
        """Take a reader in, with all that will ever happen to him."""
        life = self.lives.whole(reader)
        self._bits[reader], self._fates[reader], self._arrives[reader] = life.bits, life.fates, life.arrives
        return life.fates

    def _seen_from(self, reader: int, fate: Fate) -> int:
        return max(fate.create, self._arrives[reader])

    def _drop(self, reader: int) -> None:
        del self._bits[reader], self._fates[reader], self._arrives[reader]

    def _index_people(self) -> None:
        """Know the uids of all readers who are here."""
        if len(self._readers) < len(self._of_reader):
            self._readers = {self.person(reader).uid: reader for reader in self._of_reader}


def _chosen(world: World, rows: int, at: int) -> Iterator[int]:
    """Take in readers in order of their numbers until there are `rows` subscriptions, as exports do."""
    left, reader = rows, 0
    while left > 0:
        fates = world._take(reader)  # noqa: SLF001 - its own part
        count = sum(world._seen_from(reader, fate) <= at < fate.deleted_at for fate in fates)  # noqa: SLF001
        if count <= left:
            left -= count
            yield reader
        else:
            world._drop(reader)  # noqa: SLF001
        reader += 1


def next_moment(lives: Lives, fate: Fate, after: int) -> int:
    """Give the next moment at which a subscription looks different (days subscribed aside); FAR for never."""
    if fate.deleted_at <= after:
        return FAR
    moments = [
        fate.start, fate.off_at, *fate.pause, fate.failed_at, fate.extended_at, fate.recovered_at,
        fate.upgrade_asked_at, fate.stop_at, fate.migrated_at, fate.deleted_at,
    ]  # fmt: skip
    if fate.trial_end is not None:
        moments.append(fate.trial_end)
    if fate.term.renews and after < fate.stop_at:
        moments.append(_next_charge(lives, fate, after))
    return min((moment for moment in moments if moment > after), default=FAR)


def _next_charge(lives: Lives, fate: Fate, after: int) -> int:
    """Give the moment of the next full-price charge as planned; FAR when there is none."""
    period = lives.begun(fate, after)
    if period >= fate.paid_periods:
        return FAR
    at = lives.boundary(fate, period)
    return at if at < fate.stop_at else FAR


def what_happens(lives: Lives, fate: Fate, at: int) -> list[Happening]:
    """List what happens to a subscription at a moment, in order."""
    if fate.deleted_at == at:
        return [Happening.DELETED]
    if fate.stop_at == at:
        return [_ENDS.get(fate.stop_status, Happening.EXPIRED)]
    simple = (
        (fate.start if fate.start > fate.create else FAR, Happening.STARTED),
        (fate.failed_at, Happening.FAILED),
        (fate.extended_at, Happening.GRACE_EXTENDED),
        (fate.recovered_at, Happening.RECOVERED),
        (fate.off_at, Happening.AUTO_RENEW_OFF),
        (fate.pause[0], Happening.AUTO_RENEW_OFF),
        (fate.pause[1], Happening.AUTO_RENEW_ON),
        (fate.upgrade_asked_at, Happening.CHANGE_ASKED),
        (fate.migrated_at, Happening.MIGRATED),
    )
    found = [what for moment, what in simple if moment == at]
    if fate.term.renews and at != fate.failed_at and at == _next_charge(lives, fate, at - 1):
        found.append(Happening.CONVERTED if at == fate.anchor and not fate.base else Happening.RENEWED)
    return found


_ENDS: Final = {UPGRADED: Happening.CHANGED, "Cancelled": Happening.CANCELLED}
