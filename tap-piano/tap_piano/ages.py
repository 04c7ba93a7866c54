"""Which of several exports is the newest, by what they tell; it decides where a row does not tell when it changed.

An export is as new as the second newest of its stamps: one wrong stamp does not decide, and stamps in the future count
for nothing. Of exports alike in that, the later name is the newer, as people count: log-10 after log-9, and a
browser's copy log (1) after log.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name, text

from tap_piano.columns import REPLICATION_KEY

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import duckdb

AGE_COLUMNS: Final = ("modify_time", "last_billing_date", "auto_renew_disablement_date", "create_date")
"""Stamps that are never in the future when an export is made."""

SLACK: Final = timedelta(days=1)
"""What a stamp may lie ahead of our clock: it may be written in another zone than the settings say."""


def age_of_files(columns: Collection[str]) -> str:
    """Return the statements that make the table ``age`` of the rows ``staged``: file, newest, rank.

    Args:
        columns: names of the columns of ``staged``. The files are numbered in the order of their names.
    """
    limit = text((datetime.now(tz=UTC) + SLACK).isoformat())
    stamps = [name(column) for column in AGE_COLUMNS if column in columns]
    believed = [f"CASE WHEN {stamp} <= {limit}::TIMESTAMPTZ THEN {stamp} END" for stamp in stamps]
    newest = f"max(greatest({', '.join(believed)}), 2)[-1]" if stamps else "NULL::TIMESTAMPTZ"
    return (
        "CREATE OR REPLACE TEMP TABLE age AS SELECT *, row_number() OVER (ORDER BY newest NULLS FIRST, file) AS rank "
        f"FROM (SELECT file, {newest} AS newest FROM staged GROUP BY file)"
    )


def undecided(connection: duckdb.DuckDBPyConnection, columns: Collection[str], content: Sequence[str]) -> int:
    """Count the subscriptions of which the name of a file decides which row is the newest, and the rows differ.

    Args:
        connection: holds ``staged`` and ``age``.
        columns: names of the columns of ``staged``.
        content: names of the columns that are delivered.
    """
    ((tied,),) = connection.sql("SELECT count(*) - count(DISTINCT coalesce(newest, '-infinity')) FROM age").fetchall()
    if not tied:
        return 0
    key = name(REPLICATION_KEY) if REPLICATION_KEY in columns else "NULL"
    cells = ", ".join(map(name, content))
    ((subscriptions,),) = connection.sql(f"""
        WITH doubled AS (
            SELECT subscription_id FROM staged WHERE failed IS NULL
            GROUP BY subscription_id HAVING count(DISTINCT file) > 1
        ),
        placed AS (
            SELECT subscription_id, staged.file, hash({cells}) AS content, rank() OVER (
                PARTITION BY subscription_id ORDER BY {key} DESC NULLS LAST, newest DESC NULLS LAST
            ) AS place
            FROM staged SEMI JOIN doubled USING (subscription_id) JOIN age ON age.file = staged.file
            WHERE failed IS NULL
        )
        SELECT count(*) FROM (
            SELECT subscription_id FROM placed WHERE place = 1
            GROUP BY subscription_id HAVING count(DISTINCT file) > 1 AND count(DISTINCT content) > 1
        )
    """).fetchall()
    return int(subscriptions)
