"""What deliveries by CSV have in common: how a file is written, noted and acknowledged.

The rules are those of the fact sheet of Engage, section 2: UTF-8 without BOM, commas, quotes only where needed,
LF, ``user_id`` first, one row a reader, no blank cell, a unique name with a time in it, and whole files only.

A delivery is noted in the ledger before its file appears, and acknowledged after. A run that finds one that was
not acknowledged looks for the file: if it is there, complete, it was delivered. If not, somebody may have taken it
away, or it may not be looked at: its users count as unknown, unless it surely never appeared.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

import duckdb
from piano_engage_common.duck import file_target, name, text
from piano_engage_common.stops import StorageFailed, storage_errors

from target_recurly_engage.delivery.doubt import settle_open, settle_unknown
from target_recurly_engage.delivery.overlap import note_told
from target_recurly_engage.destinations import CURRENT
from target_recurly_engage.plan import told_traits
from target_recurly_engage.traits import USER_ID

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from piano_engage_common.progress import Progress

    from target_recurly_engage.contract import Contract
    from target_recurly_engage.delivery.ingest import Requests
    from target_recurly_engage.ledger import Ledger

_CSV = "FORMAT csv, HEADER true, DELIMITER ',', QUOTE '\"', ESCAPE '\"', NULLSTR ''"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A file that was delivered.

    Attributes:
        location: its path or address.
        users: rows in it.
        bytes: its size.
        sha256: its checksum, in hexadecimal.
        held: users who are not in it, for they changed again while another file with them counts as unread.
    """

    location: str
    users: int
    bytes: int
    sha256: str
    held: int = 0


class CsvDelivery(ABC):
    """Sends plans as CSVs, one each.

    Args:
        ledger: notes and acknowledges what is sent.
        contract: what is sent.
        logger: for a line about each file.
        progress: told how far it is.

    Class attributes:
        channel: names the way in the ledger.
        done: status of a delivery whose file is there.
        verb: what the log says of such a file.
    """

    channel: ClassVar[str]
    done: ClassVar[str] = "acknowledged"
    verb: ClassVar[str] = "delivered"

    def __init__(self, ledger: Ledger, contract: Contract, *, logger: logging.Logger, progress: Progress) -> None:
        """Remember the ledger."""
        self._ledger = ledger
        self._contract = contract
        self._logger = logger
        self._progress = progress

    @abstractmethod
    def check(self) -> None:
        """Find out, before the work of a run, whether it could be delivered.

        Raises:
            RunStopped: it could not.
        """

    def interrupt(self) -> None:
        """Finish the file that is under way first: the handler of a signal calls this."""
        self._logger.info("the file is finished first")

    @abstractmethod
    def _location_of(self, file_name: str) -> str:
        """Say where a file of that name is to appear."""

    @abstractmethod
    def _part_of(self, location: str) -> Path:
        """Say where the file is written before it appears."""

    @abstractmethod
    def _appeared(self, location: str, size: int, sha256: str) -> bool | None:
        """Return whether that very file is there; None where nobody may look."""

    @abstractmethod
    def _never_left(self, location: str) -> bool:
        """Return whether a file that was written surely never appeared."""

    @abstractmethod
    def _publish(self, part: Path, location: str, size: int, sha256: str) -> None:
        """Let the file appear, whole or not at all."""

    @abstractmethod
    def _forget(self, location: str) -> None:
        """Remove what a broken delivery left beside the file."""

    def settle(self) -> None:
        """Find out what became of deliveries that a run left open."""
        open_ones = self._ledger.connection.execute(
            "SELECT delivery_id, location, bytes, sha256 FROM deliveries "
            "WHERE channel = ? AND status IN ('writing', 'complete')",
            [self.channel],
        ).fetchall()
        for delivery_id, location, size, sha256 in open_ones:
            with storage_errors(f"looking for {location}"):
                never_left = sha256 is None or self._never_left(location)
                self._forget(location)
                appeared = sha256 is not None and self._appeared(location, size, sha256)
            if appeared:
                self._logger.info("%s was %s by a run that broke off; noted now", location, self.verb)
                self._acknowledge(delivery_id)
            elif never_left:
                self._set_status(delivery_id, "discarded")
            else:
                settle_unknown(self._ledger, self._logger, delivery_id, unread=appeared is None)
        settle_open(self._ledger, self._logger)  # of another channel, before the setting was changed

    def deliver(self, run_id: str, delivery_id: str) -> Delivered | Requests | None:
        """Send the table ``plan`` as :meth:`_send` does."""
        return self._send(run_id, delivery_id)

    def _send(self, run_id: str, delivery_id: str) -> Delivered | None:
        """Send the table ``plan`` as a file and acknowledge it; an empty plan sends none.

        Args:
            run_id: the run that delivers.
            delivery_id: as in the table ``plan``.

        Raises:
            StorageFailed: a file cannot be written; nothing of it is left, the plan stays due.
            RunStopped: it cannot be sent; the same.
        """
        users = self._ledger.count("SELECT count(*) FROM plan")
        if not users:
            self._ledger.connection.execute("DROP TABLE plan")
            return None
        moment = datetime.now(tz=UTC)
        location = self._location_of(f"traits-{moment:%Y%m%dT%H%M%SZ}-{delivery_id[:8]}.csv")
        self._ledger.connection.execute(
            "INSERT INTO deliveries (delivery_id, run_id, channel, location, status, users, started_at, destination) "
            f"VALUES (?, ?, ?, ?, 'writing', ?, ?, {CURRENT})",
            [delivery_id, run_id, self.channel, location, users, moment],
        )
        with storage_errors(f"writing {location}"):
            delivered = self._write(delivery_id, location, users)
        self._acknowledge(delivery_id)
        self._logger.info("%s %s: %d users, %.1f MB", self.verb, location, users, delivered.bytes / 1e6)
        return delivered

    def _write(self, delivery_id: str, location: str, users: int) -> Delivered:
        part = self._part_of(location)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            connection = self._ledger.connection
            connection.execute("SET preserve_insertion_order = false")  # else a million readers do not fit in memory
            try:
                with self._progress.watch("writing traits", connection, size=f"{users:,} users"):
                    connection.execute(f"COPY (SELECT {self._cells()} FROM plan) TO {file_target(part)} ({_CSV})")
            finally:
                connection.execute("RESET preserve_insertion_order")
            with part.open("rb") as file:
                os.fsync(file.fileno())
            size, sha256 = part.stat().st_size, sha256_of(part)
            connection.execute(
                "UPDATE deliveries SET status = 'complete', bytes = ?, sha256 = ? WHERE delivery_id = ?",
                [size, sha256, delivery_id],
            )
            self._ledger.announce(delivery_id)
            self._ledger.hold()
            self._publish(part, location, size, sha256)
        except BaseException:
            if self._never_left(location):
                with suppress(duckdb.Error):  # then nobody knows, which is safe
                    self._set_status(delivery_id, "discarded")
            raise
        finally:
            part.unlink(missing_ok=True)
        return Delivered(location=location, users=users, bytes=size, sha256=sha256)

    def _cells(self) -> str:
        """Make the SQL of a file's columns; one that has left the contract is in it where it is to be cleared.

        No cell is blank: where there is nothing to tell, the value that clears stands.
        """
        active = {trait.name for trait in self._contract.traits}
        cells = [name(USER_ID)]
        for trait in told_traits(self._ledger, self._contract):
            column, clear = name(trait.name), text(self._contract.wording.clear_value(trait))
            if trait.name in active or self._ledger.count(f"SELECT count({column}) FROM plan"):
                cells.append(f"coalesce({column}, {clear}) AS {column}")
        return ", ".join(cells)

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
            note_told(self._ledger, "plan", datetime.now(tz=UTC))
            for table in ("rejects", "earlier_deliveries"):
                execute(f"DELETE FROM {table} USING plan WHERE {table}.user_id = plan.user_id")
            if self._ledger.count("SELECT count(*) FROM delivered"):
                execute("DELETE FROM delivered USING plan WHERE delivered.user_id = plan.user_id")
                execute("INSERT INTO delivered BY NAME FROM plan")
                execute("DROP TABLE plan")
            else:
                execute("DROP TABLE delivered")
                execute("ALTER TABLE plan RENAME TO delivered")
            self._set_status(delivery_id, self.done)

    def _set_status(self, delivery_id: str, status: str) -> None:
        at = datetime.now(tz=UTC) if status == self.done else None
        self._ledger.connection.execute(
            "UPDATE deliveries SET status = ?, acknowledged_at = ? WHERE delivery_id = ?", [status, at, delivery_id]
        )


def sha256_of(path: Path) -> str:
    """Compute a file's checksum, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
