"""Put a backup, or an earlier version of a shared ledger, in the place of the ledger.

Engage cannot be asked what it was told since; so the next run tells every reader in full, unless nothing can have been.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.duck import name
from piano_engage_common.stops import InputRefused, NoInput, Outage, StorageFailed, storage_errors

from target_recurly_engage.contract import contract_of
from target_recurly_engage.destinations import everywhere
from target_recurly_engage.erased import any_erased, is_erased
from target_recurly_engage.ledger import Ledger, in_use_by_another
from target_recurly_engage.shared.custody import Custody
from target_recurly_engage.shared.place import is_shared
from target_recurly_engage.shared.snapshots import Snapshots

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

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
            with ledger.transaction():
                for _ in everywhere(ledger):
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
