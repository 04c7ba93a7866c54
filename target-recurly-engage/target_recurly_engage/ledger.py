"""The ledger: a DuckDB file that says what Piano holds and what Engage was told.

Engage cannot be read back, so nothing else can know. ``docs/ledger.md`` describes the tables for those who query
them. One run at a time holds the file; DuckDB sees to that.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
from piano_engage_common.duck import connect, name
from piano_engage_common.stops import StorageFailed, storage_errors

from target_recurly_engage.traits import SQL_TYPES, TRAITS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SUBSCRIPTION_COLUMNS = ", ".join(
    ["aid VARCHAR", "user_id VARCHAR"]
    + [f"{name(trait.name)} {SQL_TYPES[trait.kind]}" for trait in TRAITS]
    + ["modify_time TIMESTAMP WITH TIME ZONE"]
)

MIGRATIONS: tuple[str, ...] = (
    # 1: the first ledger
    f"""
    CREATE TABLE subscriptions ({_SUBSCRIPTION_COLUMNS});
    CREATE TABLE delivered (
        user_id VARCHAR,
        delivery_id VARCHAR,
        fingerprint UBIGINT,
        {", ".join(f"{name(trait.name)} VARCHAR" for trait in TRAITS)}
    );
    CREATE TABLE runs (
        run_id VARCHAR NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        status VARCHAR NOT NULL,
        summary JSON
    );
    CREATE TABLE deliveries (
        delivery_id VARCHAR NOT NULL,
        run_id VARCHAR NOT NULL,
        channel VARCHAR NOT NULL,
        location VARCHAR NOT NULL,
        status VARCHAR NOT NULL,
        users BIGINT NOT NULL,
        bytes BIGINT,
        sha256 VARCHAR,
        started_at TIMESTAMP WITH TIME ZONE NOT NULL,
        acknowledged_at TIMESTAMP WITH TIME ZONE
    );
    CREATE VIEW delivered_traits AS
        UNPIVOT delivered ON COLUMNS (* EXCLUDE (user_id, delivery_id, fingerprint)) INTO NAME trait VALUE value;
    """,
    # 2: readers that the Ingest API rejected
    """
    CREATE TABLE rejects (
        user_id VARCHAR NOT NULL,
        status INTEGER NOT NULL,
        reason VARCHAR NOT NULL,
        attempts INTEGER NOT NULL,
        first_at TIMESTAMP WITH TIME ZONE NOT NULL,
        last_at TIMESTAMP WITH TIME ZONE NOT NULL,
        next_at TIMESTAMP WITH TIME ZONE NOT NULL
    );
    """,
)
"""What brings a ledger from one version to the next; the version is the number of those that were applied."""

VERSION = len(MIGRATIONS)


class Ledger:
    """An open ledger.

    Args:
        path: the file; it and its folder are made when they do not exist.
        memory_limit: DuckDB's memory.

    Raises:
        StorageFailed: the file cannot be read, is no ledger, belongs to a newer version, or is in use.
    """

    def __init__(self, path: Path, *, memory_limit: str) -> None:
        """Open, and migrate what an older version left."""
        self.path = path
        self.work = path.with_name(f"{path.name}.work")
        with storage_errors(f"making {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.connection = connect(path, spill=self.work / "spill", memory_limit=memory_limit)
        except duckdb.Error as e:
            raise _cannot_open(path, e) from e
        shutil.rmtree(self.work, ignore_errors=True)  # ours alone since the file is open
        try:
            self._migrate()
        except BaseException:
            self.connection.close()
            raise
        self.work.mkdir(exist_ok=True)

    def _migrate(self) -> None:
        execute = self.connection.execute
        tables = {row[0] for row in execute("SELECT table_name FROM information_schema.tables").fetchall()}
        if tables and "ledger" not in tables:
            msg = f"ledger: {self.path} is a DuckDB file, but not a ledger. Choose another path for the ledger."
            raise StorageFailed(msg)
        found = execute("SELECT version FROM ledger").fetchall() if tables else []
        version = int(found[0][0]) if found else 0
        if version > VERSION:
            msg = (
                f"ledger: {self.path} has version {version}, this program knows {VERSION}. "
                "Install the newer target-recurly-engage that made it."
            )
            raise StorageFailed(msg)
        if version < VERSION:
            with self._migrating(version), self.transaction():
                execute("CREATE TABLE IF NOT EXISTS ledger (version INTEGER NOT NULL)")
                for migration in MIGRATIONS[version:]:
                    execute(migration)
                execute("DELETE FROM ledger")
                execute("INSERT INTO ledger VALUES (?)", [VERSION])

    @contextmanager
    def _migrating(self, version: int) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as e:
            msg = (
                f"ledger: {self.path} could not be brought from version {version} to {VERSION}, and is as it was: "
                f"{str(e).splitlines()[0]}. Make room if that is what it lacks; else report this."
            )
            raise StorageFailed(msg) from e

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what happens in the ``with`` block, or nothing."""
        self.connection.begin()
        try:
            yield
            self.connection.commit()
        except BaseException:
            with suppress(duckdb.Error):  # a failed commit has ended the transaction already
                self.connection.rollback()
            raise

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Nothing of what happens in the ``with`` block stays."""
        self.connection.begin()
        try:
            yield
        finally:
            with suppress(duckdb.Error):
                self.connection.rollback()

    def count(self, query: str, *parameters: object) -> int:
        """Answer a query of one number."""
        ((number,),) = self.connection.execute(query, list(parameters)).fetchall()
        return int(number or 0)

    # Runs

    def start_run(self, run_id: str, started_at: datetime) -> None:
        """Note that a run begins; one that a crash ended is noted as such."""
        self.connection.execute("UPDATE runs SET status = 'crashed', finished_at = now() WHERE status = 'running'")
        self.connection.execute(
            "INSERT INTO runs (run_id, started_at, status) VALUES (?, ?, 'running')", [run_id, started_at]
        )

    def discard_open_deliveries(self) -> None:
        """Note of deliveries that a crash left open that nobody knows of them; what is due is sent again."""
        self.connection.execute("UPDATE deliveries SET status = 'discarded' WHERE status IN ('writing', 'written')")
        self.connection.execute("UPDATE deliveries SET status = 'broken off' WHERE status = 'sending'")

    def finish_run(self, run_id: str, status: str, summary: str) -> None:
        """Note how a run ended."""
        self.connection.execute(
            "UPDATE runs SET status = ?, finished_at = ?, summary = ? WHERE run_id = ?",
            [status, datetime.now(tz=UTC), summary, run_id],
        )
        self.connection.execute("DROP TABLE IF EXISTS incoming")

    def close(self) -> None:
        """Close the file and remove what was worked with beside it."""
        self.connection.close()
        shutil.rmtree(self.work, ignore_errors=True)


def _cannot_open(path: Path, error: duckdb.Error) -> StorageFailed:
    complaint = str(error).splitlines()[0]
    if "Conflicting lock" in complaint or "lock on file" in complaint:
        return StorageFailed(f"ledger: {path} is in use by another run. Wait for it, or see who holds it: {complaint}")
    return StorageFailed(
        f"ledger: {path} cannot be opened: {complaint}. Put back a backup of it, or move it away: "
        "without a ledger the next run sends every reader once more, and no wrong value."
    )
