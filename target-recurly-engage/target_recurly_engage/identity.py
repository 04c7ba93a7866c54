"""Compare the subscriptions that came with those that the ledger holds, before they are merged.

A subscription keeps its user, its creation and its start. Where they change for many, columns of the export were joined
or sorted apart. A subscription that was created long ago and is unknown all the same belongs to another application, or
its ids are written in another way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from piano_engage_common.duck import name, text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from target_recurly_engage.ledger import Ledger

_QUARTER: Final = 900_000_000
"""Microseconds in the smallest distance of two time zones; exports differ by less where some leave out seconds."""
_LATE_DAYS: Final = 7
"""A subscription may reach an export some days after it was created."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The subscriptions that came, compared with the known ones.

    Attributes:
        came: subscriptions that came.
        known: of these, subscriptions that the ledger holds.
        moved: of the known, those with another user.
        created: of the known, those that were created at another moment.
        started: of the known, those that start at another moment.
        emptied: of the known, those that lose the value of a property, by property.
        renamed: of the others, those whose user and creation are those of a known subscription with another id.
        late: of the others, those that were created before the newest change that the ledger knew.
        foreign: of the others, those whose term and resource are unknown as well.
        foreign_late: those that are both.
    """

    came: int
    known: int = 0
    moved: int = 0
    created: int = 0
    started: int = 0
    emptied: dict[str, int] = field(default_factory=dict)
    renamed: int = 0
    late: int = 0
    foreign: int = 0
    foreign_late: int = 0


def compare_arrival(ledger: Ledger, *, filled: Iterable[str], newest: datetime | None, least: int) -> Arrival:
    """Compare ``incoming`` with ``subscriptions``.

    Args:
        ledger: the ledger, with the rows that came.
        filled: properties that nearly every known subscription has.
        newest: the newest change that the ledger knew.
        least: as many unknown subscriptions are worth a closer look.
    """
    came = ledger.count("SELECT count(*) FROM incoming")
    properties = list(filled)
    emptied = (f", count_if(known.{name(one)} IS NOT NULL AND new.{name(one)} IS NULL)" for one in properties)
    query = f"""
        SELECT count(*), count_if(known.user_id <> new.user_id), count_if({_differs("create_date")}),
            count_if({_differs("start_date")}){"".join(emptied)}
        FROM incoming AS new JOIN subscriptions AS known USING (subscription_id)
    """
    (counts,) = ledger.connection.execute(query).fetchall()
    known, moved, created, started, *lost = (count or 0 for count in counts)  # of no rows count_if() makes NULL
    unknown = _compare_unknown(ledger, newest) if came - known >= least else (0, 0, 0, 0)
    renamed, late, foreign, foreign_late = unknown
    return Arrival(
        came=came,
        known=known,
        moved=moved,
        created=created,
        started=started,
        emptied=dict(zip(properties, lost, strict=True)),
        renamed=renamed,
        late=late,
        foreign=foreign,
        foreign_late=foreign_late,
    )


def _differs(column: str) -> str:
    """Return the SQL that says whether a moment of a known subscription is another one."""
    return f"abs(epoch_us(known.{column}) - epoch_us(new.{column})) >= {_QUARTER}"


def _compare_unknown(ledger: Ledger, newest: datetime | None) -> tuple[int, int, int, int]:
    """Count the unknown subscriptions that are renamed, late, foreign, and both of the last two."""
    created = "date_trunc('minute', coalesce({0}.create_date, {0}.start_date))"
    late = "false"
    if newest is not None:
        late = f"new.create_date < {text(newest.isoformat())}::TIMESTAMPTZ - INTERVAL {_LATE_DAYS} DAY"
    foreign = " AND ".join(
        f"coalesce(new.{one} NOT IN (SELECT DISTINCT {one} FROM subscriptions WHERE {one} IS NOT NULL), true)"
        for one in ("term_id", "resource_id")
    )
    query = f"""
        WITH new AS (
            SELECT user_id, create_date, start_date, term_id, resource_id
            FROM incoming ANTI JOIN subscriptions USING (subscription_id)
        ), known AS (
            SELECT DISTINCT user_id, {created.format("subscriptions")} AS created
            FROM subscriptions SEMI JOIN new USING (user_id)
        ), judged AS (
            SELECT known.user_id IS NOT NULL AS renamed, coalesce({late}, false) AS late,
                coalesce(new.term_id, new.resource_id) IS NOT NULL AND {foreign} AS foreign_row
            FROM new LEFT JOIN known ON known.user_id = new.user_id AND known.created = {created.format("new")}
        )
        SELECT count_if(renamed), count_if(late AND NOT renamed), count_if(foreign_row),
            count_if(foreign_row AND late)
        FROM judged
    """
    ((renamed, late_rows, foreign_rows, both),) = ledger.connection.execute(query).fetchall()
    return renamed or 0, late_rows or 0, foreign_rows or 0, both or 0
