"""The notes of readers of whom Engage has to be told, one telling of a reader at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from piano_actions.erasing import erased_among
from piano_actions.store.database import Database
from piano_actions.store.leases import LEASE_SECONDS, is_held
from piano_actions.store.requests import ReaderBusy
from piano_actions.tables import EVENTS, PUSHES, WAITING, upsert

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 600.0


class Wishes(Database):
    """Of whom Engage has to be told, since when, and when it is tried again."""

    def want_push(self, user_id: str) -> None:
        """Note that Engage has to be told of a reader."""
        with self._engine.begin() as connection:
            self._want(connection, user_id)

    def want_soon(self, connection: sa.Connection, wishes: Mapping[str, float]) -> None:
        """Note the same of readers of whom Piano said something; what is tried again at distances stays so.

        Args:
            connection: whose transaction it belongs to; that nobody of them was erased is known.
            wishes: when to tell, in epoch seconds, by reader.
        """
        one, now, new = PUSHES.c, time.time(), upsert(connection, PUSHES)
        earlier = sa.and_(one.attempts == 0, one.next_at > new.excluded.next_at)
        again = {"wish": one.wish + 1, "next_at": sa.case((earlier, new.excluded.next_at), else_=one.next_at)}
        moments = {"wish": 1, "asked_at": now, "attempts": 0}
        rows = [
            {"reader": reader, "user_id": user_id, "next_at": at, **moments}
            for reader, user_id, at in sorted((self.hash_of(user_id), user_id, at) for user_id, at in wishes.items())
        ]
        wish = new.on_conflict_do_update(index_elements=[one.reader], set_=again)
        connection.execute(wish, rows)

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

    def take_wish(self, user_id: str) -> int | None:
        """Make the telling of a reader ours, for two at once might tell the older values last.

        Returns:
            The number of the wish; None where there is none.

        Raises:
            ReaderBusy: somebody else is at it.
        """
        one, now = PUSHES.c, time.time()
        mine = one.reader == self.hash_of(user_id)
        query = sa.select(one.wish, one.owner, one.lease_until).where(mine).with_for_update()
        with self._engine.begin() as connection:
            found = connection.execute(query).one_or_none()
            if found is None:
                return None
            if is_held(found.owner, found.lease_until):
                raise ReaderBusy
            take = sa.update(PUSHES).where(mine).values(owner=self.owner, lease_until=now + LEASE_SECONDS)
            connection.execute(take)
        return int(found.wish)

    def leave_wish(self, user_id: str) -> None:
        """Let go of a reader whom :meth:`take_wish` gave, and who is still to be told of."""
        mine = sa.and_(PUSHES.c.reader == self.hash_of(user_id), PUSHES.c.owner == self.owner)
        with self._engine.begin() as connection:
            connection.execute(sa.update(PUSHES).where(mine).values(owner=None))

    def due(self, *, limit: int, every: bool = False) -> list[str]:
        """List the readers of whom it is time to tell and whom nobody is telling of, the oldest wish first."""
        one = PUSHES.c
        query = sa.select(one.user_id, one.owner, one.lease_until).order_by(one.next_at).limit(limit)
        query = query if every else query.where(one.next_at <= time.time())
        with self._engine.begin() as connection:
            found = connection.execute(query).all()
        return [str(row.user_id) for row in found if not is_held(row.owner, row.lease_until)]

    def pushed(self, user_id: str, wish: int, how: str) -> bool:
        """Note that Engage was told, and with it how the reader's webhooks ended, unless there is a newer wish.

        Returns:
            Whether there is one whose time has come.
        """
        reader, event, one = self.hash_of(user_id), EVENTS.c, PUSHES.c
        with self._engine.begin() as connection:
            if connection.execute(sa.delete(PUSHES).where(one.reader == reader, one.wish == wish)).rowcount:
                his = sa.update(EVENTS).where(event.reader == reader, event.state == WAITING)
                connection.execute(his.values(state=how, worked_at=time.time()))
                return False
            connection.execute(sa.update(PUSHES).where(one.reader == reader).values(owner=None))
            newer = connection.execute(sa.select(one.next_at).where(one.reader == reader)).scalar_one_or_none()
        return newer is not None and newer <= time.time()

    def postponed(self, user_id: str, problem: str) -> None:
        """Note why Engage could not be told, and when to try again: at growing distances."""
        one = PUSHES.c
        mine = one.reader == self.hash_of(user_id)
        with self._engine.begin() as connection:
            attempts = int(connection.execute(sa.select(one.attempts).where(mine)).scalar_one_or_none() or 0)
            pause = min(FIRST_PAUSE * 2 ** min(attempts, 20), LONGEST_PAUSE)
            values = {"attempts": attempts + 1, "next_at": time.time() + pause, "problem": problem, "owner": None}
            connection.execute(sa.update(PUSHES).where(mine).values(**values))

    def pushes(self) -> list[dict[str, Any]]:
        """List what is still to be told, without who the readers are."""
        one = PUSHES.c
        query = sa.select(one.reader, one.asked_at, one.attempts, one.next_at, one.problem).order_by(one.asked_at)
        with self._engine.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
