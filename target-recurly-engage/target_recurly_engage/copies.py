"""Copies of a ledger: backup, restore, move, compact; wherever it lives.

A copy is made anew from the tables, so it is whole, holds no byte of a row that was deleted, and is counted before it
counts as one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name, text
from piano_engage_common.stops import ConfigRefused, InputRefused, NoInput, Outage, StorageFailed, storage_errors

from target_recurly_engage.contract import contract_of
from target_recurly_engage.erased import any_erased, is_erased
from target_recurly_engage.ledger import MOVED_WORDS, Ledger, in_use_by_another
from target_recurly_engage.shared.custody import Custody
from target_recurly_engage.shared.ledger import SharedLedger, open_for_writing
from target_recurly_engage.shared.place import is_shared
from target_recurly_engage.shared.snapshots import Snapshots, exists, none_yet, open_for_reading

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

    import duckdb

_COPY: Final = name("copy of the ledger")  # no file's name looks like that
_CARRIED: Final = ("salt", "erased")
"""Tables in which a restored ledger goes on with what the present one holds: who was erased must not come back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore came to.

    Attributes:
        subscriptions: rows of the restored ledger.
        readers: readers of whom it knows what Engage was told.
        again: the next run tells all of them in full.
        aside: where the ledger is that was there before; None where it stays among the versions, or there was none.
    """

    subscriptions: int
    readers: int
    again: bool
    aside: Path | None


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
            execute(f"ATTACH {text(str(part))} AS {_COPY}")
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


# Restore


def restore(config: Mapping[str, Any], source: Path | str, logger: logging.Logger, *, as_is: bool = False) -> Restored:
    """Put a backup, or an earlier version of a shared ledger, in the place of the ledger.

    What Engage was told since, the backup does not know; so the next run tells every reader in full, unless the present
    ledger shows that there was no run since.

    Args:
        config: the target's settings.
        source: a file, or the name of a version.
        logger: told of what happens on the way.
        as_is: believe what the backup says that Engage was told.

    Raises:
        NoInput: there is no such backup.
        InputRefused: it is no ledger, or that of another application.
        StorageFailed: the ledger is in use, or there is no room.
        RunStopped: the bucket cannot be asked.
    """
    with tempfile.TemporaryDirectory(prefix="recurly-engage-") as folder, storage_errors("copying the backup"):
        made = Path(folder) / "restored.duckdb"
        if isinstance(source, Path):
            if not source.is_file():
                msg = f"{source}: there is no such file."
                raise NoInput(msg)
            shutil.copyfile(source, made)
        else:
            _fetch_version(config, source, made, logger)
        place = _restore_shared if is_shared(config["ledger"]) else _restore_local
        return place(config, made, logger, as_is=as_is)


def _fetch_version(config: Mapping[str, Any], wanted: str, path: Path, logger: logging.Logger) -> None:
    snapshots = Snapshots(config, logger)
    found = [one for one in snapshots.versions() if one["name"] == wanted]
    if not found:
        msg = (
            f"ledger: {snapshots.place} has no version {wanted}. `recurly-engage ledger show` lists those that it has."
        )
        raise NoInput(msg)
    snapshots.of(found[0], path)


def _restore_local(config: Mapping[str, Any], made: Path, logger: logging.Logger, *, as_is: bool) -> Restored:
    path = Path(config["ledger"])
    present = _present(path, config, logger) if path.exists() else None
    with closing(present) if present else nullcontext():
        restored = _prepared(made, present, config, as_is=as_is)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.restored")
        shutil.copyfile(made, beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        aside = None
        if path.exists():
            aside = path.with_name(f"{path.name}.before-{datetime.now(tz=UTC):%Y%m%dT%H%M%SZ}")
            if present:
                present.connection.execute("CHECKPOINT")  # so that nothing of it lies beside it
            else:
                path.with_name(f"{path.name}.wal").unlink(missing_ok=True)  # of what cannot be read
            path.replace(aside)
        beside.replace(path)
    return Restored(**restored, aside=aside)


def _present(path: Path, config: Mapping[str, Any], logger: logging.Logger) -> Ledger | None:
    """Open the ledger that is there; None where it cannot be read, which is why there are backups."""
    try:
        return Ledger(path, memory_limit=config["memory_limit"])
    except StorageFailed as e:
        if in_use_by_another(e):
            raise
        logger.warning("%s", e)
        return None


def _restore_shared(config: Mapping[str, Any], made: Path, logger: logging.Logger, *, as_is: bool) -> Restored:
    custody = Custody(config, who="`recurly-engage ledger restore`", logger=logger)
    try:
        present = None
        doubts = bool(custody.lease.content["sending"])
        with tempfile.TemporaryDirectory(prefix="recurly-engage-") as folder, storage_errors("copying the ledger"):
            if custody.current["bytes"]:
                present = _copied(custody, Path(folder), config, logger)
            with closing(present) if present else nullcontext():
                restored = _prepared(made, present, config, as_is=as_is, since=doubts)
        custody.put(made)
    except BaseException:
        custody.let_go()
        raise
    return Restored(**restored, aside=None)


def _copied(custody: Custody, folder: Path, config: Mapping[str, Any], logger: logging.Logger) -> Ledger | None:
    """Open a copy of the version that is there; None where it cannot be read."""
    path = folder / "present.duckdb"
    try:
        custody.fetch(path)
        return Ledger(path, memory_limit=config["memory_limit"])
    except (Outage, StorageFailed) as e:
        logger.warning("%s", e)
        return None


def _prepared(
    made: Path, present: Ledger | None, config: Mapping[str, Any], *, as_is: bool, since: bool = False
) -> dict[str, Any]:
    """Make a backup fit to go on with; *since* says that something was sent that the present ledger does not know."""
    with _opened_backup(made, config) as ledger:
        if present:
            _compare_applications(ledger, present)
        again = not as_is and (since or present is None or _ran_since(ledger, present))
        if present:
            _carry_erased(ledger, present, config)
        if again:
            ledger.connection.execute("INSERT INTO overtaken SELECT user_id, now() FROM delivered")
        return {
            "subscriptions": ledger.count("SELECT count(*) FROM subscriptions"),
            "readers": ledger.count("SELECT count(*) FROM delivered"),
            "again": again,
        }


@contextmanager
def _opened_backup(made: Path, config: Mapping[str, Any]) -> Iterator[Ledger]:
    try:
        ledger = Ledger(made, memory_limit=config["memory_limit"])
    except StorageFailed as e:
        words = str(e).removeprefix("ledger: ").partition(". ")[0]
        msg = f"the backup cannot be used: {words.replace(str(made), 'it')}."
        raise InputRefused(msg) from e
    with closing(ledger):
        yield ledger


def _compare_applications(ledger: Ledger, present: Ledger) -> None:
    query = "SELECT DISTINCT aid FROM subscriptions WHERE aid IS NOT NULL ORDER BY aid"
    theirs, ours = (one.connection.execute(query).fetchall() for one in (ledger, present))
    if theirs and ours and theirs != ours:
        msg = f"the backup is of application {theirs[0][0]}, the ledger of {ours[0][0]}. Check the setting `ledger`."
        raise InputRefused(msg)


def _ran_since(ledger: Ledger, present: Ledger) -> bool:
    """Whether the present ledger knows of runs or deliveries that the backup does not."""
    for table, key in (("runs", "run_id"), ("deliveries", "delivery_id")):
        query = f"SELECT {key} FROM {table}"
        ours, theirs = (set(one.connection.execute(query).fetchall()) for one in (present, ledger))
        if ours - theirs:
            return True
    return False


def _carry_erased(ledger: Ledger, present: Ledger, config: Mapping[str, Any]) -> None:
    """Let nobody come back who was erased since."""
    if not any_erased(present):
        return
    execute = ledger.connection.execute
    for table in _CARRIED:
        rows = present.connection.execute(f"SELECT * FROM {table}").fetchall()
        execute(f"DELETE FROM {table}")
        for row in rows:
            execute(f"INSERT INTO {table} VALUES ({', '.join('?' for _ in row)})", list(row))
    streams = {stream.table.strip('"'): name(stream.user_id) for stream in contract_of(config).users}
    for table in ledger.tables():
        reader = streams.get(table, "user_id" if "user_id" in ledger.columns(name(table)) else None)
        if reader:
            execute(f"DELETE FROM {name(table)} WHERE {is_erased(reader)}")


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
