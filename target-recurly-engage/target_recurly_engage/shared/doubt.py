"""What a run was about to send when it was last heard of: nobody can tell which of it Engage took.

Before anything is sent, the plan is put beside the ledger. The run that returns the ledger takes it away. Where a run
cannot, the next one finds it: what Engage holds of these readers is not known, so they are told in full.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import file_source, file_target, name, text

if TYPE_CHECKING:
    from pathlib import Path

    from target_recurly_engage.ledger import Ledger

STATUS: Final = "in doubt"
UNKNOWN: Final = ""
"""Stands in ``delivered`` for a value that nobody knows: nothing that is sent is blank, so it always differs."""

Sending = dict[str, Any]
"""What is being sent, as ``current.json`` has it: delivery_id, run_id, channel, location, users, at."""


def write_plan(ledger: Ledger, path: Path) -> int:
    """Write the table ``plan`` into a Parquet file, and answer how many readers it has."""
    ledger.connection.execute(f"COPY (FROM plan) TO {file_target(path)} (FORMAT parquet)")
    return ledger.count("SELECT count(*) FROM plan")


def is_known(ledger: Ledger, sending: Sending) -> bool:
    """Whether the ledger knows of a delivery: it was made with this very copy, or is in doubt already."""
    return ledger.count("SELECT count(*) FROM deliveries WHERE delivery_id = ?", sending["delivery_id"]) > 0


def take_as_unknown(ledger: Ledger, sending: Sending, path: Path) -> int:
    """Let nothing be known of the readers of a plan, as far as it had a value; answer how many these are.

    They count as told now: a file may have reached Engage's folder until then.
    """
    execute, now = ledger.connection.execute, datetime.now(tz=UTC)
    with ledger.transaction():
        execute(f"CREATE OR REPLACE TEMP TABLE doubtful AS FROM read_parquet({file_source(path)})")
        columns = [column for column in ledger.columns("doubtful") if column not in _OURS]
        for column in columns:
            execute(f"ALTER TABLE delivered ADD COLUMN IF NOT EXISTS {name(column)} VARCHAR")
        execute(
            "INSERT INTO deliveries "
            "(delivery_id, run_id, channel, location, status, users, started_at, acknowledged_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [sending["delivery_id"], sending["run_id"], sending["channel"], sending["location"], STATUS,
             sending["users"], sending["at"], now],
        )  # fmt: skip
        execute("INSERT INTO delivered (user_id) SELECT user_id FROM doubtful ANTI JOIN delivered USING (user_id)")
        values = ", ".join(
            f"{one} = CASE WHEN doubtful.{one} IS NOT NULL THEN {text(UNKNOWN)} ELSE delivered.{one} END"
            for one in map(name, columns)
        )
        execute(
            f"UPDATE delivered SET delivery_id = ?, fingerprint = NULL{', ' if values else ''}{values} "
            "FROM doubtful WHERE delivered.user_id = doubtful.user_id",
            [sending["delivery_id"]],
        )
        users = ledger.count("SELECT count(*) FROM doubtful")
        execute("DROP TABLE doubtful")
    return users


_OURS: Final = frozenset({"user_id", "delivery_id", "fingerprint"})
