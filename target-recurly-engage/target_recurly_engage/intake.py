"""What comes down the pipe, into the table ``incoming``: RECORD and BATCH end in the same place.

RECORD lines are written to a file as they come and loaded from there like a batch.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

import duckdb
from piano_engage_common.duck import name, text
from piano_engage_common.stops import InputRefused

from target_recurly_engage.traits import NAMES, SQL_TYPES, TRAITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from target_recurly_engage.ledger import Ledger

KEY = ("subscription_id", "user_id")
LINES_PER_FILE = 100_000
MAX_RECORD_BYTES = 16 << 20

_TYPES = {
    "aid": "VARCHAR",
    "user_id": "VARCHAR",
    "modify_time": "TIMESTAMP WITH TIME ZONE",
} | {trait.name: SQL_TYPES[trait.kind] for trait in TRAITS}


class Intake:
    """Collects the rows of one run.

    Args:
        ledger: where they are collected.

    Attributes:
        rows: rows that came.
        blank: rows without a subscription id or without a user id; they are left out.
        columns: properties that came.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Make the table anew: what a crashed run collected comes again, for its STATE never went out."""
        self._ledger = ledger
        self._lines: list[bytes] = []
        self._files = 0
        self.rows = 0
        self.blank = 0
        self.columns: set[str] = set()
        self._open: set[int] = set()
        self._complete: set[int] = set()
        ledger.connection.execute("CREATE OR REPLACE TABLE incoming AS FROM subscriptions LIMIT 0")

    def expect(self, stream: str, schema: dict[str, Any]) -> None:
        """Check once what the stream promises to bring.

        Raises:
            InputRefused: it lacks the subscription or the user.
        """
        properties = schema.get("properties", {})
        missing = [column for column in KEY if column not in properties]
        if missing:
            msg = f"stream {stream!r}: its schema has no {' and no '.join(missing)}. Is its role really subscriptions?"
            raise InputRefused(msg)
        self.columns |= properties.keys() & _TYPES.keys()

    # RECORD

    def take_line(self, line: bytes) -> None:
        """Take a RECORD message as it came, or anything else with a member ``record``."""
        self._lines.append(line)
        if len(self._lines) >= LINES_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Load the RECORD messages that wait."""
        if not self._lines:
            return
        path = self._ledger.work / "records.jsonl"
        path.write_bytes(b"\n".join(line.strip() for line in self._lines) + b"\n")
        self._lines.clear()
        # All as text first: a number that is no number shall be named, not end in a guess.
        record = ", ".join(f"{name(column)} VARCHAR" for column in sorted(self.columns))
        source = (
            f"(SELECT unnest(record) FROM read_json({text(str(path))}, format = 'newline_delimited', "
            f"columns = {{record: {text(f'STRUCT({record})')}}}, maximum_object_size = {MAX_RECORD_BYTES}))"
        )
        self._load(source, sorted(self.columns), "RECORD messages")
        path.unlink()

    # BATCH

    def take_files(self, encoding: str, compression: str | None, urls: Sequence[str]) -> None:
        """Load the files of a BATCH message and remove each once its rows are safe.

        Raises:
            InputRefused: a file is gone, lies elsewhere, or holds what cannot be read.
        """
        for url in urls:
            path = _path(url)
            if encoding == "parquet":
                source = f"read_parquet({text(str(path))})"
                columns = [row[0] for row in self._describe(source, url)]
            elif encoding == "jsonl":
                source, columns = self._json_source(path, compression), sorted(self.columns)
            else:
                msg = f"BATCH: the encoding {encoding!r} is not known. Let the tap write parquet or jsonl."
                raise InputRefused(msg)
            self._load(source, [column for column in columns if column in _TYPES], url)
            path.unlink()

    def _json_source(self, path: Path, compression: str | None) -> str:
        packed = "gzip" if compression == "gzip" else "uncompressed"
        columns = ", ".join(f"{name(column)}: 'VARCHAR'" for column in sorted(self.columns))
        return (
            f"read_json({text(str(path))}, format = 'newline_delimited', columns = {{{columns}}}, "
            f"compression = {text(packed)}, maximum_object_size = {MAX_RECORD_BYTES})"
        )

    def _describe(self, source: str, url: str) -> list[tuple[Any, ...]]:
        try:
            return self._ledger.connection.sql(f"DESCRIBE FROM {source}").fetchall()
        except duckdb.Error as e:
            raise _unreadable(url, e) from e

    def _load(self, source: str, columns: Sequence[str], label: str) -> None:
        values = ", ".join(
            f"nullif({name(c)}::VARCHAR, '') AS {name(c)}" if _TYPES[c] == "VARCHAR"
            else f"{name(c)}::{_TYPES[c]} AS {name(c)}"
            for c in columns
        )
        connection = self._ledger.connection
        before = self._ledger.count("SELECT count(*) FROM incoming")
        try:
            with self._ledger.transaction():
                ((rows,),) = connection.sql(f"SELECT count(*) FROM {source}").fetchall()
                connection.execute(
                    f"INSERT INTO incoming BY NAME SELECT * FROM (SELECT {values} FROM {source}) "
                    "WHERE subscription_id IS NOT NULL AND user_id IS NOT NULL"
                )
        except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.BinderException) as e:
            raise _unreadable(label, e) from e
        self.rows += int(rows)
        self.blank += int(rows) - (self._ledger.count("SELECT count(*) FROM incoming") - before)

    # Snapshots

    def note_version(self, version: int | None) -> None:
        """Note that rows of a snapshot came."""
        if version is not None:
            self._open.add(version)

    def complete(self, version: int) -> None:
        """Note that a snapshot is complete: what it lacks has vanished."""
        self._complete.add(version)

    def finish(self) -> bool:
        """Load what waits, and say whether the rows are the complete log.

        Raises:
            InputRefused: a snapshot began and did not end, so the tap broke off.
        """
        self.flush()
        if self._open - self._complete:
            msg = (
                "the tap broke off in the middle of a snapshot (no ACTIVATE_VERSION came). Nothing was sent; "
                "see the tap's own message, then run again."
            )
            raise InputRefused(msg)
        self._drop_older_duplicates()
        return bool(self._complete)

    def _drop_older_duplicates(self) -> None:
        """Of several rows of one subscription keep the one that came last, as Singer has it."""
        key = "coalesce(aid, ''), subscription_id"
        distinct = self._ledger.count(f"SELECT count(DISTINCT hash({key})) FROM incoming")
        if distinct < self._ledger.count("SELECT count(*) FROM incoming"):
            self._ledger.connection.execute(
                f"DELETE FROM incoming WHERE rowid NOT IN (SELECT max(rowid) FROM incoming GROUP BY {key})"
            )


def _path(url: str) -> Path:
    address = urlparse(url)
    if address.scheme not in {"", "file"}:
        msg = f"BATCH: {url} does not lie on this machine. Let the tap write its batches into a local folder."
        raise InputRefused(msg)
    path = Path(unquote(address.path))
    if not path.is_file():
        msg = f"BATCH: there is no file {path}. Do tap and target see the same file system?"
        raise InputRefused(msg)
    return path


def _unreadable(label: str, error: duckdb.Error) -> InputRefused:
    return InputRefused(f"{label}: holds what cannot be read: {str(error).splitlines()[0]}. Nothing was sent.")
