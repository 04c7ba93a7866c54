"""Whether an export is as large as the last complete one, so that a bookmark passes nothing that is missing in it.

A bookmark leaves out what changed before it, for the run before has sent that. This is true only if the export of that
run was complete. So the stream's bookmark keeps, under :data:`KEY`, how large the last complete export was:

``rows``
    its subscriptions;
``before``, ``settled``
    a moment just before its newest change, and how many of its subscriptions changed before that.

A later export can hold no more subscriptions than ``settled`` that changed before that moment: those that it holds
beyond were missing, so all rows are sent. An export with far fewer subscriptions than ``rows`` is cut off or filtered,
so the bookmark stays; unless most of them are newer than ``before``, as in an export of changes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text

from tap_piano.columns import REPLICATION_KEY
from tap_piano.emit import iso_8601

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    import duckdb

KEY: Final = "export_size"
MIN_REPEATED: Final = 0.01
"""A file of which less than this share is repeated unchanged in newer files is no export of the same subscriptions."""


@dataclass(frozen=True, slots=True)
class ExportSize:
    """How large an export is.

    Attributes:
        rows: its subscriptions.
        before: a moment just before its newest change that is not in the future, as ISO 8601; None without one.
        settled: subscriptions that changed before that.
        known: subscriptions that changed before the moment of the last complete export; None without one.
    """

    rows: int
    before: str | None
    settled: int
    known: int | None

    def as_state(self) -> dict[str, Any]:
        """Return what a later run needs."""
        return {"rows": self.rows, "before": self.before, "settled": self.settled}

    def is_shrunken(self, last: Mapping[str, Any], min_share: float) -> bool:
        """Say whether the export is far smaller than the last complete one, and not one of changes alone."""
        changes_alone = self.known is not None and 2 * self.known < self.rows
        return self.rows < min_share * last["rows"] and not changes_alone

    def has_more_than(self, last: Mapping[str, Any]) -> bool:
        """Say whether it holds subscriptions that the last one should have held and did not."""
        return self.known is not None and self.known > last["settled"]


def last_size(bookmark: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return from a bookmark how large the last complete export was; None where it does not tell."""
    last = bookmark.get(KEY)
    if not isinstance(last, dict):
        return None
    whole = isinstance(last.get("rows"), int) and isinstance(last.get("settled"), int) and "before" in last
    return last if whole else None


def measure(
    relation: duckdb.DuckDBPyRelation, last: Mapping[str, Any] | None, *, until: datetime, lookback: timedelta
) -> ExportSize:
    """Count the subscriptions of an export.

    Args:
        relation: its good rows, one a subscription.
        last: how large the last complete export was.
        until: later stamps are in the future.
        lookback: changes may come late by so much.
    """
    key = name(REPLICATION_KEY)
    known = "NULL"
    if last is not None and last["before"] is not None:
        known = f"count_if({key} < {text(last['before'])}::TIMESTAMPTZ)"
    newest = f"max({key}) FILTER ({key} <= {text(until.isoformat())}::TIMESTAMPTZ)"
    before = f"({newest}) - INTERVAL '{int(lookback.total_seconds())} seconds'"
    ((rows, known_rows, moment),) = relation.aggregate(f"count(*), {known}, {iso_8601(before)}").fetchall()
    if moment is None:
        return ExportSize(int(rows), None, 0, known_rows)
    ((settled,),) = relation.aggregate(f"count_if({key} < {text(moment)}::TIMESTAMPTZ)").fetchall()
    return ExportSize(int(rows), str(moment), int(settled), known_rows)


def end_of_a_repeated_file(connection: duckdb.DuckDBPyConnection, *, min_share: float, until: datetime) -> str | None:
    """Return the newest change of the oldest file that newer ones repeat in part only, as ISO 8601; None without one.

    In a folder of full exports, each is repeated by the next. Where much of one is not, the next one is cut off, and
    of what it lacks nothing is known that is newer. Parts of one export repeat nothing, and changes nothing unchanged.

    Args:
        connection: holds ``staged`` and ``left_out``.
        min_share: how much of a file has to be repeated.
        until: later stamps are in the future.
    """
    key = name(REPLICATION_KEY)
    ((newest,),) = connection.sql(f"""
        WITH kept AS (SELECT subscription_id, {key} AS modified FROM staged ANTI JOIN left_out USING (file, row)),
        files AS (
            SELECT staged.file, count(*) AS rows, count_if(left_out.file IS NULL) AS alone,
                count_if(left_out.file IS NOT NULL AND kept.modified = staged.{key}) AS repeated,
                max(staged.{key}) FILTER (staged.{key} <= {text(until.isoformat())}::TIMESTAMPTZ) AS newest
            FROM staged LEFT JOIN left_out USING (file, row) LEFT JOIN kept USING (subscription_id)
            WHERE staged.failed IS NULL GROUP BY staged.file
        )
        SELECT {iso_8601("min(newest)")} FROM files
        WHERE repeated > {MIN_REPEATED} * rows AND alone > (1 - {min_share}) * rows
    """).fetchall()
    return None if newest is None else str(newest)
