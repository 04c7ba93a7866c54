"""The notes of actions: each is noted before Piano is asked for anything, and taken over where a crash left it."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from piano_actions.outcome import Outcome, Status
from piano_actions.store.leases import LEASE_SECONDS, is_gone
from piano_actions.store.requests import Claim, InFlight, KeyTaken, ReaderBusy, Request
from piano_actions.store.wishes import Wishes
from piano_actions.tables import ACTIONS, BEGUN, FAILED, FINISHED, UNSURE

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT_SECONDS: Final = 24 * 3600.0
"""How long the answer to a key is kept."""
FIRST_LOOK: Final = 10.0
LONGEST_LOOK: Final = 600.0
"""Distances, in seconds, at which is looked again at what is not sure."""


class Claims(Wishes):
    """Which actions were asked for, how far each is, and what was answered."""

    def __init__(self, url: str) -> None:
        """Open the notes, with nothing under way here."""
        super().__init__(url)
        self._mine: set[str] = set()

    def claim(self, request: Request) -> Claim | Outcome:
        """Note that a request is begun, and make it ours; or give the answer that was given before.

        Raises:
            InFlight: somebody is at it.
            ReaderBusy: somebody is at another action of this reader.
            KeyTaken: the key stands for another request.
        """
        now, one = time.time(), ACTIONS.c
        reader = self.hash_of(request.user_id)
        row = {
            "id": uuid.uuid4().hex, "key": request.key, "body": request.body, "action": request.action,
            "reader": reader, "params": json.dumps([request.user_id, dict(request.params)]), "state": BEGUN,
            "owner": self.owner, "lease_until": now + LEASE_SECONDS, "created_at": now,
        }  # fmt: skip
        self._mine.add(str(row["id"]))
        try:
            with self.transaction() as connection:
                forget = sa.update(ACTIONS).where(
                    one.key == request.key, one.state != BEGUN, one.created_at < now - KEPT_SECONDS
                )
                connection.execute(forget.values(key=None))
                connection.execute(ACTIONS.insert().values(row))
        except IntegrityError:
            self._mine.discard(str(row["id"]))
            return self._known(request)
        except SQLAlchemyError:
            self._mine.discard(str(row["id"]))
            raise
        return Claim(str(row["id"]), request, {})

    def _known(self, request: Request) -> Claim | Outcome:
        """Say what is known of a request that could not be begun."""
        with self.transaction() as connection:
            found = connection.execute(sa.select(ACTIONS).where(ACTIONS.c.key == request.key)).mappings().one_or_none()
        over = time.time() - KEPT_SECONDS
        if found is None or (found["state"] != BEGUN and found["created_at"] < over):
            raise ReaderBusy  # whose key was forgotten, or will be as soon as he is not
        if found["body"] != request.body:
            raise KeyTaken
        if found["state"] == FINISHED:
            return Outcome.of(json.loads(found["outcome"]))
        left = found["state"] == UNSURE or (found["state"] == BEGUN and self._was_left(found))
        claim = self._take_over(found, state=found["state"]) if left else None
        if claim is None:
            raise InFlight
        return claim

    def answered_at(self, key: str) -> float | None:
        """Say when the answer to a key was given, in epoch seconds; None where there is none."""
        query = sa.select(ACTIONS.c.finished_at).where(ACTIONS.c.key == key, ACTIONS.c.state == FINISHED)
        with self.transaction() as connection:
            return connection.execute(query).scalar_one_or_none()

    def release(self, key: str, answered_at: float) -> None:
        """Let a key stand for its answer no more, unless there is a newer one."""
        one = ACTIONS.c
        mine = sa.and_(one.key == key, one.state == FINISHED, one.finished_at == answered_at)
        with self.transaction() as connection:
            connection.execute(sa.update(ACTIONS).where(mine).values(key=None))

    def note(self, claim: Claim, **chosen: Any) -> None:  # noqa: ANN401 - JSON
        """Keep what was found out, before anything is changed at Piano, and that somebody is still at it."""
        values = {"chosen": json.dumps({**claim.chosen, **chosen}), "lease_until": time.time() + LEASE_SECONDS}
        with self.transaction() as connection:
            connection.execute(sa.update(ACTIONS).where(ACTIONS.c.id == claim.id).values(**values))

    def finish(self, claim: Claim, outcome: Outcome, *, push: bool = False, unsure: bool | None = None) -> None:
        """Note how an action ended; who the reader is, is forgotten, unless that is not sure yet.

        Args:
            claim: the action.
            outcome: how it ended.
            push: note along with it that Engage has to be told of the reader.
            unsure: it is looked at again; by default where nobody knows how it ended.
        """
        unsure = outcome.status is Status.UNKNOWN if unsure is None else unsure
        values: dict[str, Any] = {
            "state": UNSURE if unsure else FINISHED,
            "outcome": json.dumps(outcome.as_dict()),
            "finished_at": time.time(),
        }
        values |= {"lease_until": _next_look(claim)} if unsure else {"params": None, "chosen": None}
        with self.transaction() as connection:
            connection.execute(sa.update(ACTIONS).where(ACTIONS.c.id == claim.id).values(**values))
            if push:
                self._want(connection, claim.request.user_id)

    def fail(self, claim: Claim, problem: str) -> None:
        """Note that an action could not be done, and surely was not: the key is free again."""
        values = {"state": FAILED, "key": None, "params": None, "chosen": None, "finished_at": time.time()}
        values["outcome"] = json.dumps({"action": claim.request.action, "status": "failed", "reason": problem})
        with self.transaction() as connection:
            connection.execute(sa.update(ACTIONS).where(ACTIONS.c.id == claim.id).values(**values))

    def unsure(self, claim: Claim) -> None:
        """Note that nobody knows yet how an action ended: it is taken up again."""
        with self.transaction() as connection:
            values = {"state": UNSURE, "lease_until": _next_look(claim)}
            connection.execute(sa.update(ACTIONS).where(ACTIONS.c.id == claim.id).values(**values))

    def let_go(self, claim: Claim) -> None:
        """Have it that nobody here is at an action any more: if its end could not be noted, it was left behind."""
        self._mine.discard(claim.id)

    # What was left behind

    def left_behind(self, *, reader: str | None = None, but: str | None = None, every: bool = True) -> Iterator[Claim]:
        """Take over, one by one, what a crash left: begun by a process that is gone, or not sure.

        Args:
            reader: only what is his.
            but: not what has this key.
            every: also what is not sure and was looked at a short while ago.
        """
        one = ACTIONS.c
        query = sa.select(ACTIONS).where(one.state.in_([BEGUN, UNSURE])).order_by(one.created_at)
        query = query.where(one.reader == self.hash_of(reader)) if reader is not None else query
        query = query.where(sa.or_(one.key.is_(None), one.key != but)) if but is not None else query
        with self.transaction() as connection:
            found = connection.execute(query).mappings().all()
        for row in found:
            due = every or row["lease_until"] <= time.time()
            if due if row["state"] == UNSURE else self._was_left(row):
                claim = self._take_over(row, state=row["state"])
                if claim:
                    yield claim

    def _was_left(self, row: sa.RowMapping) -> bool:
        """Whether nobody is at an action that was begun; of those of this very store that is known."""
        if row["owner"] == self.owner:
            return row["id"] not in self._mine
        return is_gone(row["owner"], row["lease_until"])

    def _take_over(self, row: sa.RowMapping, *, state: str) -> Claim | None:
        """Make a row ours, unless somebody else was quicker."""
        one = ACTIONS.c
        mine = {"owner": self.owner, "lease_until": time.time() + LEASE_SECONDS, "state": BEGUN}
        take = sa.update(ACTIONS).where(one.id == row["id"], one.owner == row["owner"], one.state == state)
        if state == BEGUN:
            take = take.where(one.lease_until == row["lease_until"])
        self._mine.add(row["id"])
        try:
            with self.transaction() as connection:
                taken = connection.execute(take.values(**mine)).rowcount == 1
        except IntegrityError:  # another action of this reader is under way
            taken = False
        except SQLAlchemyError:
            self._mine.discard(row["id"])
            raise
        if not taken:
            self._mine.discard(row["id"])
            return None
        user_id, params = json.loads(row["params"])
        request = Request(row["action"], user_id, params, row["key"] or row["id"])
        return Claim(row["id"], request, json.loads(row["chosen"] or "{}"), time.time() - row["created_at"])

    def audit(self, *, limit: int, action: str | None = None, user_id: str | None = None) -> list[dict[str, Any]]:
        """List actions, the newest first, without who the readers are."""
        one = ACTIONS.c
        columns = (one.id, one.action, one.reader, one.state, one.outcome, one.created_at, one.finished_at)
        query = sa.select(*columns).order_by(one.created_at.desc(), one.id).limit(limit)
        query = query.where(one.action == action) if action else query
        query = query.where(one.reader == self.hash_of(user_id)) if user_id else query
        with self.transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [{**row, "outcome": json.loads(row["outcome"]) if row["outcome"] else None} for row in rows]


def _next_look(claim: Claim) -> float:
    """Say when to look again at what is not sure: each time twice as long after it was asked for."""
    return time.time() + min(max(claim.age, FIRST_LOOK), LONGEST_LOOK)
