"""Bring what the ledger holds of the sources up to date with the rows that came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from piano_engage_common.duck import name

from target_recurly_engage.invariants import check

if TYPE_CHECKING:
    from collections.abc import Callable

    from target_recurly_engage.ledger import Ledger
    from target_recurly_engage.streams import UsersStream

_ABSENT = "subscriptions ANTI JOIN incoming USING (subscription_id)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """What the rows that came did to a source.

    Attributes:
        before: rows before, which are subscriptions or, of a stream of users, readers.
        after: rows after.
        came: different ones among the rows that came.
        vanished: those that a complete stream no longer holds.
    """

    before: int
    after: int
    came: int
    vanished: int


def merge(ledger: Ledger, *, complete: bool) -> Merge:
    """Bring ``subscriptions`` up to date with ``incoming``; to be called inside a transaction.

    Args:
        ledger: the ledger.
        complete: the rows that came are the complete log, so what they lack has vanished.
    """
    execute = ledger.connection.execute
    before = ledger.count("SELECT count(*) FROM subscriptions")
    came = ledger.count("SELECT count(*) FROM incoming")
    absent = ledger.count(f"SELECT count(*) FROM {_ABSENT}")
    if not complete and came < before / 2:
        _add_to_subscriptions(execute)
    else:
        if not complete:
            execute(f"INSERT INTO incoming BY NAME FROM {_ABSENT}")
        execute("DROP TABLE subscriptions")
        execute("ALTER TABLE incoming RENAME TO subscriptions")
    return merged(ledger, "subscriptions", before=before, came=came, absent=absent, complete=complete)


def merged(ledger: Ledger, table: str, *, before: int, came: int, absent: int, complete: bool) -> Merge:
    """Return what a merge did, once the table has the rows that it must have.

    Args:
        ledger: the ledger.
        table: name, quoted, of the table that was brought up to date.
        before: rows before.
        came: rows that came.
        absent: rows before that did not come.
        complete: the rows that came are all there are, so those that did not have vanished.

    Raises:
        RowsLost: it has others.
    """
    after = ledger.count(f"SELECT count(*) FROM {table}")
    check(f"rows of {table} after those that came", found=after, expected=came if complete else came + absent)
    return Merge(before=before, after=after, came=came, vanished=absent if complete else 0)


def _add_to_subscriptions(execute: Callable[[str], object]) -> None:
    """Where few rows came, they go to the many."""
    execute("DELETE FROM subscriptions USING incoming WHERE subscriptions.subscription_id = incoming.subscription_id")
    execute("INSERT INTO subscriptions BY NAME FROM incoming")
    execute("DROP TABLE incoming")


def merge_api(ledger: Ledger, incoming: str, *, complete: bool) -> Merge:
    """Bring ``api_subscriptions`` up to date with the rows that came; to be called inside a transaction.

    Args:
        ledger: the ledger.
        incoming: name, quoted, of the table they came into.
        complete: they are all there are, so what they lack has vanished.
    """
    execute = ledger.connection.execute
    before = ledger.count("SELECT count(*) FROM api_subscriptions")
    came = ledger.count(f"SELECT count(*) FROM {incoming}")
    gone = f"api_subscriptions ANTI JOIN {incoming} USING (subscription_id)"
    absent = ledger.count(f"SELECT count(*) FROM {gone}")
    if not complete:
        execute(f"INSERT INTO {incoming} BY NAME FROM {gone}")
    execute("DROP TABLE api_subscriptions")
    execute(f"ALTER TABLE {incoming} RENAME TO api_subscriptions")
    return merged(ledger, "api_subscriptions", before=before, came=came, absent=absent, complete=complete)


def merge_users(ledger: Ledger, stream: UsersStream, incoming: str, *, complete: bool) -> Merge:
    """Bring the table of a stream of users up to date with the rows that came; to be called inside a transaction.

    Args:
        ledger: the ledger.
        stream: whose rows came.
        incoming: name, quoted, of the table they came into, of which the columns are kept.
        complete: they are all there are, so what they lack has vanished.
    """
    execute = ledger.connection.execute
    key, columns = name(stream.user_id), ledger.columns(stream.table)
    came = ledger.count(f"SELECT count(*) FROM {incoming}")
    before = ledger.count(f"SELECT count(*) FROM {stream.table}") if columns else 0
    absent = 0
    if columns:
        rows = f"{stream.table} ANTI JOIN {incoming} USING ({key})"
        absent = ledger.count(f"SELECT count(*) FROM {rows}")
        if not complete:
            kept = ", ".join(name(one) for one in ledger.columns(incoming) if one in columns)
            execute(f"INSERT INTO {incoming} BY NAME SELECT {kept} FROM {rows}")
        execute(f"DROP TABLE {stream.table}")
    execute(f"ALTER TABLE {incoming} RENAME TO {stream.table}")
    return merged(ledger, stream.table, before=before, came=came, absent=absent, complete=complete)
