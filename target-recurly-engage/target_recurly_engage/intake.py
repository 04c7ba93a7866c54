"""What comes down the pipe, into a table of the ledger: RECORD and BATCH end in the same place.

RECORD lines are written to a file as they come and loaded from there like a batch. `roles.py` says what is collected.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import duckdb
from piano_engage_common.duck import file_source, name, text
from piano_engage_common.stops import InputRefused, storage_errors

from target_recurly_engage.catalogue import JSON
from target_recurly_engage.erased import any_erased, is_erased
from target_recurly_engage.invariants import check
from target_recurly_engage.lines import json_lines, local_path, unreadable, whole_lines
from target_recurly_engage.traits import SQL_TYPES, Kind, blank_is_null

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from target_recurly_engage.ledger import Ledger

LINES_PER_FILE = 100_000
SHOWN_CHARACTERS = 40

_READING = (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.BinderException)


class Intake:
    """Collects the rows of one role in one run.

    Args:
        ledger: where they are collected.
        table: the table, which is made anew: what a crashed run collected comes again, for its STATE never went out.
        types: SQL types of the properties that are kept.
        key: properties without which a row counts as blank; the first one tells rows apart, the last one names the
            reader.
        role: for messages.
        temporary: the table is this connection's own, and leaves no trace in the ledger.

    Attributes:
        rows: rows that came.
        blank: of these, rows that lack a key; they are left out.
        erased: of these, rows of readers who were erased; they are left out as well.
        columns: properties that came.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        table: str,
        types: Mapping[str, str],
        key: tuple[str, ...],
        role: str,
        temporary: bool = False,
    ) -> None:
        """Make the table."""
        self._ledger = ledger
        self._types = types
        self._key = key
        self._role = role
        self.table = name(table)
        self._lines = ledger.work / f"records-{hashlib.sha256(table.encode()).hexdigest()[:8]}.jsonl"
        self._file: BinaryIO | None = None
        self._waiting = 0
        self._snapshots: dict[str, _Snapshot] = {}
        self.rows = 0
        self.blank = 0
        self.erased = 0
        self.columns: set[str] = set()
        columns = ", ".join(f"{name(column)} {kind}" for column, kind in types.items())
        ledger.connection.execute(f"CREATE OR REPLACE {'TEMP ' * temporary}TABLE {self.table} ({columns})")

    def expect(self, stream: str, schema: dict[str, Any]) -> None:
        """Check once what the stream promises to bring.

        Raises:
            InputRefused: it lacks the subscription or the user.
        """
        properties = schema.get("properties", {})
        missing = [column for column in self._key if column not in properties]
        if missing:
            msg = f"stream {stream!r}: its schema has no {' and no '.join(missing)}. Is its role really {self._role}?"
            raise InputRefused(msg)
        self.flush()  # what waits came under the schema before
        self.columns |= properties.keys() & self._types.keys()
        self._snapshots.setdefault(stream, _Snapshot())

    # RECORD

    def take_line(self, line: bytes) -> None:
        """Take a RECORD message as it came, or anything else with a member ``record``."""
        if self._file is None:
            self._file = self._lines.open("wb", buffering=1 << 20)
        self._file.write(line.strip() + b"\n")
        self._waiting += 1
        if self._waiting >= LINES_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Load the RECORD messages that wait."""
        if self._file is None:
            return
        self._file.close()
        self._file, self._waiting = None, 0
        columns = f"{{record: {text(self._record)}}}"
        self._load(f"(SELECT unnest(record) FROM {json_lines(self._lines, columns)})", "RECORD messages")
        self._lines.unlink()

    @property
    def _record(self) -> str:
        """The SQL type of a record of which all properties that are promised are text."""
        return f"STRUCT({', '.join(f'{name(column)} VARCHAR' for column in sorted(self.columns))})"

    def take_messages(self, path: Path, stream: str) -> None:
        """Load the RECORD messages of *stream* from a file of Singer messages.

        Raises:
            InputRefused: it holds what cannot be read, or rows in BATCH files.
        """
        for schema in self._schemas(path, stream):
            self.expect(stream, schema)
        columns = f"{{type: 'VARCHAR', stream: 'VARCHAR', version: 'BIGINT', record: {text(self._record)}}}"
        ours = f"{json_lines(path, columns)} WHERE stream = {text(stream)}"
        try:
            kinds = dict(
                self._ledger.connection.execute(f"SELECT type, max(version) FROM {ours} GROUP BY 1").fetchall()
            )
        except duckdb.Error as e:
            raise unreadable(stream, e) from e
        if "BATCH" in kinds:
            msg = f"stream {stream!r} comes in BATCH files. Let the tap write RECORD messages here (no batch_config)."
            raise InputRefused(msg)
        self.note_version(stream, kinds.get("RECORD"))
        if kinds.get("ACTIVATE_VERSION") is not None:
            self.complete(stream, kinds["ACTIVATE_VERSION"])
        self._load(f"(SELECT unnest(record) FROM {ours} AND type = 'RECORD')", f"stream {stream!r}")

    def _schemas(self, path: Path, stream: str) -> list[dict[str, Any]]:
        """Read what the SCHEMA messages of *stream* promise; there must be one."""
        source = json_lines(path, "{type: 'VARCHAR', stream: 'VARCHAR', schema: 'JSON'}")
        try:
            found = self._ledger.connection.execute(
                f"SELECT stream, schema FROM {source} WHERE type = 'SCHEMA'"
            ).fetchall()
        except duckdb.Error as e:
            raise unreadable(stream, e) from e
        if stream not in {one for one, _ in found}:
            others = ", ".join(sorted({one for one, _ in found})) or "none at all"
            msg = (
                f"no SCHEMA of stream {stream!r} came; of other streams: {others}. "
                "See the tap's own message, or name another --stream."
            )
            raise InputRefused(msg)
        return [json.loads(schema) for one, schema in found if one == stream]

    # BATCH

    def take_files(self, encoding: str, urls: Sequence[str]) -> None:
        """Load the files of a BATCH message and remove each once its rows are safe.

        Raises:
            InputRefused: a file is gone, lies elsewhere, or holds what cannot be read.
        """
        for url in urls:
            path = local_path(url)
            self._load(self._batch(encoding, path), url, columnar=encoding == "parquet")
            with storage_errors(f"removing {path}"):
                path.unlink()

    def records(self, encoding: str, urls: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a BATCH message one by one, for those who have to see them; then remove the files.

        Raises:
            InputRefused: as :meth:`take_files`.
        """
        for url in urls:
            path = local_path(url)
            source = whole_lines(path) if encoding == "jsonl" else self._batch(encoding, path)
            line = "line" if encoding == "jsonl" else "to_json(rows)"
            # A cursor, for between two records the connection is asked other things.
            cursor = self._ledger.connection.cursor()
            try:
                cursor.execute(f"SELECT {line} FROM {source} AS rows")
                while some := cursor.fetchmany(1000):
                    yield from (json.loads(row[0]) for row in some)
            except duckdb.Error as e:
                raise unreadable(url, e) from e
            self.flush()
            path.unlink()

    def _batch(self, encoding: str, path: Path) -> str:
        if encoding == "parquet":
            return f"read_parquet({file_source(path)})"
        if encoding == "jsonl":
            columns = ", ".join(f"{name(column)}: 'VARCHAR'" for column in sorted(self.columns))
            return json_lines(path, f"{{{columns}}}")
        msg = f"BATCH: the encoding {encoding!r} is not known. Let the tap write parquet or jsonl."
        raise InputRefused(msg)

    # Both

    def _load(self, source: str, label: str, *, columnar: bool = False) -> None:
        connection = self._ledger.connection
        try:
            order = self._order(matters=not columnar or self._repeats(source))
            with storage_errors(f"writing {self._ledger.path}"), order, self._ledger.transaction():
                described = connection.execute(f"DESCRIBE FROM {source}").fetchall()
                types = {column: kind for column, kind, *_ in described if column in self._types}
                self._check_columns(types, label)
                values = ", ".join(f"{self._cast(column, kind)} AS {name(column)}" for column, kind in types.items())
                load = f"INSERT INTO {self.table} BY NAME SELECT {values} FROM {source}"
                ((rows,),) = connection.execute(load + self._leave_out_erased(source, types)).fetchall()
        except _READING as e:
            raise self._culprit(source, label) or unreadable(label, e) from e
        except duckdb.IOException as e:
            raise unreadable(label, e) from e
        self.rows += rows

    def _leave_out_erased(self, source: str, types: Mapping[str, str]) -> str:
        """Make the SQL that leaves out who was erased, for Piano's log may hold rows of him for long; count them.

        They do not come into the file at all: it would keep their bytes.
        """
        if not any_erased(self._ledger):
            return ""
        reader = self._key[-1]
        gone = is_erased(self._cast(reader, types[reader]))
        erased = self._ledger.count(f"SELECT count(*) FROM {source} WHERE {gone}")
        self.erased += erased
        self.rows += erased
        return f" WHERE NOT {gone}"

    def _repeats(self, source: str) -> bool:
        """Whether a subscription comes twice; asked where looking at one column costs little."""
        key = name(self._key[0])
        query = f"SELECT count({key}) <> count(DISTINCT hash({key})) FROM {source}"
        return bool(self._ledger.count(query))

    @contextmanager
    def _order(self, *, matters: bool) -> Iterator[None]:
        """Keep the order of rows inside the ``with`` block only where it *matters*: without, all cores load."""
        execute = self._ledger.connection.execute
        execute(f"SET preserve_insertion_order = {matters}")
        try:
            yield
        finally:
            execute("RESET preserve_insertion_order")

    def _check_columns(self, types: dict[str, str], label: str) -> None:
        """What a file lacks did not come, whatever the schema promised."""
        missing = [column for column in self._key if column not in types]
        if missing:
            msg = f"{label}: has no column {' and no column '.join(missing)}. Nothing was sent."
            raise InputRefused(msg)
        self.columns &= types.keys()

    def _culprit(self, source: str, label: str) -> InputRefused | None:
        """Find the first value that is not of its column's type."""
        for column in sorted(self.columns):
            if self._types[column] == "VARCHAR":
                continue
            value = f"{name(column)}::VARCHAR"
            query = (
                f"SELECT {name(self._key[0])}::VARCHAR, {value} FROM {source} "
                f"WHERE {self._cast(column, 'VARCHAR', cast='TRY_CAST')} IS NULL AND trim({value}) <> '' LIMIT 1"
            )
            try:
                found = self._ledger.connection.execute(query).fetchall()
            except duckdb.Error:
                return None
            what = self._key[0].removesuffix("_id")
            for row, shown in found:
                return InputRefused(
                    f"{label}: {column} of {what} {row} is {shown[:SHOWN_CHARACTERS]!r}, "
                    f"which is no {self._types[column]}. Nothing was sent; mend the tap or leave the column out."
                )
        return None

    # Snapshots

    def note_version(self, stream: str, version: int | None) -> None:
        """Note that rows of a snapshot came."""
        if version is not None:
            self._snapshots[stream].note(version)

    def complete(self, stream: str, version: int) -> None:
        """Note that a snapshot is complete: what it lacks has vanished."""
        self._snapshots[stream].complete = version

    def finish(self) -> bool:
        """Load what waits, and say whether the rows are the complete log.

        Raises:
            ConfigRefused: the rows belong to another application than the ledger.
            RowsLost: the database does not hold what came.
            InputRefused: a snapshot began and did not end, so the tap broke off.
        """
        self.flush()
        if any(snapshot.broken for snapshot in self._snapshots.values()):
            msg = (
                "the tap broke off in the middle of a snapshot (no ACTIVATE_VERSION came). Nothing was sent; "
                "see the tap's own message, then run again."
            )
            raise InputRefused(msg)
        with storage_errors(f"writing {self._ledger.path}"):
            self._drop_blanks()
            self._drop_older_duplicates()
        return all(snapshot.complete is not None for snapshot in self._snapshots.values())

    def _drop_blanks(self) -> None:
        lacking = " OR ".join(f"{name(column)} IS NULL" for column in self._key)
        self.blank = self._ledger.count(f"DELETE FROM {self.table} WHERE {lacking}")

    def _drop_older_duplicates(self) -> None:
        """Of several rows of one key keep the one that came last, as Singer has it."""
        key, expected = name(self._key[0]), self.rows - self.blank - self.erased
        distinct = self._ledger.count(f"SELECT count(DISTINCT hash({key})) FROM {self.table}")
        if distinct < expected:
            expected = self._ledger.count(f"SELECT count(DISTINCT {key}) FROM {self.table}")
            # By rowid, for it is the order in which they came; all of them were committed before.
            self._ledger.connection.execute(
                f"DELETE FROM {self.table} WHERE rowid NOT IN (SELECT max(rowid) FROM {self.table} GROUP BY {key})"
            )
        found = self._ledger.count(f"SELECT count(*) FROM {self.table}")
        check(f"rows that came for the role {self._role}", found=found, expected=expected)

    def _cast(self, column: str, kind: str, *, cast: str = "CAST") -> str:
        """Make the SQL that brings *column*, which came as *kind*, to the ledger's type; blank is NULL."""
        wanted = self._types[column]
        if column in self._key:
            return blank_is_null(f"{name(column)}::VARCHAR")
        if wanted == "VARCHAR":  # kept as it came: what is odd in it is seen to when it is written
            return f"nullif({name(column)}::VARCHAR, '')"
        if kind != "VARCHAR":
            return f"to_json({name(column)})" if wanted == JSON else f"{cast}({name(column)} AS {wanted})"
        value = f"nullif(trim({name(column)}::VARCHAR), '')"
        if wanted == SQL_TYPES[Kind.DATE]:  # DuckDB wants +02:00 where Piano writes ' +0200'
            mended = f"regexp_replace({value}, ' *([+-]\\d\\d):?(\\d\\d)$', '\\1:\\2')"
            return f"coalesce(TRY_CAST({value} AS {wanted}), {cast}({mended} AS {wanted}))"
        return f"{cast}({value} AS {wanted})"


class _Snapshot:
    """How far a stream's snapshot is."""

    def __init__(self) -> None:
        """Know of none."""
        self.complete: int | None = None
        self._open: int | None = None

    def note(self, version: int) -> None:
        """Rows of *version* came, so it is not complete yet."""
        self._open = version
        self.complete = None

    @property
    def broken(self) -> bool:
        """Rows came, and nothing said that they were all."""
        return self._open is not None and self._open != self.complete
