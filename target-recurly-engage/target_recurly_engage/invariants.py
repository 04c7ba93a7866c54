"""What must hold whenever rows are joined: each row that is there is found, once, before its absence clears a trait.

A database that loses rows shows no error; the traits made of a lost row would be cleared. Counts that must be equal say
so. Where they are not, the run stops, its transaction is rolled back, and nothing is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
from piano_engage_common.duck import name
from piano_engage_common.stops import RowsLost

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from target_recurly_engage.desired import Source
    from target_recurly_engage.ledger import Ledger

ROWS = name("rows of the user")
"""Column of a table with a row a user: rows of ``subscriptions`` that it was made of."""


def check(what: str, *, found: int, expected: int) -> None:
    """Stop where *found* rows differ from those that are *expected*.

    Raises:
        RowsLost: they differ.
    """
    if found != expected:
        msg = (
            f"the database lost rows: {what}: {found:,} found, {expected:,} expected. Nothing was sent. Run again; if "
            f"that does not help, report this: it is a fault of DuckDB ({duckdb.__version__} here) or of this program"
        )
        raise RowsLost(msg)


def check_primaries(ledger: Ledger, counts: str) -> tuple[int, int]:
    """Check that ``primaries`` was made of all subscriptions for which *counts*, SQL, holds.

    Returns:
        The number of users, and that of the subscriptions that count.

    Raises:
        RowsLost: it was not.
    """
    query = f"SELECT count(*), sum({ROWS}) FROM primaries"
    ((users, rows),) = ledger.connection.execute(query).fetchall()
    expected = ledger.count(f"SELECT count(*) FROM subscriptions WHERE {counts}")
    check("subscriptions, by user", found=int(rows or 0), expected=expected)
    return int(users), expected


def check_readers(ledger: Ledger, sources: Sequence[Source]) -> None:
    """Check that ``readers`` has each user once, with each row of each of the *sources*, the subscriptions first.

    Raises:
        RowsLost: it has not.
    """
    counts: dict[str, tuple[str, str]] = {}
    for source in sources:
        table = source.table if counts else "primaries"
        counts[f"rows of {source.table}"] = (f"count({source.row})", f"(SELECT count(*) FROM {table})")
        if table == "audience":
            counts["users with segments"] = (f"count({source.row})", "count(*)")
    streams = any(source.of_stream for source in sources)
    counts["users"] = ("count(*)", "count(DISTINCT user_id)" if streams else "(SELECT count(*) FROM primaries)")
    cells = ", ".join(f"[{found}, {expected}]" for found, expected in counts.values())
    (pairs,) = ledger.connection.execute(f"SELECT {cells} FROM readers").fetchall()
    for what, (found, expected) in zip(counts, pairs, strict=True):
        check(what, found=found, expected=expected)


def check_cleared(ledger: Ledger, sources: Iterable[Source], counts: str) -> None:
    """Check that who is to be compared without a row of a source has none there, before that clears a trait.

    Raises:
        RowsLost: a source has a row.
    """
    for i, source in enumerate(sources):
        if not ledger.count(f"SELECT count(*) FROM suspects WHERE {source.row} IS NULL"):
            continue
        without = f"(SELECT user_id AS {source.key} FROM suspects WHERE {source.row} IS NULL)"
        query = f"SELECT count(*) FROM {source.table} SEMI JOIN {without} USING ({source.key})"
        overlooked = ledger.count(query if i else f"{query} WHERE {counts}")
        check(f"users without a row of {source.table} who have one", found=overlooked, expected=0)
