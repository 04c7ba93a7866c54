"""Deliveries whose outcome nobody knows: their users are sent in full once, whatever Engage holds of them.

What is about to be sent stands in the table ``plan`` before the first request leaves, and on shared storage beside the
ledger as well. A user counts as unknown where an answer was lost, and where a run was broken off before it noted what
became of the user. The table ``overtaken`` has such users sent in full until Engage acknowledges them; ``delivered``
keeps what was acknowledged last, and beside it what may have been sent for the first time, so that it can be cleared.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import file_source, file_target, name, text

from target_recurly_engage.delivery.overlap import S3
from target_recurly_engage.destinations import CURRENT, Destination, remember, serving
from target_recurly_engage.plan import OF_DELIVERIES

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from target_recurly_engage.ledger import Ledger

IN_DOUBT: Final = "in doubt"
"""Status of a delivery of which nobody knows whether it arrived; one of requests is broken off."""

BROKEN_OFF: Final = "broken off"

Sending = dict[str, Any]
"""What is being sent, as ``current.json`` has it: delivery_id, run_id, channel, location, users, at, destination (its
addresses)."""


def settle_open(ledger: Ledger, logger: logging.Logger) -> None:
    """Take the users of all deliveries that a run left open, and did not acknowledge, as unknown."""
    execute = ledger.connection.execute
    execute("UPDATE deliveries SET status = 'discarded' WHERE status = 'writing'")  # its file never appeared
    opened = "SELECT delivery_id, channel FROM deliveries WHERE status IN ('complete', 'sending')"
    for delivery_id, channel in execute(opened).fetchall():
        settle_unknown(ledger, logger, delivery_id, unread=channel == S3)


def settle_unknown(ledger: Ledger, logger: logging.Logger, delivery_id: str, *, unread: bool) -> None:
    """Take the users of an open delivery who are not acknowledged as unknown.

    Args:
        ledger: its table ``plan`` holds the users of the delivery.
        logger: for a line about it.
        delivery_id: the delivery.
        unread: its file may lie in Engage's folder without being read.
    """
    execute = ledger.connection.execute
    with ledger.transaction():
        users = take_as_unknown(ledger, _unsettled(ledger, delivery_id), unread=unread)
        execute(
            "UPDATE deliveries SET status = CASE status WHEN 'sending' THEN ? ELSE ? END WHERE delivery_id = ?",
            [BROKEN_OFF, IN_DOUBT, delivery_id],
        )
    if users:
        ((run_id,),) = execute("SELECT run_id FROM deliveries WHERE delivery_id = ?", [delivery_id]).fetchall()
        logger.warning(
            "run %s was broken off while it sent; whether Engage took %d user(s) is not known, so they are sent in "
            "full once",
            run_id,
            users,
        )


def _unsettled(ledger: Ledger, delivery_id: str) -> str:
    """Build the SQL of the rows of the plan that a delivery left open neither acknowledged nor knows as rejected."""
    if not ledger.columns("plan"):
        return "FROM delivered WHERE false"
    acknowledged = f"SELECT user_id FROM delivered WHERE delivery_id = {text(delivery_id)}"
    return f"FROM plan WHERE delivery_id = {text(delivery_id)} AND user_id NOT IN ({acknowledged})"


def take_as_unknown(ledger: Ledger, rows: str, *, unread: bool = False) -> int:
    """Record that nobody knows what Engage holds of some users; to be called inside a transaction.

    Args:
        ledger: the ledger.
        rows: SQL of what may have been sent, rows like those of the table ``plan``; of one delivery, which the table
            ``deliveries`` has.
        unread: a file with these users may lie in Engage's folder from now on, without being read.

    Returns:
        The number of users.
    """
    execute = ledger.connection.execute
    execute(f"CREATE OR REPLACE TEMP TABLE doubtful AS {rows}")
    ((users, delivery_id),) = execute("SELECT count(*), any_value(delivery_id) FROM doubtful").fetchall()
    if users:
        _keep_possible_values(ledger)
        execute(
            "INSERT INTO overtaken SELECT user_id, started_at FROM doubtful CROSS JOIN "
            "(SELECT started_at FROM deliveries WHERE delivery_id = ?) "
            "WHERE user_id NOT IN (SELECT user_id FROM overtaken WHERE after <= started_at)",
            [delivery_id],
        )
    if users and unread:
        execute(
            "UPDATE delivered SET delivery_id = ? FROM doubtful WHERE delivered.user_id = doubtful.user_id",
            [delivery_id],
        )
        execute("UPDATE deliveries SET acknowledged_at = ? WHERE delivery_id = ?", [datetime.now(tz=UTC), delivery_id])
    execute("DROP TABLE doubtful")
    return int(users)


def _keep_possible_values(ledger: Ledger) -> None:
    """Add to ``delivered`` what Engage may hold now and never acknowledged: new users, and traits that are new."""
    execute = ledger.connection.execute
    columns = [column for column in ledger.columns("doubtful") if column not in OF_DELIVERIES]
    for column in columns:
        execute(f"ALTER TABLE delivered ADD COLUMN IF NOT EXISTS {name(column)} VARCHAR")
    first = " OR ".join(f"(old.{one} IS NULL AND doubtful.{one} IS NOT NULL)" for one in map(name, columns))
    if first:
        values = ", ".join(f"{one} = coalesce(delivered.{one}, doubtful.{one})" for one in map(name, columns))
        execute(
            f"UPDATE delivered SET {values} FROM (SELECT doubtful.* FROM doubtful JOIN delivered AS old "
            f"USING (user_id) WHERE {first}) AS doubtful WHERE delivered.user_id = doubtful.user_id"
        )
    execute(
        "INSERT INTO delivered BY NAME SELECT * REPLACE (NULL::UBIGINT AS fingerprint) "
        "FROM doubtful ANTI JOIN delivered USING (user_id)"
    )


# On shared storage


def write_plan(ledger: Ledger, path: Path) -> int:
    """Write the table ``plan`` into a Parquet file, and return how many users it has."""
    ledger.connection.execute(f"COPY (FROM plan) TO {file_target(path)} (FORMAT parquet)")
    return ledger.count("SELECT count(*) FROM plan")


def is_known(ledger: Ledger, sending: Sending) -> bool:
    """Return whether the ledger knows of a delivery: it was made with this very copy, or is in doubt already."""
    return ledger.count("SELECT count(*) FROM deliveries WHERE delivery_id = ?", sending["delivery_id"]) > 0


def take_lost_plan(ledger: Ledger, sending: Sending, path: Path) -> int:
    """Take the users of a plan, of whose delivery another machine has the only record, as unknown; return how many."""
    with ledger.transaction(), serving(ledger, _destination(ledger, sending)):
        ledger.connection.execute(
            "INSERT INTO deliveries (delivery_id, run_id, channel, location, status, users, started_at, destination) "
            f"VALUES (?, ?, ?, ?, ?, ?, ?, {CURRENT})",
            [sending["delivery_id"], sending["run_id"], sending["channel"], sending["location"], IN_DOUBT,
             sending["users"], sending["at"]],
        )  # fmt: skip
        rows = f"FROM read_parquet({file_source(path)})"
        return take_as_unknown(ledger, rows, unread=sending["channel"] == S3)


def _destination(ledger: Ledger, sending: Sending) -> int | None:
    """Return the number of the destination that a plan went to, which need not be the current one."""
    addresses = sending.get("destination")
    return remember(ledger, Destination(**addresses)) if addresses else None
