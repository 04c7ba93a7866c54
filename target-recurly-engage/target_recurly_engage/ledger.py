"""The ledger: a DuckDB file that says what Piano holds and what Engage was told.

Engage cannot be read back, so nothing else can know. ``docs/ledger.md`` describes the tables for those who query
them. One run at a time holds the file; DuckDB sees to that.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
from piano_engage_common.duck import connect, file_target, name
from piano_engage_common.stops import StorageFailed, storage_errors

from target_recurly_engage.migrations import MIGRATIONS, VERSION
from target_recurly_engage.traits import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from target_recurly_engage.traits import Trait

MOVED_WORDS = "This ledger was moved to "
"""What a file begins with that stands where a ledger was."""

SMALLEST = 4096
"""Bytes; no database is smaller."""

LOOKERS_SECONDS = 2.0
"""How long to wait for a process that has the file open; one that looks up a reader is done in a moment."""


class Ledger:
    """An open ledger.

    Args:
        path: the file; it and its folder are made when they do not exist.
        memory_limit: DuckDB's memory.
        wait: seconds to wait for another run that has it.

    Attributes:
        shared: others have it as it was until it is given back.
        forgets: something was taken out that older copies of this ledger must not hold either.

    Raises:
        StorageFailed: the file cannot be read, is no ledger, belongs to a newer version, or is in use.
    """

    shared = False
    forgets = False
    _in_trial = False

    def __init__(self, path: Path, *, memory_limit: str, wait: float = 0.0) -> None:
        """Open, and migrate what an older version left."""
        self.path = path
        self.work = path.with_name(f"{path.name}.work")
        with storage_errors(f"making {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _make_empty(path)
            _check_moved(path)
        self.connection = _opened(path, self.work / "spill", memory_limit, wait)
        shutil.rmtree(self.work, ignore_errors=True)  # ours alone since the file is open
        for left in path.parent.glob(f"{path.name}.*.new"):
            left.unlink(missing_ok=True)
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
        if self._in_trial:
            yield
            return
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
        if self._in_trial:
            yield
            return
        self.connection.begin()
        self._in_trial = True
        try:
            yield
        finally:
            self._in_trial = False
            with suppress(duckdb.Error):
                self.connection.rollback()

    def count(self, query: str, *parameters: object) -> int:
        """Answer a query of one number."""
        ((number,),) = self.connection.execute(query, list(parameters)).fetchall()
        return int(number or 0)

    # Traits

    def columns(self, table: str) -> list[str]:
        """List the columns of a table, of which the name is given quoted or plain; none when there is no such table."""
        plain = table[1:-1].replace('""', '"') if table.startswith('"') else table
        if not self.count("SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", plain):
            return []
        query = "SELECT name FROM pragma_table_info(?) ORDER BY cid"  # duckdb_columns() takes its time
        return [column for (column,) in self.connection.execute(query, [name(plain)]).fetchall()]

    def tables(self) -> list[str]:
        """List the tables."""
        query = "SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary"
        return [table for (table,) in self.connection.execute(query).fetchall()]

    def kinds(self) -> dict[str, Kind]:
        """Give the type of each trait that Engage was told of."""
        return {
            trait: Kind(kind) for trait, kind in self.connection.execute("SELECT trait, kind FROM traits").fetchall()
        }

    def note_kinds(self, traits: Iterable[Trait], now: str) -> None:
        """Keep the types of *traits*, and when there was first one of that name."""
        known = {
            trait: (kind, stream)
            for trait, kind, stream in self.connection.execute("SELECT trait, kind, stream FROM traits").fetchall()
        }
        for trait in traits:
            if trait.name not in known:
                self.connection.execute(
                    "INSERT INTO traits (trait, kind, stream, first_at) VALUES (?, ?, ?, ?)",
                    [trait.name, str(trait.kind), trait.stream, now],
                )
            elif known[trait.name] != (trait.kind, trait.stream):
                self.connection.execute(
                    "UPDATE traits SET kind = ?, stream = ? WHERE trait = ?",
                    [str(trait.kind), trait.stream, trait.name],
                )

    # Runs

    def start_run(self, run_id: str, started_at: datetime) -> None:
        """Note that a run begins; one that a crash ended is noted as such."""
        self.connection.execute("UPDATE runs SET status = 'crashed', finished_at = now() WHERE status = 'running'")
        self.connection.execute(
            "INSERT INTO runs (run_id, started_at, status) VALUES (?, ?, 'running')", [run_id, started_at]
        )

    def accept(self, fingerprint: str, run_id: str) -> None:
        """Note that a plan that the brake held is let through; for once, but until all of it is delivered."""
        self.close_accepted(but=fingerprint)
        if not self.count("SELECT count(*) FROM accepted WHERE fingerprint = ? AND finished_at IS NULL", fingerprint):
            self.connection.execute(
                "INSERT INTO accepted (fingerprint, run_id, accepted_at) VALUES (?, ?, now())", [fingerprint, run_id]
            )

    def close_accepted(self, *, but: str = "") -> None:
        """Note that what was let through is delivered, or overtaken by another plan."""
        self.connection.execute(
            "UPDATE accepted SET finished_at = now() WHERE finished_at IS NULL AND fingerprint <> ?", [but]
        )

    def used_up(self, fingerprint: str | None) -> str | None:
        """Say when a plan of that fingerprint was let through and delivered; None when it was not."""
        query = "SELECT max(finished_at)::VARCHAR FROM accepted WHERE fingerprint = ?"
        ((when,),) = self.connection.execute(query, [fingerprint]).fetchall()
        return None if when is None else str(when)

    def finish_run(self, run_id: str, status: str, summary: str) -> None:
        """Note how a run ended."""
        self.connection.execute(
            "UPDATE runs SET status = ?, finished_at = ?, summary = ? WHERE run_id = ?",
            [status, datetime.now(tz=UTC), summary, run_id],
        )
        for table in self.tables():
            if table == "incoming" or table.startswith("incoming_"):
                self.connection.execute(f"DROP TABLE {name(table)}")

    def close_afresh(self, *changes: tuple[str, list[object]]) -> None:
        """Close the file as a copy of itself that holds no byte of a row that was deleted.

        DuckDB leaves the bytes of deleted rows where they are until it needs the room. The copy takes the file's place
        at once or not at all.

        Args:
            changes: statements, with parameters, that are executed in the copy only, which is called
                ``"fresh copy"`` there.

        Raises:
            StorageFailed: there is no room for a copy; the file is as it was.
        """
        path = self.path.resolve()
        fresh, fresh_name = path.with_name(f"{path.name}.fresh"), name("fresh copy")  # no file's name looks like that
        execute = self.connection.execute
        with storage_errors(f"writing {fresh}"):
            for left in (fresh, fresh.with_name(f"{fresh.name}.wal")):
                left.unlink(missing_ok=True)
            execute("CHECKPOINT")
            ((current,),) = execute("SELECT current_database()").fetchall()
            execute(f"ATTACH {file_target(fresh)} AS {fresh_name}")
            execute(f"COPY FROM DATABASE {name(current)} TO {fresh_name}")
            for statement, parameters in changes:
                execute(statement, parameters)
            execute(f"DETACH {fresh_name}")
            shutil.copymode(path, fresh)
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.replace(path)  # while the old file is still held, so that nobody writes into it meanwhile
        self.close()

    def close(self) -> None:
        """Close the file and remove what was worked with beside it."""
        self.connection.close()
        shutil.rmtree(self.work, ignore_errors=True)

    # What a ledger on shared storage needs (target_recurly_engage.shared); a local one is simply there

    def announce(self, delivery_id: str) -> None:
        """Note, where a run that takes up this one will look, that the table ``plan`` is about to be sent.

        Args:
            delivery_id: of the delivery, which stands in the table ``deliveries``.

        Raises:
            RunStopped: that cannot be noted, so nothing may be sent.
        """

    def hold(self) -> None:
        """Make sure, before something is sent, that the ledger is still ours.

        Raises:
            Outage: it is not, or nobody can tell.
        """

    def give_back(self, *, passing: bool = False) -> None:
        """Let others have the ledger as it is now; it must be closed. Once is enough.

        Args:
            passing: a run failed or was for show, so among earlier states this one is none to go back to.

        Raises:
            RunStopped: they do not have it.
        """


def _make_empty(path: Path) -> None:
    """Let a database appear whole: of one that was killed while it was made nobody could tell that nothing is lost."""
    made = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
    try:
        connect(made).close()
        try:
            path.hardlink_to(made)
        except FileExistsError:  # another run was faster
            return
        except OSError:  # no disk for links
            made.rename(path)
    finally:
        made.unlink(missing_ok=True)


def _check_moved(path: Path) -> None:
    """Find out whether the ledger was moved away.

    Raises:
        StorageFailed: it was.
    """
    if path.stat().st_size < SMALLEST and (said := path.read_bytes()).startswith(MOVED_WORDS.encode()):
        to = said.decode().removeprefix(MOVED_WORDS).strip()
        msg = f"ledger: {path} was moved to {to}. Set the setting `ledger` to that."
        raise StorageFailed(msg)


def _opened(path: Path, spill: Path, memory_limit: str, wait: float) -> duckdb.DuckDBPyConnection:
    """Open the file; whoever only looks into it is gone in a moment, and a run that has it after a while."""
    deadline = time.monotonic() + max(LOOKERS_SECONDS, wait)
    while True:
        try:
            return connect(path, spill=spill, memory_limit=memory_limit)
        except duckdb.Error as e:
            if not in_use(e) or time.monotonic() > deadline:
                raise _cannot_open(path, e) from e
            time.sleep(LOOKERS_SECONDS / 40)


def in_use(error: duckdb.Error) -> bool:
    """Whether a file could not be opened because another process has it open."""
    complaint = str(error).splitlines()[0]
    return "Conflicting lock" in complaint or "lock on file" in complaint


def in_use_by_another(stop: StorageFailed) -> bool:
    """Whether a ledger could not be opened because another process has it open."""
    return isinstance(stop.__cause__, duckdb.Error) and in_use(stop.__cause__)


def _cannot_open(path: Path, error: duckdb.Error) -> StorageFailed:
    complaint = str(error).splitlines()[0]
    if in_use(error):
        return StorageFailed(f"ledger: {path} is in use by another run. Wait for it, or see who holds it: {complaint}")
    return StorageFailed(
        f"ledger: {path} cannot be opened: {complaint}. Put back a backup of it, or move it away: "
        "without a ledger the next run sends every reader once more, and no wrong value."
    )
