"""What comes down the pipe, into a table of the ledger: RECORD and BATCH end in the same place.

RECORD lines are written to a file as they come and loaded from there like a batch. `roles.py` says what is collected.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import duckdb
from piano_engage_common.dates import in_bounds
from piano_engage_common.duck import file_source, name, text
from piano_engage_common.ids import id_value
from piano_engage_common.stops import InputRefused, storage_errors

from target_recurly_engage.erased import any_erased, is_erased
from target_recurly_engage.invariants import check
from target_recurly_engage.lines import json_lines, local_path, rewrite_lines, unreadable, whole_lines
from target_recurly_engage.messages import NO_NUMBER
from target_recurly_engage.values import DATE, is_blank, is_nested, strict, tolerant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from target_recurly_engage.ledger import Ledger

LINES_PER_FILE = 100_000
NAMED_IDS = 3

INVALID = "invalid_properties"
"""Column of the subscriptions that lists the properties, by commas, of which what came is no value."""

_LOADED = "loaded rows"
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

    Class attributes:
        whole_rows: a row with a value of another type is rejected; else the value is, and the row stays.

    Attributes:
        types: as given.
        key: as given.
        rows: rows that came.
        rejected: of these, rows without a usable key, or that cannot be used otherwise; they are left out.
        rejected_ids: keys of the first of these, as far as they have one and are no users' ids.
        rejected_for: properties for which whole rows were rejected, and how often.
        invalid: values that are none of their property's type, or dates out of bounds, by property.
        erased: of the rows, those of readers who were erased; they are left out as well.
        columns: properties that came.
        offered: properties that the schemas named, also those that are not kept.
    """

    whole_rows: ClassVar[bool] = False

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
        self.types = types
        self.key = key
        self._role = role
        self.table = name(table)
        self._lines = ledger.work / f"records-{hashlib.sha256(table.encode()).hexdigest()[:8]}.jsonl"
        self._file: BinaryIO | None = None
        self._waiting = 0
        self._snapshots: dict[str, _Snapshot] = {}
        self.rows = 0
        self.rejected = 0
        self.rejected_ids: list[str] = []
        self.rejected_for: Counter[str] = Counter()
        self.invalid: Counter[str] = Counter()
        self.erased = 0
        self.columns: set[str] = set()
        self.offered: set[str] = set()
        self._odd = False
        columns = ", ".join(f"{name(column)} {kind}" for column, kind in types.items())
        ledger.connection.execute(f"CREATE OR REPLACE {'TEMP ' * temporary}TABLE {self.table} ({columns})")

    def expect(self, stream: str, schema: dict[str, Any]) -> None:
        """Check once what the stream promises to bring.

        Raises:
            InputRefused: it lacks the subscription or the user.
        """
        properties = schema.get("properties", {})
        missing = [column for column in self.key if column not in properties]
        if missing:
            msg = f"stream {stream!r}: its schema has no {' and no '.join(missing)}. Is its role really {self._role}?"
            raise InputRefused(msg)
        self.flush()  # what waits came under the schema before
        self.columns |= (properties.keys() & self.types.keys()) - {INVALID}
        self.offered |= properties.keys()
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
        source = f"(SELECT unnest(record) FROM {json_lines(self._lines, columns)})"
        self._load(source, "RECORD messages", mend=lambda: self._mend(self._lines, "RECORD messages", "record"))
        self._lines.unlink()

    def take_odd(self, record: Mapping[str, Any]) -> None:
        """Take a record with numbers that are none, which are :data:`NO_NUMBER`; a whole row is rejected for one."""
        odd = [column for column in sorted(self.columns) if record.get(column) is NO_NUMBER]
        if self.whole_rows and odd:
            self.reject_record(record.get(self.key[0]))
            return
        self.invalid.update(one for one in odd if one not in self.key)
        kept = {column: None if column in odd else value for column, value in record.items()}
        self.take_line(
            json.dumps({"record": kept}, default=lambda one: None if one is NO_NUMBER else str(one)).encode()
        )

    def reject_record(self, record_id: object = None) -> None:
        """Count a record that cannot be used, and that never came into the table."""
        self.rows += 1
        self._reject(1, [record_id] if isinstance(record_id, str) else [])

    def _reject(self, count: int, ids: Sequence[str]) -> None:
        self.rejected += count
        if self.whole_rows:
            self.rejected_ids += [one for one in ids if one][: NAMED_IDS - len(self.rejected_ids)]

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
            mend = None if encoding == "parquet" else lambda path=path, url=url: self._mend(path, url, None)
            self._load(self._batch(encoding, path), url, columnar=encoding == "parquet", mend=mend)
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

    def _load(self, source: str, label: str, *, columnar: bool = False, mend: Callable[[], None] | None = None) -> None:
        """Load rows: as they are, where all of them can be; else what can be used of them, which is slower.

        Args:
            source: SQL of the rows.
            label: what to call them in messages.
            columnar: they lie in a file of columns.
            mend: rewrites the file without the lines that are no JSON; None where that is no way.

        Raises:
            InputRefused: they cannot be read, or lack a key.
        """
        try:
            rows = self._insert(source, label, columnar=columnar, insert=self._insert_strictly)
        except _READING:
            try:
                rows = self._insert(source, label, columnar=columnar, insert=self._insert_usable)
            except _READING as e:
                if mend is None or ("maximum_object_size" in str(e) and not self.whole_rows):
                    raise unreadable(label, e) from e
                mend()
                return self._load(source, label, columnar=columnar)
        self.rows += rows
        return None

    def _insert(
        self, source: str, label: str, *, columnar: bool, insert: Callable[[str, Mapping[str, str], str], int]
    ) -> int:
        connection = self._ledger.connection
        try:
            order = self._order(matters=not columnar or self._repeats(source))
            with storage_errors(f"writing {self._ledger.path}"), order, self._ledger.transaction():
                described = connection.execute(f"DESCRIBE FROM {source}").fetchall()
                types = {column: kind for column, kind, *_ in described if column in self.types}
                self._check_columns(types, label)
                return insert(source, types, self._leave_out_erased(source, types))
        except duckdb.IOException as e:
            raise unreadable(label, e) from e

    def _insert_strictly(self, source: str, types: Mapping[str, str], but: str) -> int:
        """Insert rows of which every value is of its type; any other one raises an error of the database."""
        values = ", ".join(f"{self._cast(column, kind)} AS {name(column)}" for column, kind in types.items())
        load = f"INSERT INTO {self.table} BY NAME SELECT {values} FROM {source}{but}"
        ((rows,),) = self._ledger.connection.execute(load).fetchall()
        return int(rows)

    def _insert_usable(self, source: str, types: Mapping[str, str], but: str) -> int:
        """Insert what can be used of the rows, and count the rest."""
        execute, table = self._ledger.connection.execute, name(_LOADED)
        raw = ", ".join(f"{name(column)} AS {name(f'raw {column}')}" for column in types)
        values = ", ".join(f"{self._cast(c, kind, strictly=False)} AS {name(c)}" for c, kind in types.items())
        wrong = ", ".join(f"CASE WHEN {self._is_wrong(c)} THEN {text(c)} END" for c in types if c not in self.key)
        columns = ", ".join(map(name, types))
        execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT {columns}, nullif(concat_ws(',', {wrong or 'NULL'}), '') "
            f"AS {INVALID} FROM (SELECT {raw}, {values} FROM {source}{but})"
        )
        rows = self._ledger.count(f"SELECT count(*) FROM {table}")
        if self.whole_rows:
            self.rejected_for.update(self._invalid_in(table))
            self._reject_wrong(f"{INVALID} IS NOT NULL", table)
        kept = columns if INVALID not in self.types else f"{columns}, {INVALID}"
        execute(f"INSERT INTO {self.table} BY NAME SELECT {kept} FROM {table}")
        execute(f"DROP TABLE {table}")
        self._odd = True
        return rows

    def _is_wrong(self, column: str) -> str:
        """Build the SQL condition that something came in *column* and is no value of it."""
        raw = name(f"raw {column}")
        if self.types[column] == "VARCHAR":
            return is_nested(raw) if self.whole_rows else "false"
        return f"NOT ({is_blank(raw)}) AND {name(column)} IS NULL"

    def _reject_wrong(self, condition: str, table: str) -> None:
        """Remove rows from a table, and remember how many and which they were."""
        execute, key = self._ledger.connection.execute, name(self.key[0])
        ids = execute(f"SELECT {key} FROM {table} WHERE {condition} LIMIT {NAMED_IDS}").fetchall()
        self._reject(self._ledger.count(f"DELETE FROM {table} WHERE {condition}"), [one for (one,) in ids])

    def _mend(self, path: Path, label: str, member: str | None) -> None:
        """Rewrite a file of JSON lines without what no JSON has; see :func:`.rewrite_lines`."""
        found = rewrite_lines(path, label, member, self.columns, self.key, whole_rows=self.whole_rows)
        self.rows += found.rejected
        self._reject(found.rejected, found.ids)
        self.invalid.update(found.invalid)

    def _leave_out_erased(self, source: str, types: Mapping[str, str]) -> str:
        """Make the SQL that leaves out who was erased, for Piano's log may hold rows of him for long; count them.

        They do not come into the file at all: it would keep their bytes.
        """
        if not any_erased(self._ledger):
            return ""
        reader = self.key[-1]
        gone = is_erased(self._cast(reader, types[reader]))
        erased = self._ledger.count(f"SELECT count(*) FROM {source} WHERE {gone}")
        self.erased += erased
        self.rows += erased
        return f" WHERE NOT {gone}"

    def _repeats(self, source: str) -> bool:
        """Whether a subscription comes twice; asked where looking at one column costs little."""
        key = name(self.key[0])
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
        missing = [column for column in self.key if column not in types]
        if missing:
            msg = f"{label}: has no column {' and no column '.join(missing)}. Nothing was sent."
            raise InputRefused(msg)
        self.columns &= types.keys()

    # Snapshots

    def note_version(self, stream: str, version: int | None) -> None:
        """Note that rows of a snapshot came."""
        if version is not None:
            self._snapshots[stream].note(version)

    def complete(self, stream: str, version: int) -> None:
        """Note that a snapshot is complete: what it lacks has vanished."""
        self._snapshots[stream].complete = version

    def end(self, stream: str) -> None:
        """Note that the tap says of a stream that it ended well: without ACTIVATE_VERSION it is just not complete."""
        if stream in self._snapshots:
            self._snapshots[stream].ended = True

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
            self._drop_keyless()
            self._drop_dates_out_of_bounds()
            self._drop_older_duplicates()
            self._count_invalid()
        return not self.rejected and all(snapshot.complete is not None for snapshot in self._snapshots.values())

    def _drop_keyless(self) -> None:
        lacking = " OR ".join(f"{name(column)} IS NULL" for column in self.key)
        self._reject_wrong(lacking, self.table)

    def _drop_dates_out_of_bounds(self) -> None:
        """Reject rows with a date outside the years 1900 to 9999, or the date alone; one look at all is cheap."""
        dates = [name(column) for column in sorted(self.columns) if self.types[column] == DATE]
        outside = " OR ".join(f"NOT ({in_bounds(date)})" for date in dates)
        if not dates or not self._ledger.count(f"SELECT count(*) FROM {self.table} WHERE {outside}"):
            return
        if self.whole_rows:
            self._reject_wrong(outside, self.table)
            return
        self._odd = True
        values = ", ".join(f"CASE WHEN {in_bounds(date)} THEN {date} END AS {date}" for date in dates)
        wrong = ", ".join(f"CASE WHEN NOT ({in_bounds(date)}) THEN {text(date.strip(chr(34)))} END" for date in dates)
        self._ledger.connection.execute(
            f"CREATE OR REPLACE TABLE {self.table} AS SELECT * REPLACE ({values}, "
            f"nullif(concat_ws(',', {INVALID}, {wrong}), '') AS {INVALID}) FROM {self.table}"
        )

    def _drop_older_duplicates(self) -> None:
        """Of several rows of one key keep the one that came last, as Singer has it."""
        key, expected = name(self.key[0]), self.rows - self.rejected - self.erased
        distinct = self._ledger.count(f"SELECT count(DISTINCT hash({key})) FROM {self.table}")
        if distinct < expected:
            expected = self._ledger.count(f"SELECT count(DISTINCT {key}) FROM {self.table}")
            # By rowid, for it is the order in which they came; all of them were committed before.
            self._ledger.connection.execute(
                f"DELETE FROM {self.table} WHERE rowid NOT IN (SELECT max(rowid) FROM {self.table} GROUP BY {key})"
            )
        found = self._ledger.count(f"SELECT count(*) FROM {self.table}")
        check(f"rows that came for the role {self._role}", found=found, expected=expected)

    def _count_invalid(self) -> None:
        if self._odd and INVALID in self.types:
            self.invalid.update(self._invalid_in(self.table))

    def _invalid_in(self, table: str) -> dict[str, int]:
        query = f"SELECT unnest(string_split({INVALID}, ',')) AS one, count(*) FROM {table} GROUP BY one"
        return dict(self._ledger.connection.execute(query).fetchall())

    def _cast(self, column: str, kind: str, *, strictly: bool = True) -> str:
        """Build the SQL that brings *column*, which came as *kind*, to the ledger's type; blank is NULL."""
        wanted, value = self.types[column], name(column)
        if column in self.key:
            return id_value(value if kind == "VARCHAR" else f"{value}::VARCHAR")
        if wanted != "VARCHAR":
            return (strict if strictly else tolerant)(value, kind, wanted)
        kept = f"nullif({value}::VARCHAR, '')"  # as it came: what is odd in it is seen to when it is written
        checked = strictly and self.whole_rows
        return f"CASE WHEN {is_nested(value)} THEN error('nested') ELSE {kept} END" if checked else kept


class _Snapshot:
    """How far a stream's snapshot is."""

    def __init__(self) -> None:
        """Know of none."""
        self.complete: int | None = None
        self.ended = False
        self._open: int | None = None

    def note(self, version: int) -> None:
        """Rows of *version* came, so it is not complete yet."""
        self._open = version
        self.complete = None

    @property
    def broken(self) -> bool:
        """Rows came, and nothing said that they were all, nor that the stream ended."""
        return self._open is not None and self._open != self.complete and not self.ended
