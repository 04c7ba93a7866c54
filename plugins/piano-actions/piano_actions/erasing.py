"""Erasing a reader from the notes of the actions, and keeping him out of them.

Engage is cleared, and the ledger forgets him, by ``recurly-engage erase``; this is the rest. Named is nobody in what
stays: a hash, salted with the store's own secret, keeps him out, and the receipt counts.
"""

from __future__ import annotations

import json
import uuid
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from piano_engage_common.stops import NoInput, Outage

from piano_actions.tables import ACTIONS, BEGUN, CODES, ERASED, EVENTS, PUSHES, QUARANTINE
from piano_actions.webhooks import Poison, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piano_actions.store import Store

_WHAT: Final = "HMAC-SHA256 of the reader's id, with the secret of the store"


def erase(store: Store, user_id: str, *, key: str | None) -> dict[str, Any]:
    """Take what names a reader out of the store, and keep him out from now on; may be done again.

    Args:
        store: the notes.
        user_id: the reader.
        key: Piano's private key, to look into the quarantine; without it what lies there cannot be read.

    Returns:
        The receipt, which names nobody.

    Raises:
        Outage: an action of his is under way.
    """
    reader = store.hash_of(user_id)
    with store.transaction() as connection:
        _check_idle(connection, reader)
        rows = {
            table.name: connection.execute(sa.delete(table).where(table.c.reader == reader)).rowcount
            for table in (ACTIONS, PUSHES, EVENTS)
        }
        rows["codes"] = _let_go_of_codes(connection, reader)
        rows["quarantine"], unread = _empty_quarantine(connection, user_id, key)
        receipt = {
            "digest": reader, "status": "done", "hash": _WHAT, "requested_at": _now(),
            "rows": {name: count for name, count in rows.items() if count}, "quarantine_unread": unread,
        }  # fmt: skip
        connection.execute(sa.delete(ERASED).where(ERASED.c.reader == reader))
        connection.execute(ERASED.insert().values(reader=reader, receipt=json.dumps(receipt)))
    _rewrite(store)
    return receipt


def allow(store: Store, user_id: str) -> None:
    """Let a reader who was erased in again.

    Raises:
        NoInput: there was none.
    """
    with store.transaction() as connection:
        gone = connection.execute(sa.delete(ERASED).where(ERASED.c.reader == store.hash_of(user_id))).rowcount
    if not gone:
        msg = f"{user_id}: was not erased here, so there is nothing to allow."
        raise NoInput(msg)


def is_erased(store: Store, user_id: str) -> bool:
    """Say whether a reader was erased here, and not let in again."""
    with store.transaction() as connection:
        return bool(erased_among(connection, {store.hash_of(user_id)}))


def erased_among(connection: sa.Connection, readers: set[str]) -> set[str]:
    """Give those of some readers, all as hashes, who were erased."""
    query = sa.select(ERASED.c.reader).where(ERASED.c.reader.in_(readers))
    return set(connection.execute(query).scalars()) if readers else set()


def _check_idle(connection: sa.Connection, reader: str) -> None:
    busy = sa.select(sa.func.count()).where(ACTIONS.c.reader == reader, ACTIONS.c.state == BEGUN)
    if connection.execute(busy).scalar_one():
        msg = (
            "an action of the reader is under way, or was left by a crash: run `piano-actions recover`, and try again."
        )
        raise Outage(msg)


def _let_go_of_codes(connection: sa.Connection, reader: str) -> int:
    """Let promo codes be nobody's; they stay taken, for Piano may have seen them used."""
    one = CODES.c
    found = connection.execute(sa.select(one.promotion_id).where(one.reader == reader)).scalars().all()
    for promotion_id in found:
        mine = sa.and_(one.promotion_id == promotion_id, one.reader == reader)
        connection.execute(sa.update(CODES).where(mine).values(reader=f"erased-{uuid.uuid4().hex}"))
    return len(found)


def _empty_quarantine(connection: sa.Connection, user_id: str, key: str | None) -> tuple[int, int]:
    """Remove what names the reader from the quarantine; gives how many, and how many nobody can read."""
    one, removed, unread = QUARANTINE.c, 0, 0
    kept = connection.execute(sa.select(one.id, one.data).where(one.data.is_not(None))).all()
    for row in kept:
        texts = list(_readings(row.data, key))
        unread += not texts
        if any(user_id in text for text in texts):
            connection.execute(sa.delete(QUARANTINE).where(one.id == row.id))
            removed += 1
    return removed, unread


def _readings(data: str, key: str | None) -> Iterator[str]:
    """Give what can be read of an event, whatever is wrong with its HMAC."""
    try:
        yield unwrap(data.partition("~~~")[0], key or "")
    except Poison:
        return


def _rewrite(store: Store) -> None:
    """Let the bytes of deleted rows leave the file of SQLite, which keeps them else."""
    if store.engine.dialect.name != "sqlite":
        return
    with closing(store.engine.raw_connection()) as connection:
        for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            connection.cursor().execute(statement).fetchall()


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="seconds")
