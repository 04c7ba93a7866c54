"""The notes of readers of whom Engage has to be told, one telling of a reader at a time."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from piano_actions.erasing import erased_among
from piano_actions.store.database import Database
from piano_actions.store.leases import LEASE_SECONDS, is_held
from piano_actions.tables import EVENTS, PUSHES, WAITING, upsert

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 600.0


class Wishes(Database):
    """Of whom Engage has to be told, since when, and when it is tried again."""

    def want_push(self, user_id: str) -> None:
        """Note that Engage has to be told of a reader."""
        with self.transaction() as connection:
            self._want(connection, user_id)

    def want_soon(self, connection: sa.Connection, wishes: Mapping[str, float]) -> None:
        """Note the same of readers of whom Piano said something; what is tried again at distances stays so.

        Args:
            connection: whose transaction it belongs to; that nobody of them was erased is known.
            wishes: when to tell, in epoch seconds, by reader.
        """
        moments = {"wish": 1, "asked_at": time.time(), "attempts": 0}
        rows = [
            {"reader": reader, "user_id": user_id, "next_at": at, **moments}
            for reader, user_id, at in sorted((self.hash_of(user_id), user_id, at) for user_id, at in wishes.items())
        ]
        connection.execute(_wishing(connection.dialect), rows)

    def _want(
        self, connection: sa.Connection, user_id: str, at: float | None = None, again: dict[str, Any] | None = None
    ) -> None:
        now, one = time.time(), PUSHES.c
        if erased_among(connection, {self.hash_of(user_id)}):
            return
        again = again or {"wish": one.wish + 1, "attempts": 0, "next_at": now}
        row = {
            "reader": self.hash_of(user_id),
            "user_id": user_id,
            "wish": 1,
            "asked_at": now,
            "attempts": 0,
            "next_at": now if at is None else at,
        }
        if connection.execute(sa.update(PUSHES).where(one.reader == row["reader"]).values(**again)).rowcount:
            return
        try:
            with connection.begin_nested():
                connection.execute(PUSHES.insert().values(row))
        except IntegrityError:  # another process was quicker
            connection.execute(sa.update(PUSHES).where(one.reader == row["reader"]).values(**again))

    def take_wishes(self, user_ids: Iterable[str]) -> tuple[dict[str, int], set[str]]:
        """Make the telling of readers ours, for two at once might tell the older values last.

        Returns:
            The numbers of their wishes, of those who have one; and those of whom somebody else is telling.
        """
        named, one = {self.hash_of(user_id): user_id for user_id in user_ids}, PUSHES.c
        query = sa.select(one.reader, one.wish, one.owner, one.lease_until).where(one.reader.in_(named))
        with self.transaction() as connection:
            found = connection.execute(query.order_by(one.reader).with_for_update()).all()
            free = [row for row in found if not is_held(row.owner, row.lease_until)]
            if free:
                take = sa.update(PUSHES).where(one.reader.in_([row.reader for row in free]))
                connection.execute(take.values(owner=self.owner, lease_until=time.time() + LEASE_SECONDS))
        wishes = {named[row.reader]: int(row.wish) for row in free}
        return wishes, {named[row.reader] for row in found} - set(wishes)

    def leave_wishes(self, user_ids: Iterable[str]) -> None:
        """Let go of readers whom :meth:`take_wishes` gave, and who are still to be told of."""
        mine = sa.and_(
            PUSHES.c.reader.in_([self.hash_of(user_id) for user_id in user_ids]), PUSHES.c.owner == self.owner
        )
        with self.transaction() as connection:
            connection.execute(sa.update(PUSHES).where(mine).values(owner=None))

    def due(self, *, limit: int | None = None, every: bool = False) -> list[str]:
        """List the readers of whom it is time to tell and whom nobody is telling of, the oldest wish first."""
        one = PUSHES.c
        query = sa.select(one.user_id, one.owner, one.lease_until).order_by(one.next_at).limit(limit)
        query = query if every else query.where(one.next_at <= time.time())
        with self.transaction() as connection:
            found = connection.execute(query).all()
        return [str(row.user_id) for row in found if not is_held(row.owner, row.lease_until)]

    def pushed(self, ends: Mapping[str, tuple[int, str]]) -> list[str]:
        """Note of readers that Engage was told, and with it how their webhooks ended, unless there is a newer wish.

        Args:
            ends: by reader the number of the wish, and how it ended.

        Returns:
            Those who have a newer wish whose time has come.
        """
        named, one, now = {self.hash_of(user_id): user_id for user_id in ends}, PUSHES.c, time.time()
        query = sa.select(one.reader, one.wish, one.next_at).where(one.reader.in_(named)).order_by(one.reader)
        with self.transaction() as connection:
            found = connection.execute(query.with_for_update()).all()
            newer = {row.reader: row.next_at for row in found if row.wish != ends[named[row.reader]][0]}
            done = [row.reader for row in found if row.reader not in newer]
            connection.execute(sa.delete(PUSHES).where(one.reader.in_(done)))
            for how in sorted({ends[named[reader]][1] for reader in done}):
                his = EVENTS.c.reader.in_([reader for reader in done if ends[named[reader]][1] == how])
                ended = sa.update(EVENTS).where(his, EVENTS.c.state == WAITING)
                connection.execute(ended.values(state=how, worked_at=now))
            if newer:
                connection.execute(sa.update(PUSHES).where(one.reader.in_(newer)).values(owner=None))
        return [named[reader] for reader, at in newer.items() if at <= now]

    def postponed(self, user_id: str, problem: str) -> None:
        """Note why Engage could not be told, and when to try again: at growing distances."""
        one = PUSHES.c
        mine = one.reader == self.hash_of(user_id)
        with self.transaction() as connection:
            attempts = int(connection.execute(sa.select(one.attempts).where(mine)).scalar_one_or_none() or 0)
            pause = min(FIRST_PAUSE * 2 ** min(attempts, 20), LONGEST_PAUSE)
            values = {"attempts": attempts + 1, "next_at": time.time() + pause, "problem": problem, "owner": None}
            connection.execute(sa.update(PUSHES).where(mine).values(**values))

    def pushes(self) -> list[dict[str, Any]]:
        """List what is still to be told, without who the readers are."""
        one = PUSHES.c
        query = sa.select(one.reader, one.asked_at, one.attempts, one.next_at, one.problem).order_by(one.asked_at)
        with self.transaction() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


@lru_cache
def _wishing(dialect: sa.Dialect) -> Any:  # noqa: ANN401 - a compiled statement, which SQLAlchemy's types do not take
    """Make the statement that notes a wish, or that there is a newer one."""
    one, new = PUSHES.c, upsert(dialect, PUSHES)
    earlier = sa.and_(one.attempts == 0, one.next_at > new.excluded.next_at)
    again = {"wish": one.wish + 1, "next_at": sa.case((earlier, new.excluded.next_at), else_=one.next_at)}
    keys = ["reader", "user_id", "wish", "asked_at", "attempts", "next_at"]
    return new.on_conflict_do_update(index_elements=[one.reader], set_=again).compile(dialect=dialect, column_keys=keys)
