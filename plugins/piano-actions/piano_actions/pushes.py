"""Telling Engage of one reader at once: read Piano again, work out what differs, write it, leave word for the next run.

What is to be told is noted before, and crossed out after word was left. So a crash in between tells the same values
once more, and loses none.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
from piano_engage_common.stops import RunStopped
from tap_piano.client import NotFound, PianoRefused
from target_recurly_engage.handover import SUFFIX, Message, moment_of

from piano_actions.subscriptions import Subscription, moment, of_reader, read
from piano_actions.traits import Change, LedgerBusy, Reckoner, add_told, look_up, merged

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping
    from concurrent.futures import Future

    from tap_piano.client import PianoClient
    from target_recurly_engage.contract import Contract
    from target_recurly_engage.engage import IngestClient

    from piano_actions.store import Store
    from piano_actions.traits import Known

    _Reading = tuple[Future[Subscription | None], Future[str | None]]

NAME_LETTERS: Final = 32
"""Of a reader's hash, in the name of a message."""
ASKED_AT_ONCE: Final = 8
"""Requests to Piano at the same time, over all readers who are read."""


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
    """Piano does not know the reader (any more); the nightly run ends what there was of him."""


class Pusher:
    """Tells Engage of readers.

    Args:
        piano: the Publisher API.
        ingest: Engage's Ingest API.
        store: knows what is to be told.
        contract: what may be sent, and how.
        config: the target's settings.
        logger: told of what went wrong, without who the reader is.
    """

    def __init__(
        self,
        piano: PianoClient,
        ingest: IngestClient,
        store: Store,
        contract: Contract,
        config: Mapping[str, Any],
        *,
        logger: logging.Logger,
    ) -> None:
        """Prepare the tables to work on."""
        self._piano = piano
        self._ingest = ingest
        self.store = store
        self._contract = contract
        self._ledger = Path(config["ledger"])
        self._folder = Path(config["handover_path"]) if config.get("handover_path") else None
        self._logger = logger
        self._reckoner = Reckoner(contract, typed=config["ingest_values"] == "typed")
        self._asking = ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="asking")

    def close(self) -> None:
        """Remove the tables."""
        self._asking.shutdown(wait=True, cancel_futures=True)
        self._reckoner.close()

    def push(self, user_id: str, likely: str | None = None) -> Told:
        """Tell Engage of a reader what it does not know yet; what cannot be told now is kept.

        Args:
            user_id: the reader.
            likely: a subscription of his that is read in any case, while the othis are looked for.
        """
        wish = self.store.wanted(user_id)
        if wish is None:
            return Told.NOTHING
        try:
            told = self._tell(user_id, likely)
        except NotFound:
            told = Told.UNKNOWN
        except LedgerBusy:
            self.store.postponed(user_id, "the ledger is in use by a run")
            return Told.LATER
        except (RunStopped, duckdb.Error, OSError) as e:
            self.store.postponed(user_id, type(e).__name__)
            self._logger.warning("Engage could not be told of a reader, which is kept: %s", str(e).splitlines()[0])
            return Told.LATER
        self.store.pushed(user_id, wish, str(told))
        return told

    def send_due(self, *, limit: int = 1000, every: bool = False) -> dict[str, int]:
        """Tell of all readers whose time has come, and count what became of it."""
        counts = dict.fromkeys(map(str, Told), 0)
        for user_id in self.store.due(limit=limit, every=every):
            counts[self.push(user_id)] += 1
        return counts

    def preview(self, user_id: str) -> Change:
        """Work out what would be told of a reader, and tell nothing."""
        known = self._known(user_id)
        return self._reckoner.change(user_id, known, self._read(user_id, known), now=self._now())

    def _tell(self, user_id: str, likely: str | None) -> Told:
        known = self._known(user_id)
        if known.is_erased:
            return Told.ERASED
        held = self._read(user_id, known, likely)
        change = self._reckoner.change(user_id, known, held, now=self._now())
        if not change.properties:
            return Told.NOTHING
        refusal = self._ingest.write(user_id, change.properties)
        if refusal:
            self._logger.warning("Engage rejected a reader with %d %s", refusal.status, refusal.reason)
            return Told.REJECTED
        if self._folder is not None:
            message = Message(
                user_id=user_id,
                at=moment_of(time.time()),
                piano_at=moment_of(self._now()),
                traits=change.values,
                subscriptions=held,
            )
            message.leave(self._folder, f"{time.time_ns()}-{_in_names(user_id)}-{uuid.uuid4().hex[:8]}")
        return Told.TOLD

    def _now(self) -> int:
        """Piano's clock, for what is live and what is over is Piano's to say."""
        return int(self._piano.clock or time.time())

    def _known(self, user_id: str) -> Known:
        known = look_up(self._ledger, self._contract, user_id)
        if self._folder is not None:
            add_told(known, filter(None, map(_message, messages_of(self._folder, user_id))))
        return known

    def _read(self, user_id: str, known: Known, likely: str | None = None) -> list[dict[str, Any]]:
        """Read the reader's subscriptions: in full those that are live, or not known to have ended."""
        begun = {likely: self._begin(likely)} if likely else {}
        listed = [Subscription(item, self._now()) for item in of_reader(self._piano, user_id)]
        for one in listed:
            if one.id not in begun and not _known_to_have_ended(one, known):
                begun[one.id] = self._begin(one.id)
        return [self._row(one, known, user_id, begun.get(one.id)) for one in listed]

    def _begin(self, subscription_id: str) -> _Reading:
        """Ask for a subscription and for its access, at the same time."""
        return (
            self._asking.submit(read, self._piano, subscription_id),
            self._asking.submit(self._access, subscription_id),
        )

    def _row(self, listed: Subscription, known: Known, user_id: str, reading: _Reading | None) -> dict[str, Any]:
        if reading is None:
            return known.subscriptions[listed.id]
        whole, access = reading
        item = (whole.result() or listed).item
        aid, read_at = self._piano.aid, self._now()
        return merged(item, known, aid=aid, user_id=user_id, read_at=read_at, access_until=access.result())

    def _access(self, subscription_id: str) -> str | None:
        """Ask when access ends; Piano says so with the last conversion only."""
        try:
            page = self._piano.get("conversion/lastAccess", subscription_id=subscription_id)
        except PianoRefused:
            return None
        access = page.data.get("user_access") if isinstance(page.data, dict) else None
        return moment((access or {}).get("expire_date"))


def messages_of(folder: Path, user_id: str) -> list[Path]:
    """List the messages about a reader that wait for the next run, the oldest first."""
    his = f"-{_in_names(user_id)}-"
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - thousands of names, and few paths
    return [folder / one for one in sorted(names) if his in one and one.endswith(SUFFIX)]


def _in_names(user_id: str) -> str:
    """Name a reader in the names of messages; the same for whatever store, for several may leave messages."""
    return hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()[:NAME_LETTERS]


def _known_to_have_ended(listed: Subscription, known: Known) -> bool:
    """Whether there is nothing new to be read of a subscription."""
    before = known.subscriptions.get(listed.id)
    return before is not None and listed.ended and _same_end(listed, before)


def _same_end(listed: Subscription, before: Mapping[str, Any]) -> bool:
    """Whether a subscription that has ended was known to have, with the same word."""
    words = {str(listed.item.get(name) or "").strip().lower() for name in ("status", "status_name")}
    return str(before.get("subscription_status") or "").strip().lower() in words


def _message(path: Path) -> Message | None:
    """Read what was told; None where a run has just taken it, or it is no message."""
    try:
        return Message.read(path)
    except (OSError, ValueError):
        return None
