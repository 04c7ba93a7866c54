"""Copies of a ledger: backup, move, compact; wherever it lives. What is put back is the subject of `restore.py`.

A copy is made anew from the tables, so it is whole, holds no byte of a row that was deleted, and is counted before it
counts as one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import file_target, name, text
from piano_engage_common.stops import ConfigRefused, NoInput, StorageFailed, storage_errors

from target_recurly_engage.destinations import move_folders
from target_recurly_engage.ledger import MOVED_WORDS
from target_recurly_engage.shared.custody import Custody
from target_recurly_engage.shared.ledger import SharedLedger, open_for_writing
from target_recurly_engage.shared.place import is_shared
from target_recurly_engage.shared.snapshots import Snapshots, exists, none_yet, open_for_reading

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    import duckdb

    from target_recurly_engage.ledger import Ledger

_COPY: Final = name("copy of the ledger")  # no file's name looks like that


def counts_of(connection: duckdb.DuckDBPyConnection, database: str | None = None) -> dict[str, int]:
    """Count the rows of each table; *database* is the one that is asked, quoted."""
    execute, of = connection.execute, f"{database}." if database else ""
    where = text((database or "")[1:-1]) if database else "current_database()"
    tables = execute(
        f"SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary AND database_name = {where} "
        "ORDER BY table_name"
    ).fetchall()
    return {table: execute(f"SELECT count(*) FROM {of}{name(table)}").fetchall()[0][0] for (table,) in tables}


def write_copy(ledger: Ledger, path: Path) -> dict[str, int]:
    """Write a copy of an open ledger to *path*, whole or not at all, and count its rows by table.

    Raises:
        ConfigRefused: there is a file.
        StorageFailed: there is no room, or the copy has not the rows of the ledger.
    """
    if path.exists():
        msg = f"{path}: there is a file already. Name another one."
        raise ConfigRefused(msg)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    execute = ledger.connection.execute
    with storage_errors(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            ((current,),) = execute("SELECT current_database()").fetchall()
            execute(f"ATTACH {file_target(part)} AS {_COPY}")
            try:
                execute(f"COPY FROM DATABASE {name(current)} TO {_COPY}")
                counts = counts_of(ledger.connection)
                if counts_of(ledger.connection, _COPY) != counts:
                    msg = f"{path}: the copy has not the rows of the ledger. It is removed; report this."
                    raise StorageFailed(msg)
            finally:
                execute(f"DETACH {_COPY}")
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return counts


# Backup


def backup(config: Mapping[str, Any], path: Path, logger: logging.Logger) -> dict[str, int]:
    """Write a copy of the ledger to *path*, and count its rows by table; waits for a run that has it (`ledger_wait`).

    Raises:
        RunStopped: it cannot be read, or the copy not be written.
    """
    with open_for_reading(config, logger, wait=float(config.get("ledger_wait") or 0)) as ledger:
        return write_copy(ledger, path)


# Move


def move(config: Mapping[str, Any], to: str, logger: logging.Logger) -> dict[str, int]:
    """Move the ledger to another place, local or shared, and leave word at the old one; count its rows by table.

    Raises:
        ConfigRefused: there is a ledger already, or the place is the same.
        StorageFailed: one of the two is in use, or there is no room.
        RunStopped: a bucket cannot be asked.
    """
    if not exists(config, logger):
        raise NoInput(none_yet(config))
    target = dict(config) | {"ledger": to}
    same = to.rstrip("/") == str(config["ledger"]).rstrip("/")
    if same or (exists(target, logger) and not _was_moved(target, logger)):
        msg = f"{to}: there is a ledger already. Move it away, or choose another place."
        raise ConfigRefused(msg)
    ledger = open_for_writing(config, who="`recurly-engage ledger move`", logger=logger)
    try:
        with closing(ledger):
            counts = _move_to(ledger, target, to, logger)
        if isinstance(ledger, SharedLedger):
            ledger.moved(to)
        else:
            note = ledger.path.with_name(f".{ledger.path.name}.note")
            note.write_text(f"{MOVED_WORDS}{to}\n", encoding="utf-8")
            ledger.path.replace(ledger.path.with_name(f"{ledger.path.name}.moved"))
            note.replace(ledger.path)
    finally:
        ledger.give_back()
    return counts


def _move_to(ledger: Ledger, target: Mapping[str, Any], to: str, logger: logging.Logger) -> dict[str, int]:
    move_folders(ledger, None if is_shared(to) else Path(to))
    if not is_shared(to):
        if _was_moved(target, logger):
            Path(to).unlink()
        return write_copy(ledger, Path(to))
    with tempfile.TemporaryDirectory(prefix="recurly-engage-") as folder:
        path = Path(folder) / "moved.duckdb"
        counts = write_copy(ledger, path)
        custody = Custody(target, who="`recurly-engage ledger move`", logger=logger, moved=True)
        try:
            custody.put(path)
        except BaseException:
            custody.let_go()
            raise
    return counts


def _was_moved(config: Mapping[str, Any], logger: logging.Logger) -> bool:
    """Whether there is only word of where the ledger went."""
    if is_shared(config["ledger"]):
        return Snapshots(config, logger).moved_to() is not None
    path = Path(config["ledger"])
    return path.is_file() and path.read_bytes()[: len(MOVED_WORDS)] == MOVED_WORDS.encode()


# Compact


def compact(config: Mapping[str, Any], logger: logging.Logger) -> tuple[int, int]:
    """Make the ledger's file anew without what was deleted, and give its bytes before and after.

    Raises:
        StorageFailed: there is no room, or the copy has not the rows of the ledger.
        RunStopped: the bucket cannot be asked.
    """
    if not exists(config, logger):
        raise NoInput(none_yet(config))
    ledger = open_for_writing(config, who="`recurly-engage ledger compact`", logger=logger)
    try:
        with closing(ledger):
            before, path = ledger.path.stat().st_size, ledger.path.resolve()
            made = path.with_name(f"{path.name}.compact")
            made.unlink(missing_ok=True)
            ledger.connection.execute("CHECKPOINT")  # so that nothing of it lies beside the file that goes
            write_copy(ledger, made)
            after = made.stat().st_size
            shutil.copymode(path, made)
            made.replace(path)  # while the old file is still held, so that nobody writes into it meanwhile
    finally:
        ledger.give_back()
    return before, after
