"""A clock that was ahead when the ledger was written: its moments count as now, or readers would wait for them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from target_recurly_engage.destinations import everywhere

if TYPE_CHECKING:
    import logging
    from datetime import datetime

    from target_recurly_engage.ledger import Ledger

CLOCKS_DIFFER: Final = timedelta(minutes=1)
"""A clock that is set goes back by less, and nobody need know."""

_MOMENTS_AHEAD = (
    """
    UPDATE runs SET started_at = $now, finished_at = CASE WHEN finished_at IS NOT NULL THEN $now END
    WHERE started_at > $now
    """,
    """
    UPDATE deliveries SET
        started_at = least(started_at, $now),
        acknowledged_at = CASE WHEN acknowledged_at > $now THEN $now ELSE acknowledged_at END
    """,
    """
    UPDATE rejects SET
        next_at = CASE WHEN isfinite(next_at) THEN next_at - (last_at - $now) ELSE next_at END,
        last_at = $now,
        first_at = least(first_at, $now)
    WHERE last_at > $now
    """,
    *(f"UPDATE {table} SET first_at = $now WHERE first_at > $now" for table in ("traits", "invalid", "assignments")),
    "UPDATE measures SET measured_at = $now WHERE measured_at > $now",
)
"""What brings moments after ``$now`` back to it."""

_FILES_AHEAD = """
    INSERT INTO overtaken
    SELECT user_id, unnest([acknowledged_at + $longest, $now + $longest])
    FROM delivered JOIN deliveries USING (delivery_id) WHERE channel = 's3' AND acknowledged_at > $now
    UNION SELECT user_id, $now + $longest FROM overtaken WHERE after > $now + $longest
"""
"""What has readers told again when a file counts as read by the clock as it was, and by the clock as it is: nobody can
tell which of them is right."""


def look_at_the_clock(ledger: Ledger, now: datetime, longest: timedelta, logger: logging.Logger) -> None:
    """Say that the clock went back since the last run, and have nobody wait for the moment it told then."""
    ahead = mend_moments(ledger, now, longest)
    if ahead > CLOCKS_DIFFER:
        logger.warning(
            "the ledger was written %s later than now by this machine's clock, which was wrong then or is now; "
            "its moments count as now. If it is wrong now, dates are judged by it: set it, and run again",
            timedelta(seconds=round(ahead.total_seconds())),
        )


def mend_moments(ledger: Ledger, now: datetime, longest: timedelta) -> timedelta:
    """Bring back to *now* what was noted while the clock was ahead; else readers wait until it is there again.

    Args:
        ledger: holds those moments.
        now: the moment by the clock as it is.
        longest: the longest that a reader waits for a file to be read.

    Returns:
        How far the clock was ahead; nothing if it was not.
    """
    ((latest,),) = ledger.connection.execute(
        "SELECT greatest((SELECT max(started_at) FROM runs), (SELECT max(acknowledged_at) FROM deliveries), "
        "(SELECT max(last_at) FROM rejects))"
    ).fetchall()
    if latest is None or latest <= now:
        return timedelta(0)
    with ledger.transaction():
        for _ in everywhere(ledger) if longest else ():
            ledger.connection.execute(_FILES_AHEAD, {"now": now, "longest": longest})
        for _ in everywhere(ledger):
            for sql in _MOMENTS_AHEAD:
                ledger.connection.execute(sql, {"now": now})
    ahead: timedelta = latest - now
    return ahead
