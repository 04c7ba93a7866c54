"""The inbox of webhooks: stored before they are answered, each with the wish to tell of its reader, or not at all.

The work itself is that of :mod:`piano_actions.pushes`: a wish is tried until Piano was read and Engage told, by
whatever process finds it. An event and its wish are one transaction, so a crash leaves both or neither.

Two events with the same content cannot be told apart, for Piano gives them no number: one is the other sent again, or
the reader switched off, on and off. So the second is not dropped: the reader is read once more, but not often.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from piano_actions.erasing import erased_among
from piano_actions.tables import EVENTS, IGNORED, LEFT, QUARANTINE, WAITING, upsert
from piano_actions.webhooks import Event, Poison, looks_wrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from piano_actions.store import Store
    from piano_actions.webhooks import Reader

    _Arrival = Event | tuple[Poison, str]

SETTLE_SECONDS: Final = 0.3
"""A change of Piano's comes as several events; so long it is waited for the others."""
REPEAT_SECONDS: Final = 30.0
"""After an event that was seen before, a reader is read again no sooner than so long after the last time."""
QUARANTINED: Final = 2000
"""So many are kept at most, the newest; for anybody can call."""
TRIMMED_EVERY: Final = 100
"""After so many more it is seen to that there are no more than that."""
REPLAYED_TOGETHER: Final = 500
"""Events that are replayed in one transaction; meanwhile the service waits."""
QUARANTINE_WORD: Final = "quarantine"
REPEATED: Final = "repeated"
DAY: Final = 86_400.0


class Inbox:
    """Keeps webhooks.

    Args:
        store: where.
        tells: whether Engage is told at once; else what came is left to the nightly run.
        days: how long they are kept.
    """

    def __init__(self, store: Store, *, tells: bool, days: float = 7.0) -> None:
        """Be ready."""
        self._store = store
        self._tells = tells
        self._days = days
        self._poison = 0

    def keep(self, arrivals: Sequence[_Arrival]) -> list[str]:
        """Keep what came, all of it in one transaction, and say what becomes of each.

        Args:
            arrivals: events; and what could not be read, with the reason.
        """
        with self._store.transaction() as connection:
            arrivals = self._without_erased(connection, arrivals)
            events = {self._store.hash_of(one.content): one for one in arrivals if isinstance(one, Event)}
            known = self._known(connection, list(events))
            if wishes := self._wishes(events, known):
                self._store.want_soon(connection, wishes)
            self._keep_events(connection, events)
            for poison, data in (one for one in arrivals if isinstance(one, tuple)):
                self._quarantine(connection, poison.reason, data)
                self._poison += 1
            if self._poison >= TRIMMED_EVERY:  # and not by `sweep` alone: meanwhile anybody could fill the disk
                _trim(connection)
                self._poison = 0
        seen, words = set[str | None](known), list[str]()
        for one in arrivals:
            name = self._store.hash_of(one.content) if isinstance(one, Event) else None
            words.append(REPEATED if name in seen else self._state(one))
            seen |= {name} - {None}
        return words

    def _without_erased(self, connection: sa.Connection, arrivals: Sequence[_Arrival]) -> list[_Arrival]:
        """Take out of events who is meant, where that reader was erased."""
        named = {one.user_id for one in arrivals if isinstance(one, Event) and one.user_id}
        gone = erased_among(connection, {self._store.hash_of(user_id) for user_id in named})
        erased = {user_id for user_id in named if self._store.hash_of(user_id) in gone} if gone else set()
        return [
            replace(one, user_id=None, subscription_id=None, word="erased")
            if isinstance(one, Event) and one.user_id in erased
            else one
            for one in arrivals
        ]

    def _known(self, connection: sa.Connection, digests: list[str]) -> dict[str, float]:
        """Give when the work on those of some events was done that came before; 0 where it was not."""
        one = EVENTS.c
        found = connection.execute(sa.select(one.id, one.worked_at).where(one.id.in_(digests)))
        return {row.id: row.worked_at or 0.0 for row in found}

    def _wishes(self, events: dict[str, Event], known: dict[str, float]) -> dict[str, float]:
        """Say when to read whom."""
        soon, wishes = time.time() + SETTLE_SECONDS, dict[str, float]()
        for digest, event in events.items():
            if self._tells and event.user_id:
                at = max(soon, known[digest] + REPEAT_SECONDS) if digest in known else soon
                wishes[event.user_id] = min(at, wishes.get(event.user_id, at))
        return wishes

    def _state(self, one: Event | tuple[Poison, str]) -> str:
        if isinstance(one, tuple):
            return QUARANTINE_WORD
        return IGNORED if one.word else WAITING if self._tells else LEFT

    def _keep_events(self, connection: sa.Connection, events: dict[str, Event]) -> None:
        """Insert what is new, and count the rest once more."""
        now = time.time()
        seen = {"received_at": now, "last_at": now, "times": 1}
        if rows := [self._row(digest, events[digest]) | seen for digest in sorted(events)]:
            connection.execute(_keeping(connection.dialect), rows)

    def _row(self, digest: str, event: Event) -> dict[str, Any]:
        return {
            "id": digest, "type": event.type, "event": event.event, "aid": event.aid,
            "reader": self._store.hash_of(event.user_id) if event.user_id else None, "user_id": event.user_id,
            "subscription_id": event.subscription_id, "state": self._state(event), "word": event.word,
        }  # fmt: skip

    def _quarantine(self, connection: sa.Connection, reason: str, data: str) -> None:
        kept = data if looks_wrapped(data) else None
        row = {"id": self._store.hash_of(data), "reason": reason, "size": len(data), "data": kept}
        _put(connection, QUARANTINE, row, time.time(), reason=reason)

    # Looking after it

    def sweep(self) -> None:
        """Forget what is old, but nothing that waits, and the oldest of a quarantine that is too full."""
        event, other, old = EVENTS.c, QUARANTINE.c, time.time() - self._days * DAY
        with self._store.transaction() as connection:
            connection.execute(sa.delete(EVENTS).where(event.last_at < old, event.state != WAITING))
            connection.execute(sa.delete(QUARANTINE).where(other.last_at < old))
            _trim(connection)

    def counts(self) -> dict[str, int]:
        """Count what waits, and what is in quarantine."""
        with self._store.transaction() as connection:
            waiting = sa.select(sa.func.count()).select_from(EVENTS).where(EVENTS.c.state == WAITING)
            poison = sa.select(sa.func.count()).select_from(QUARANTINE)
            return {
                "webhooks_waiting": connection.execute(waiting).scalar_one(),
                "webhooks_quarantined": connection.execute(poison).scalar_one(),
            }

    def events(
        self, *, limit: int, state: str | None = None, kind: str | None = None, user_id: str | None = None
    ) -> list[dict[str, Any]]:
        """List events, the newest first, without who the readers are."""
        one = EVENTS.c
        columns = [column for column in one if column.name != "user_id"]
        query = sa.select(*columns).order_by(one.last_at.desc(), one.id).limit(limit)
        query = query.where(one.state == state) if state else query
        query = query.where(one.type == kind) if kind else query
        query = query.where(one.reader == self._store.hash_of(user_id)) if user_id else query
        with self._store.transaction() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def quarantined(self, *, limit: int) -> list[dict[str, Any]]:
        """List what could not be used, the newest first, without its content."""
        one = QUARANTINE.c
        columns = [column for column in one if column.name != "data"]
        query = sa.select(*columns, one.data.is_not(None).label("kept")).order_by(one.last_at.desc(), one.id)
        with self._store.transaction() as connection:
            return [dict(row) for row in connection.execute(query.limit(limit)).mappings()]

    def replay(self, ids: Iterable[str] = (), *, since: float = 0.0) -> int:
        """Wish again that the readers of events are read, and say of how many events that is.

        Args:
            ids: of events, or how they begin; none is all of them.
            since: only what came after this moment, in epoch seconds.
        """
        one, begins = EVENTS.c, list(ids)
        query = sa.select(one.id, one.user_id).where(one.user_id.is_not(None), one.last_at >= since).order_by(one.id)
        if begins:
            query = query.where(sa.or_(*(one.id.startswith(begin, autoescape=True) for begin in begins)))
        with self._store.transaction() as connection:
            found = connection.execute(query).all()
        for some in (found[at : at + REPLAYED_TOGETHER] for at in range(0, len(found), REPLAYED_TOGETHER)):
            with self._store.transaction() as connection:  # whoever was erased since, has no event any more
                there = one.id.in_([row.id for row in some])
                still = connection.execute(sa.select(one.user_id).where(there, one.user_id.is_not(None))).scalars()
                if wishes := dict.fromkeys(still, time.time()):
                    self._store.want_soon(connection, wishes)
                connection.execute(sa.update(EVENTS).where(there).values(state=WAITING))
        return len(found)

    def replay_quarantine(self, reader: Reader, ids: Iterable[str] = ()) -> dict[str, int]:
        """Read again what could not be used, by the settings as they are now, and count what became of it."""
        one, begins, counts = QUARANTINE.c, list(ids), {"taken": 0, "still_poison": 0}
        query = sa.select(one.id, one.data).where(one.data.is_not(None)).order_by(one.received_at)
        if begins:
            query = query.where(sa.or_(*(one.id.startswith(begin, autoescape=True) for begin in begins)))
        with self._store.transaction() as connection:
            found = connection.execute(query).all()
        for row in found:
            try:
                event = reader.read(row.data)
            except Poison:
                counts["still_poison"] += 1
                continue
            self.keep([event])
            with self._store.transaction() as connection:
                connection.execute(sa.delete(QUARANTINE).where(one.id == row.id))
            counts["taken"] += 1
        return counts


def _trim(connection: sa.Connection) -> None:
    """Forget the oldest of a quarantine that is too full."""
    one = QUARANTINE.c
    newest = sa.select(one.last_at).order_by(one.last_at.desc()).offset(QUARANTINED).limit(1)
    limit = connection.execute(newest).scalar_one_or_none()
    if limit is not None:
        connection.execute(sa.delete(QUARANTINE).where(one.last_at <= limit))


@lru_cache
def _keeping(dialect: sa.Dialect) -> Any:  # noqa: ANN401 - a compiled statement, which SQLAlchemy's types do not take
    """Make the statement that inserts an event, or counts it once more."""
    one, new = EVENTS.c, upsert(dialect, EVENTS)
    again = {"last_at": new.excluded.last_at, "times": one.times + 1, "state": new.excluded.state}
    keys = [column.name for column in one if column is not one.worked_at]
    return new.on_conflict_do_update(index_elements=[one.id], set_=again).compile(dialect=dialect, column_keys=keys)


def _put(connection: sa.Connection, table: sa.Table, row: dict[str, Any], now: float, **again: Any) -> None:  # noqa: ANN401 - cells
    """Insert a row, or count it once more."""
    update = sa.update(table).where(table.c.id == row["id"]).values(last_at=now, times=table.c.times + 1, **again)
    if connection.execute(update).rowcount:
        return
    try:
        with connection.begin_nested():
            connection.execute(table.insert().values({**row, "received_at": now, "last_at": now, "times": 1}))
    except IntegrityError:  # another process was quicker
        connection.execute(update)
