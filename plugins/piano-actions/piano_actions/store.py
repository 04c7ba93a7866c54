"""What the actions remember: which were asked for, how far each is, and what was answered.

A row is written before Piano is asked for anything that changes something, so that whoever comes after a crash finds
it. SQLite by default; PostgreSQL where several processes share the work. Once an action is finished, its row names the
reader by a salted hash only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psutil
import sqlalchemy as sa
from piano_engage_common.stops import ConfigRefused, StorageFailed
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from piano_actions.erasing import erased_among
from piano_actions.outcome import Outcome, Status
from piano_actions.tables import (
    ACTIONS,
    BEGUN,
    CODES,
    EVENTS,
    FAILED,
    FINISHED,
    META,
    METADATA,
    PUSHES,
    SINCE_1,
    UNSURE,
    VERSION,
    WAITING,
    upsert,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEPT_SECONDS: Final = 24 * 3600.0
"""How long the answer to a key is kept."""

LEASE_SECONDS: Final = 120.0
"""After so long an action of a process that cannot be looked at counts as left behind; none takes nearly as long."""

BUSY_SECONDS: Final = 10
"""How long one waits for another process to let the file go."""

FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 600.0
_TABLES_LOCK: Final = 7_091_226
"""Of PostgreSQL, for processes that begin at the same time; a number nobody else uses."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for.

    Attributes:
        action: its name.
        user_id: the reader.
        params: all else, texts and truth values.
        key: two requests with the same one are one.
        made: the key was made of what is asked for, so the same wish a day later has it too.
    """

    action: str
    user_id: str
    params: Mapping[str, Any] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    made: bool = False

    @property
    def body(self) -> str:
        """A digest of what is asked for, without the key."""
        asked = json.dumps([self.action, self.user_id, dict(self.params)], sort_keys=True)
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Claim:
    """An action that is ours to do.

    Attributes:
        id: of its row.
        request: what is asked for.
        chosen: what was found out before a crash, such as which subscription is meant.
        age: seconds since it was asked for.
    """

    id: str
    request: Request
    chosen: Mapping[str, Any]
    age: float = 0.0


class InFlight(Exception):  # noqa: N818 - no error: somebody is at it
    """The same request is being worked on."""


class ReaderBusy(Exception):  # noqa: N818 - no error either
    """Another action of the same reader is being worked on."""


class KeyTaken(Exception):  # noqa: N818 - what happened
    """The key was used for another request."""


class Store:
    """The notes of the actions; used by many threads.

    Args:
        url: of SQLAlchemy, such as ``sqlite:///piano-actions.db`` or ``postgresql+psycopg://…``.

    Raises:
        ConfigRefused: the URL is none.
        StorageFailed: the database cannot be opened, or belongs to a newer version.
    """

    def __init__(self, url: str) -> None:
        """Open it, and make the tables where there are none."""
        try:
            # As many connections as threads ask for: none of them waits for another one's.
            self._engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"), max_overflow=-1)
        except (SQLAlchemyError, ImportError) as e:
            msg = (
                "store_url: cannot be used. Write it like sqlite:///piano-actions.db or postgresql+psycopg://host/name."
            )
            raise ConfigRefused(msg) from e
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)
        self.owner = f"{_me()}/{uuid.uuid4().hex[:8]}"
        self._mine: set[str] = set()
        try:
            with self._engine.begin() as connection:
                version = _make_tables(connection)
                self._salt = bytes.fromhex(_meta(connection, "salt", secrets.token_hex(16)))
        except SQLAlchemyError as e:
            self._engine.dispose()
            msg = f"store_url: the database cannot be opened: {str(e.__cause__ or e).splitlines()[0]}"
            raise StorageFailed(msg) from e
        if version != VERSION:
            self._engine.dispose()
            msg = f"store_url: the notes have version {version}, this program knows {VERSION}. Install the newer one."
            raise StorageFailed(msg)

    @property
    def engine(self) -> sa.Engine:
        """The database, for :class:`piano_actions.inbox.Inbox`."""
        return self._engine

    def hash_of(self, user_id: str) -> str:
        """Name a reader without naming him."""
        return hmac.new(self._salt, user_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def answers(self) -> bool:
        """Ask the database for something.

        Raises:
            SQLAlchemyError: it does not answer.
        """
        with self._engine.begin() as connection:
            return bool(connection.execute(sa.select(META.c.value).where(META.c.name == "version")).scalar_one())

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # One action

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
            with self._engine.begin() as connection:
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
        with self._engine.begin() as connection:
            found = connection.execute(sa.select(ACTIONS).where(ACTIONS.c.key == request.key)).mappings().one_or_none()
        if found is None:
            raise ReaderBusy
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
        with self._engine.begin() as connection:
            return connection.execute(query).scalar_one_or_none()

    def release(self, key: str, answered_at: float) -> None:
        """Let a key stand for its answer no more, unless there is a newer one."""
        one = ACTIONS.c
        mine = sa.and_(one.key == key, one.state == FINISHED, one.finished_at == answered_at)
        with self._engine.begin() as connection:
            connection.execute(sa.update(ACTIONS).where(mine).values(key=None))

    def note(self, claim: Claim, **chosen: Any) -> None:  # noqa: ANN401 - JSON
        """Keep what was found out, before anything is changed at Piano."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(ACTIONS).where(ACTIONS.c.id == claim.id).values(chosen=json.dumps({**claim.chosen, **chosen}))
            )

    def finish(self, claim: Claim, outcome: Outcome, *, push: bool = False) -> None:
        """Note how an action ended; who the reader is, is forgotten, unless that is not sure yet.

        Args:
            claim: the action.
            outcome: how it ended.
            push: note along with it that Engage has to be told of the reader.
        """
        unsure = outcome.status is Status.UNKNOWN
        values = {
            "state": UNSURE if unsure else FINISHED,
            "outcome": json.dumps(outcome.as_dict()),
            "finished_at": time.time(),
        }
        if not unsure:
            values |= {"params": None, "chosen": None}
        with self._engine.begin() as connection:
            connection.execute(sa.update(ACTIONS).where(ACTIONS.c.id == claim.id).values(**values))
            if push:
                self._want(connection, claim.request.user_id)

    def fail(self, claim: Claim, problem: str) -> None:
        """Note that an action could not be done, and surely was not: the key is free again."""
        values = {"state": FAILED, "key": None, "params": None, "chosen": None, "finished_at": time.time()}
        values["outcome"] = json.dumps({"action": claim.request.action, "status": "failed", "reason": problem})
        with self._engine.begin() as connection:
            connection.execute(sa.update(ACTIONS).where(ACTIONS.c.id == claim.id).values(**values))

    def unsure(self, claim: Claim) -> None:
        """Note that nobody knows yet how an action ended: it is taken up again."""
        with self._engine.begin() as connection:
            connection.execute(sa.update(ACTIONS).where(ACTIONS.c.id == claim.id).values(state=UNSURE))

    def let_go(self, claim: Claim) -> None:
        """Have it that nobody here is at an action any more: if its end could not be noted, it was left behind."""
        self._mine.discard(claim.id)

    # What was left behind

    def left_behind(self, *, reader: str | None = None, but: str | None = None) -> Iterator[Claim]:
        """Take over, one by one, what a crash left: begun by a process that is gone, or not sure.

        Args:
            reader: only what is his.
            but: not what has this key.
        """
        one = ACTIONS.c
        query = sa.select(ACTIONS).where(one.state.in_([BEGUN, UNSURE])).order_by(one.created_at)
        query = query.where(one.reader == self.hash_of(reader)) if reader is not None else query
        query = query.where(sa.or_(one.key.is_(None), one.key != but)) if but is not None else query
        with self._engine.begin() as connection:
            found = connection.execute(query).mappings().all()
        for row in found:
            if row["state"] == UNSURE or self._was_left(row):
                claim = self._take_over(row, state=row["state"])
                if claim:
                    yield claim

    def _was_left(self, row: sa.RowMapping) -> bool:
        """Whether nobody is at an action that was begun; of those of this very store that is known."""
        if row["owner"] == self.owner:
            return row["id"] not in self._mine
        return _is_gone(row["owner"], row["lease_until"])

    def _take_over(self, row: sa.RowMapping, *, state: str) -> Claim | None:
        """Make a row ours, unless somebody else was quicker."""
        one = ACTIONS.c
        mine = {"owner": self.owner, "lease_until": time.time() + LEASE_SECONDS, "state": BEGUN}
        take = sa.update(ACTIONS).where(one.id == row["id"], one.owner == row["owner"], one.state == state)
        if state == BEGUN:
            take = take.where(one.lease_until == row["lease_until"])
        self._mine.add(row["id"])
        try:
            with self._engine.begin() as connection:
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
        with self._engine.begin() as connection:
            rows = connection.execute(query).mappings().all()
        return [{**row, "outcome": json.loads(row["outcome"]) if row["outcome"] else None} for row in rows]

    # Readers of whom Engage has to be told

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
            if _is_held(found.owner, found.lease_until):
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
        return [str(row.user_id) for row in found if not _is_held(row.owner, row.lease_until)]

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

    # Promo codes

    def code_of(self, promotion_id: str, user_id: str) -> str | None:
        """Give the code of a promotion that a reader has."""
        one = CODES.c
        query = sa.select(one.code).where(one.promotion_id == promotion_id, one.reader == self.hash_of(user_id))
        with self._engine.begin() as connection:
            return connection.execute(query).scalar_one_or_none()

    def free_codes(self, promotion_id: str, codes: list[str]) -> list[str]:
        """Give those of some codes that nobody has, in their order."""
        one = CODES.c
        query = sa.select(one.code).where(one.promotion_id == promotion_id, one.code.in_(codes))
        with self._engine.begin() as connection:
            taken = set(connection.execute(query).scalars())
        return [code for code in codes if code not in taken]

    def reserve(self, promotion_id: str, user_id: str, code: str) -> str | None:
        """Give a reader a code, and answer which one he has then; None where somebody else was quicker."""
        row = {
            "promotion_id": promotion_id, "reader": self.hash_of(user_id), "code": code, "reserved_at": time.time(),
        }  # fmt: skip
        try:
            with self._engine.begin() as connection:
                connection.execute(CODES.insert().values(row))
        except IntegrityError:
            return self.code_of(promotion_id, user_id)
        return code

    def reserved(self, promotion_id: str) -> int:
        """Count the codes of a promotion that somebody has."""
        query = sa.select(sa.func.count()).where(CODES.c.promotion_id == promotion_id)
        with self._engine.begin() as connection:
            return int(connection.execute(query).scalar_one())


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Have SQLite keep what it confirmed, and let processes wait for each other."""

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:  # noqa: ANN401 - of sqlite3
        connection.isolation_level = None  # transactions begin below, not where the driver thinks
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _make_tables(connection: sa.Connection) -> int:
    """Make the tables where there are none, bring older ones up to date, and give their version."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TABLES_LOCK)))
    METADATA.create_all(connection)
    version = int(_meta(connection, "version", str(VERSION)))
    if version == 1:
        for statement in SINCE_1:
            connection.execute(sa.text(statement))
        connection.execute(sa.update(META).where(META.c.name == "version").values(value=str(VERSION)))
        version = VERSION
    return version


def _meta(connection: sa.Connection, name: str, value: str) -> str:
    """Give a value that all processes share; the first one sets it."""
    query = sa.select(META.c.value).where(META.c.name == name)
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        connection.execute(META.insert().values(name=name, value=value))
    return str(value if found is None else found)


def _is_held(owner: str | None, lease_until: float | None) -> bool:
    """Whether somebody is telling of a reader: a process that lives, and has not been at it for too long."""
    return bool(owner) and (lease_until or 0.0) > time.time() and not _is_gone(str(owner), lease_until or 0.0)


def _me() -> str:
    """Name this process so that another one on the same machine can tell whether it still runs."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def _is_gone(owner: str, lease_until: float) -> bool:
    """Whether a process has ended, or, on another machine, has not been heard of for long."""
    host, pid, born = owner.split("/")[:3]
    if host != socket.gethostname():
        return lease_until < time.time()
    try:
        process = psutil.Process(int(pid))
        return f"{process.create_time():.2f}" != born or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
