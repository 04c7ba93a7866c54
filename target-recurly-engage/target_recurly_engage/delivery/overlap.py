"""A file that Engage may not have read yet: what is sent in between could be overtaken by it.

Engage reads its folder within hours (fact sheet of Engage, section 2: three), and documents no order between a file and
writes by the API, nor between two files. So for some hours the users in a file are in flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from target_recurly_engage.ledger import Ledger

S3: Final = "s3"


@dataclass(frozen=True, slots=True)
class Overlap:
    """What becomes of a change of a reader who is in flight.

    Attributes:
        hours: until a file counts as read.
        again: the change is sent at once, and all of the reader once more when the file has been read; otherwise it
            waits until then.
    """

    hours: float
    again: bool

    def mark(self, ledger: Ledger, now: datetime) -> int:
        """Make the temporary table ``in_flight`` of readers whose file may not have been read, and until when.

        Returns:
            How many there are.
        """
        ledger.connection.execute(
            """
            CREATE OR REPLACE TEMP TABLE in_flight AS
            SELECT user_id, max(acknowledged_at + ?) AS until FROM delivered JOIN deliveries USING (delivery_id)
            WHERE channel = ? AND acknowledged_at > ? GROUP BY user_id
            """,
            [timedelta(hours=self.hours), S3, now - timedelta(hours=self.hours)],
        )
        return ledger.count("SELECT count(*) FROM in_flight")

    def hold_back(self, ledger: Ledger, now: datetime) -> tuple[int, str | None]:
        """Take out of the table ``plan``, for a file, the users who must wait for another file; within a transaction.

        Of two unread files nobody knows which is read last. So a user is in one of them only, or has the same values in
        both, as after `recurly-engage resend`. What was in a file that is in doubt is not known.

        Returns:
            The number of users who wait, and until when the last of them does.
        """
        if not self.mark(ledger, now) or self.again:
            return 0, None
        execute = ledger.connection.execute
        columns = [column for column in ledger.columns("plan") if column not in {"delivery_id", "fingerprint"}]
        same = " AND ".join(f"plan.{one} IS NOT DISTINCT FROM delivered.{one}" for one in map(name, columns))
        execute(f"""
            CREATE OR REPLACE TEMP TABLE waiting AS SELECT user_id, in_flight.until FROM plan
            JOIN in_flight USING (user_id) JOIN delivered USING (user_id)
            LEFT JOIN deliveries ON deliveries.delivery_id = delivered.delivery_id
            WHERE deliveries.status = 'in doubt' OR NOT ({same})
        """)
        ((users, until),) = execute("SELECT count(*), max(until)::VARCHAR FROM waiting").fetchall()
        execute("DELETE FROM plan WHERE user_id IN (SELECT user_id FROM waiting)")
        for table in ("waiting", "in_flight"):  # whoever is sent now needs not be sent again
            execute(f"DROP TABLE {table}")
        return int(users), until


def overlap_of(config: Mapping[str, Any]) -> Overlap:
    """Read the target's settings."""
    return Overlap(float(config["csv_ingest_hours"]), again=config["csv_overlap"] == "again")


def note_told(ledger: Ledger, told: str, now: datetime) -> None:
    """Note that the readers in the table *told* have been told; to be called inside a transaction.

    Who was to be told again is done with, who is in flight is to be told again.
    """
    execute = ledger.connection.execute
    execute(f"DELETE FROM overtaken USING {told} AS told WHERE overtaken.user_id = told.user_id AND after <= ?", [now])
    if ledger.count("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'in_flight'"):
        execute(f"INSERT INTO overtaken SELECT user_id, until FROM in_flight SEMI JOIN {told} USING (user_id)")
