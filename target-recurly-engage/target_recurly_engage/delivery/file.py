"""Delivery into a local folder: CSVs that Engage's S3 ingest folder takes as they are.

The rules are those of the fact sheet of Engage, section 2: UTF-8 without BOM, commas, quotes only where needed,
LF, ``user_id`` first, one row a reader, no blank cell, a unique name with a time in it, and whole files only.

A delivery is noted in the ledger before its file appears, and acknowledged after. A run that finds one that was
not acknowledged looks for the file: if it is there, complete, it was delivered; if not, it was not.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from piano_engage_common.duck import name, text
from piano_engage_common.stops import StorageFailed, storage_errors

from target_recurly_engage.traits import NAMES, USER_ID

if TYPE_CHECKING:
    import logging

    from piano_engage_common.progress import Progress

    from target_recurly_engage.ledger import Ledger

CHANNEL = "file"
_CELLS = ", ".join(map(name, (USER_ID, *NAMES)))
_CSV = "FORMAT csv, HEADER true, DELIMITER ',', QUOTE '\"', ESCAPE '\"', NULLSTR ''"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A file that was delivered.

    Attributes:
        location: its path.
        users: rows in it.
        bytes: its size.
        sha256: its checksum, in hexadecimal.
    """

    location: Path
    users: int
    bytes: int
    sha256: str


class FileDelivery:
    """Writes plans into a folder.

    Args:
        ledger: notes and acknowledges what is written.
        folder: where the files go.
        logger: for a line about each file.
        progress: told how far the writing is.
    """

    def __init__(self, ledger: Ledger, folder: Path, *, logger: logging.Logger, progress: Progress) -> None:
        """Remember where to write."""
        self._ledger = ledger
        self._folder = folder
        self._logger = logger
        self._progress = progress

    def settle(self) -> None:
        """Find out what became of deliveries that a crash left open."""
        open_ones = self._ledger.connection.execute(
            "SELECT delivery_id, location, bytes, sha256 FROM deliveries "
            "WHERE channel = ? AND status NOT IN ('acknowledged', 'discarded')",
            [CHANNEL],
        ).fetchall()
        for delivery_id, location, size, sha256 in open_ones:
            path = Path(location)
            with storage_errors(f"looking for {path}"):
                _part(path).unlink(missing_ok=True)
                appeared = sha256 and path.is_file() and path.stat().st_size == size and _sha256(path) == sha256
            if appeared:
                self._logger.info("%s was delivered by a run that broke off; acknowledged now", path)
                self._acknowledge(delivery_id)
            else:
                self._set_status(delivery_id, "discarded")

    def deliver(self, run_id: str, delivery_id: str) -> Delivered | None:
        """Write the table ``plan`` into a file and acknowledge it; an empty plan writes none.

        Args:
            run_id: the run that delivers.
            delivery_id: as in the table ``plan``.

        Raises:
            StorageFailed: the folder cannot be written; nothing of the file is left, the plan stays due.
        """
        users = self._ledger.count("SELECT count(*) FROM plan")
        if not users:
            self._ledger.connection.execute("DROP TABLE plan")
            return None
        moment = datetime.now(tz=UTC)
        path = (self._folder / f"traits-{moment:%Y%m%dT%H%M%SZ}-{delivery_id[:8]}.csv").resolve()
        self._ledger.connection.execute(
            "INSERT INTO deliveries (delivery_id, run_id, channel, location, status, users, started_at) "
            "VALUES (?, ?, ?, ?, 'writing', ?, ?)",
            [delivery_id, run_id, CHANNEL, str(path), users, moment],
        )
        with storage_errors(f"writing {path}"):
            delivered = self._write(delivery_id, path, users)
        self._acknowledge(delivery_id)
        self._logger.info("delivered %s: %d users, %.1f MB", path, users, delivered.bytes / 1e6)
        return delivered

    def _write(self, delivery_id: str, path: Path, users: int) -> Delivered:
        part = _part(path)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            connection = self._ledger.connection
            with self._progress.watch("writing traits", connection, size=f"{users:,} users"):
                connection.execute(f"COPY (SELECT {_CELLS} FROM plan) TO {text(str(part))} ({_CSV})")
            with part.open("rb") as file:
                os.fsync(file.fileno())
            size, sha256 = part.stat().st_size, _sha256(part)
            connection.execute(
                "UPDATE deliveries SET status = 'written', bytes = ?, sha256 = ? WHERE delivery_id = ?",
                [size, sha256, delivery_id],
            )
            part.rename(path)
            _sync_folder(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return Delivered(location=path, users=users, bytes=size, sha256=sha256)

    def _acknowledge(self, delivery_id: str) -> None:
        """Take over into ``delivered`` the rows that the file was written from; they survive a crash in ``plan``."""
        execute = self._ledger.connection.execute
        with storage_errors(f"writing {self._ledger.path}"), self._ledger.transaction():
            ((rows, others),) = execute(
                "SELECT count(*), count_if(delivery_id <> ?) FROM plan", [delivery_id]
            ).fetchall()
            expected = self._ledger.count("SELECT users FROM deliveries WHERE delivery_id = ?", delivery_id)
            if others or rows != expected:
                msg = f"{self._ledger.path}: the plan is not that of delivery {delivery_id}. Keep both and report this."
                raise StorageFailed(msg)
            if self._ledger.count("SELECT count(*) FROM delivered"):
                execute("DELETE FROM delivered USING plan WHERE delivered.user_id = plan.user_id")
                execute("INSERT INTO delivered BY NAME FROM plan")
                execute("DROP TABLE plan")
            else:
                execute("DROP TABLE delivered")
                execute("ALTER TABLE plan RENAME TO delivered")
            self._set_status(delivery_id, "acknowledged")

    def _set_status(self, delivery_id: str, status: str) -> None:
        at = datetime.now(tz=UTC) if status == "acknowledged" else None
        self._ledger.connection.execute(
            "UPDATE deliveries SET status = ?, acknowledged_at = ? WHERE delivery_id = ?", [status, at, delivery_id]
        )


def _part(path: Path) -> Path:
    """Name the unfinished file: hidden, and with an ending that nobody takes for a CSV."""
    return path.with_name(f".{path.name}.part")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
