"""Telling Engage of one reader at once: read Piano again, work out what differs, write it, leave word for the next run.

What is to be told is noted before, and crossed out after word was left. So a crash in between tells the same values
once more, and loses none.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
from piano_engage_common.stops import RunStopped
from tap_piano.answers import NotFound, PianoRefused
from target_recurly_engage.handover import Message, moment_of

from piano_actions.messages import message_in, messages_of, name_for
from piano_actions.subscriptions import Subscription, moment, of_reader, read
from piano_actions.traits import LedgerBusy, Looking, add_told, merged
from piano_actions.watch import Watch

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from tap_piano.client import PianoClient
    from target_recurly_engage.engage import IngestClient

    from piano_actions.aside import Aside
    from piano_actions.store import Store
    from piano_actions.traits import Case, Change, Known, Reckoner

    _Reading = tuple[Future[Subscription | None], Future[str | None]]

READ_AT_ONCE: Final = 4
"""Readers who are read from Piano, or written to Engage, at the same time."""
STOP_SECONDS: Final = 10.0
"""So long after the service was asked to stop a reader who has just clicked is still told of."""
TOGETHER: Final = 25
"""Readers whose traits are worked out together, where many wait."""


class Told(StrEnum):
    """What became of telling Engage of a reader."""

    TOLD = "told"
    NOTHING = "nothing"
    """All is as Engage was told before."""
    LATER = "later"
    """Piano, Engage or the ledger was not to be had; it is kept, and tried again."""
    REJECTED = "rejected"
    """Engage does not take the reader; the nightly run keeps him among its rejects."""
    ERASED = "erased"
    """He was erased; Engage is told nothing of him."""
    UNKNOWN = "unknown"
    """Piano knows no subscription of the reader (any more); the nightly run ends what there was of him."""


class _Stopping(Exception):  # noqa: N818 - no error
    """The service stops."""


class Pusher:
    """Tells Engage of readers.

    Args:
        piano: the Publisher API.
        ingest: Engage's Ingest API.
        store: knows what is to be told.
        reckoner: works out what to tell.
        config: the target's settings.
        logger: told of what went wrong, without who the reader is.
    """

    def __init__(
        self,
        piano: PianoClient,
        ingest: IngestClient,
        store: Store,
        reckoner: Reckoner | Aside,
        config: Mapping[str, Any],
        *,
        logger: logging.Logger,
    ) -> None:
        """Be ready."""
        self.courtesy: Callable[[], object] = lambda: None
        self._piano = piano
        self._ingest = ingest
        self.store = store
        self._ledger = Looking(config, logger)
        self._folder = Path(config["handover_path"]) if config.get("handover_path") else None
        self._telling = Watch("Telling Engage of readers", logger)
        self._rejections = Watch("Telling Engage of some readers", logger)
        self._reckoner = reckoner
        self._until = math.inf
        self._reading = ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="reading")
        self._asking = ThreadPoolExecutor(2 * READ_AT_ONCE, thread_name_prefix="asking")
        self._writing = ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="writing")

    def close(self) -> None:
        """Let what is under way come to an end, and close the reckoner."""
        for threads in (self._reading, self._asking, self._writing):
            threads.shutdown(wait=True)
        self._reckoner.close()

    def stop(self) -> None:
        """Begin nothing any more that can wait, and what cannot only for a while; who is left is told later."""
        self._until = time.monotonic() + STOP_SECONDS

    def push(self, user_id: str, likely: str | None = None) -> Told:
        """Tell Engage of a reader what it does not know yet; what cannot be told now is kept.

        Args:
            user_id: the reader.
            likely: a subscription of his that is read in any case, while the others are looked for.
        """
        return self.push_some([user_id], likely)[user_id]

    def push_some(self, user_ids: list[str], likely: str | None = None) -> dict[str, Told]:
        """Do the same for several readers, of whom each is told, or kept, by himself."""
        ends: dict[str, Told] = {}
        waiting = user_ids
        while waiting:  # again of whom there is a newer wish by then
            wishes, busy = self.store.take_wishes(waiting)
            ends |= dict.fromkeys(busy, Told.LATER)  # whoever is at it sees that there is a newer wish
            try:
                told = self._tell_all(list(wishes), likely)
            except BaseException:  # a fault of ours: the next look tries again
                self.store.leave_wishes(wishes)
                raise
            ends |= told
            done = {one: (wish, str(told[one])) for one, wish in wishes.items() if told[one] is not Told.LATER}
            waiting = self.store.pushed(done) if done else []
        return {user_id: ends.get(user_id, Told.NOTHING) for user_id in user_ids}

    def _tell_all(self, user_ids: list[str], likely: str | None) -> dict[str, Told]:
        ends: dict[str, Told] = {}
        try:
            found = self._known(user_ids)
            ends |= {user_id: Told.ERASED for user_id in user_ids if found[user_id].is_erased}
            cases, failed = self._read_all({one: found[one] for one in user_ids if one not in ends}, likely)
            changes, failed_too = self._changes(cases)
            ends |= {user_id: self._later(user_id, problem) for user_id, problem in {**failed, **failed_too}.items()}
            writing = {one: self._writing.submit(self._write, one, changes[one], cases[one]) for one in changes}
            ends |= {user_id: self._ended(user_id, one) for user_id, one in writing.items()}
        except (LedgerBusy, RunStopped, duckdb.Error, OSError) as e:
            ends |= {user_id: self._later(user_id, e) for user_id in user_ids if user_id not in ends}
        return ends

    def _changes(self, cases: dict[str, Case]) -> tuple[dict[str, Change], dict[str, Exception]]:
        """Work out what to tell; gives that, and what went wrong with readers, of whom none holds up the others."""
        try:
            return self._reckoner.changes(cases, now=self._now()) if cases else {}, {}
        except Exception as e:  # noqa: BLE001 - whose it is, and told of, when he is alone
            if len(cases) == 1:
                return {}, dict.fromkeys(cases, e)
        changes: dict[str, Change] = {}
        failed: dict[str, Exception] = {}
        for user_id, case in cases.items():
            found, wrong = self._changes({user_id: case})
            changes |= found
            failed |= wrong
        return changes, failed

    def _ended(self, user_id: str, writing: Future[Told]) -> Told:
        try:
            told = writing.result()
            self._telling.works()
        except Exception as e:  # noqa: BLE001 - it is told of, and shall not hold up the others
            return self._later(user_id, e)
        return told

    def _later(self, user_id: str, problem: Exception) -> Told:
        """Note that a reader cannot be told now; of one without a subscription there is nothing to tell."""
        if isinstance(problem, NotFound):
            return Told.UNKNOWN
        if isinstance(problem, _Stopping):
            self.store.leave_wishes([user_id])
            return Told.LATER
        if isinstance(problem, LedgerBusy):
            self.store.postponed(user_id, "the ledger is in use by a run")
            return Told.LATER
        self.store.postponed(user_id, type(problem).__name__)
        said = "Engage could not be told of a reader, which is kept: "
        if isinstance(problem, (RunStopped, duckdb.Error, OSError)):
            self._telling.failed(said + next(iter(str(problem).splitlines()), type(problem).__name__))
        else:
            self._telling.failed(f"{said}a fault of ours, {type(problem).__name__}", fault=problem)
        return Told.LATER

    def send_due(self, *, limit: int | None = None, every: bool = False) -> dict[str, int]:
        """Tell of all readers whose time has come, or the first of them, and count what became of it."""
        counts = dict.fromkeys(map(str, Told), 0)
        due = self.store.due(limit=limit, every=every)
        for some in (due[at : at + TOGETHER] for at in range(0, len(due), TOGETHER)):
            if self._until < math.inf:
                break
            for told in self.push_some(some).values():
                counts[told] += 1
        return counts

    def preview(self, user_id: str) -> Change:
        """Work out what would be told of a reader, and tell nothing.

        Raises:
            NotFound: Piano knows no subscription of his.
        """
        known = self._known([user_id])[user_id]
        return self._reckoner.changes({user_id: (known, self._read(user_id, known))}, now=self._now())[user_id]

    def _write(self, user_id: str, change: Change, case: Case) -> Told:
        if not change.properties:
            return Told.NOTHING
        self._go_on()
        self.courtesy()
        refusal = self._ingest.write(user_id, change.properties)
        if refusal:
            self._rejections.failed(f"Engage rejected a reader with {refusal.status} {refusal.reason}")
            return Told.REJECTED
        self._rejections.works()
        if self._folder is not None:
            known, held = case
            read_now = [row for row in held if not any(row is one for one in known.subscriptions.values())]
            message = Message(
                user_id=user_id,
                at=moment_of(time.time()),
                piano_at=moment_of(self._now()),
                traits=change.values,
                application=self._ingest.application,
                subscriptions=[dict(row) for row in read_now],
            )
            message.leave(self._folder, name_for(user_id))
        return Told.TOLD

    def _go_on(self) -> None:
        """Look whether there is time for one reader more.

        Raises:
            _Stopping: there is not.
        """
        if time.monotonic() > self._until:
            raise _Stopping

    def _now(self) -> int:
        """Piano's clock, for what is live and what is over is Piano's to say."""
        return int(self._piano.clock or time.time())

    def _known(self, user_ids: list[str]) -> dict[str, Known]:
        found = self._reckoner.look_up(self._ledger.file(), user_ids)
        if self._folder is not None:
            for user_id, known in found.items():
                add_told(known, filter(None, map(message_in, messages_of(self._folder, user_id))))
        return found

    def _read_all(self, found: dict[str, Known], likely: str | None) -> tuple[dict[str, Case], dict[str, Exception]]:
        """Read readers at the same time; gives who was read, and what went wrong with the others."""
        reading = {one: self._reading.submit(self._read, one, known, likely) for one, known in found.items()}
        cases: dict[str, Case] = {}
        failed: dict[str, Exception] = {}
        for user_id, one in reading.items():
            try:
                cases[user_id] = (found[user_id], one.result())
            except Exception as e:  # noqa: BLE001 - it is told of, and shall not hold up the others
                failed[user_id] = e
        return cases, failed

    def _read(self, user_id: str, known: Known, likely: str | None = None) -> list[Mapping[str, Any]]:
        """Read the reader's subscriptions: in full those that are live, or not known to have ended.

        Raises:
            NotFound: Piano knows none; be it true or not, that is no reason to clear at once what Engage was told.
        """
        if self._until < math.inf and likely is None:
            raise _Stopping
        self._go_on()
        self.courtesy()
        begun = {likely: self._begin(likely)} if likely else {}
        listed = [Subscription(item, self._now()) for item in of_reader(self._piano, user_id)]
        if not listed:
            msg = "Piano knows no subscription of the reader."
            raise NotFound(msg)
        for one in listed:
            if one.id not in begun and not _known_to_have_ended(one, known):
                begun[one.id] = self._begin(one.id)
        return [self._row(one, known, user_id, begun.get(one.id)) for one in listed]

    def _begin(self, subscription_id: str) -> _Reading:
        """Ask for a subscription and for its access, at the same time."""
        return (
            self._asking.submit(self._whole, subscription_id),
            self._asking.submit(self._access, subscription_id),
        )

    def _whole(self, subscription_id: str) -> Subscription | None:
        self.courtesy()
        return read(self._piano, subscription_id)

    def _row(self, listed: Subscription, known: Known, user_id: str, reading: _Reading | None) -> dict[str, Any]:
        if reading is None:
            return known.subscriptions[listed.id]
        whole, access = reading
        item = (whole.result() or listed).item
        aid, read_at = self._piano.aid, self._now()
        return merged(item, known, aid=aid, user_id=user_id, read_at=read_at, access_until=access.result())

    def _access(self, subscription_id: str) -> str | None:
        """Ask when access ends; Piano says so with the last conversion only."""
        self.courtesy()
        try:
            page = self._piano.get("conversion/lastAccess", subscription_id=subscription_id)
        except PianoRefused:
            return None
        access = page.data.get("user_access") if isinstance(page.data, dict) else None
        return moment((access or {}).get("expire_date"))


def _known_to_have_ended(listed: Subscription, known: Known) -> bool:
    """Whether there is nothing new to be read of a subscription."""
    before = known.subscriptions.get(listed.id)
    return before is not None and listed.ended and _same_end(listed, before)


def _same_end(listed: Subscription, before: Mapping[str, Any]) -> bool:
    """Whether a subscription that has ended was known to have, with the same word."""
    words = {str(listed.item.get(name) or "").strip().lower() for name in ("status", "status_name")}
    return str(before.get("subscription_status") or "").strip().lower() in words
