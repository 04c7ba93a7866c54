"""From the relation to the wire: rows in bookmark order, as Parquet or JSON-lines files, or as RECORD lines.

Python never holds a row here. The database writes files, some of them ahead, and files are handed on.
"""

from __future__ import annotations

import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from piano_engage_common.duck import file_source, file_target, name, session, text

from tap_piano.columns import REPLICATION_KEY

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    import duckdb
    from singer_sdk.helpers._batch import BatchConfig

ROW_GROUP = 25_000
"""Rows in a group of our own Parquet files. A slice reads whole groups; large ones would need memory."""

MAKERS = 2
"""Slices that are written at the same time: the database writes JSON on one thread."""

AHEAD = 3
"""Slices that are under way or ready while one is handed on."""

_ONE_COLUMN = "FORMAT csv, HEADER false, DELIMITER '\x01', QUOTE '', ESCAPE ''"


def iso_8601(stamp: str) -> str:
    """Make the SQL that writes *stamp*, SQL of a moment, as ISO 8601 in UTC."""
    return f"replace(({stamp})::TIMESTAMP::VARCHAR, ' ', 'T') || '+00:00'"


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the rows, in a file.

    Attributes:
        path: the file.
        rows: how many rows it holds.
        bookmark: newest ``modify_time`` in it as ISO 8601 in UTC that is not in the future; None when no row has one.
    """

    path: Path
    rows: int
    bookmark: str | None


class OrderedRows:
    """The rows of a relation, on disk and in the order in which they leave.

    Args:
        connection: where the relation lives.
        relation: the rows; read once, or not at all when they are *ready*.
        folder: for the files; the caller removes what is left in it.
        ready: a Parquet file that holds just these rows, so that they need no copying.
        constants: further columns that have one value, to stand in front.
        until: rows that changed later, by stamps in the future, have no part in the bookmark (ISO 8601).
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        relation: duckdb.DuckDBPyRelation,
        folder: Path,
        *,
        ready: Path | None = None,
        constants: Mapping[str, str] | None = None,
        until: str | None = None,
    ) -> None:
        """Write the rows into one Parquet file, unless they are ready."""
        self._connection = connection
        self._folder = folder
        self._constants = constants or {}
        self._until = until
        self._types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        self._path = ready or folder / "rows.parquet"
        if ready is None:
            connection.execute(
                f"COPY ({relation.sql_query()}) TO {file_target(self._path)} "
                f"(FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP})"
            )
        ((self.rows,),) = connection.sql(f"SELECT count(*) FROM {self._source()}").fetchall()

    def batch_files(self, config: BatchConfig) -> Generator[Slice]:
        """Yield files in the form and of the size that the setting ``batch_config`` asks for."""
        gzip = config.encoding.compression == "gzip"
        if config.encoding.format == "jsonl":
            return self.json_files(config.batch_size, gzip=gzip)
        return self.parquet_files(config.batch_size, ", COMPRESSION gzip" if gzip else "")

    def parquet_files(self, rows: int, options: str = "") -> Generator[Slice]:
        """Yield Parquet files of at most *rows* rows; *options* are further ones of DuckDB's COPY."""
        columns = [f"{text(value)} AS {name(column)}" for column, value in self._constants.items()]
        columns += map(name, self._types)
        return self._files(", ".join(columns), rows, ".parquet", f"FORMAT parquet{options}")

    def json_files(self, rows: int, *, gzip: bool) -> Generator[Slice]:
        """Yield JSON-lines files of at most *rows* records."""
        suffix, options = (".jsonl.gz", ", COMPRESSION gzip") if gzip else (".jsonl", "")
        return self._files(self._json(), rows, suffix, f"{_ONE_COLUMN}{options}")

    def record_lines(self, stream: str, extra: Mapping[str, str | int], rows: int) -> Generator[Slice]:
        """Yield files of RECORD messages, ready to be written out as they are.

        Args:
            stream: name of the stream.
            extra: further members of each message, such as its version.
            rows: messages in a file.
        """
        before = f'{{"type":"RECORD","stream":{json.dumps(stream)},"record":'
        after = "".join(f",{json.dumps(key)}:{json.dumps(value)}" for key, value in extra.items()) + "}"
        return self._files(self._json(before=before, after=after), rows, ".lines", _ONE_COLUMN)

    def _json(self, *, before: str = "", after: str = "") -> str:
        """Make the SQL of a row as JSON text; a third faster than DuckDB's own ``FORMAT json``."""
        values = {column: text(json.dumps(value)) for column, value in self._constants.items()}
        values |= {
            column: f"coalesce({_json_value(name(column), kind)}, 'null')" for column, kind in self._types.items()
        }
        pieces = [text(f"{before}{{")]
        for number, (column, value) in enumerate(values.items()):
            pieces += [text(f"{',' if number else ''}{json.dumps(column, ensure_ascii=False)}:"), value]
        return f"concat({', '.join([*pieces, text(f'}}{after}')])})"

    def _files(self, columns: str, rows: int, suffix: str, options: str) -> Generator[Slice]:
        """Yield the slices in order, while the next ones are made."""

        def make(number: int, first: int) -> Slice:
            last = min(first + rows, self.rows)
            within = f"WHERE file_row_number >= {first} AND file_row_number < {last}"
            path = self._folder / f"subscription_log-{number:05}{suffix}"
            with session(self._connection.cursor()) as cursor:
                cursor.execute(
                    f"COPY (SELECT {columns} FROM {self._source()} {within}) TO {file_target(path)} ({options})"
                )
                return Slice(path, last - first, self._bookmark(cursor, within))

        pool = ThreadPoolExecutor(MAKERS)
        try:
            waiting = (pool.submit(make, *place) for place in enumerate(range(0, self.rows, rows)))
            ahead: deque[Future[Slice]] = deque(islice(waiting, AHEAD))
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(islice(waiting, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    def _bookmark(self, cursor: duckdb.DuckDBPyConnection, within: str) -> str | None:
        if REPLICATION_KEY not in self._types:
            return None
        key = name(REPLICATION_KEY)
        believed = "" if self._until is None else f" FILTER ({key} <= {text(self._until)}::TIMESTAMPTZ)"
        newest = iso_8601(f"max({key}){believed}")
        ((bookmark,),) = cursor.sql(f"SELECT {newest} FROM {self._source()} {within}").fetchall()
        return None if bookmark is None else str(bookmark)

    def _source(self) -> str:
        return f"read_parquet({file_source(self._path)}, file_row_number = true)"


def in_bookmark_order(relation: duckdb.DuckDBPyRelation, *, since: str | None) -> duckdb.DuckDBPyRelation:
    """Sort by ``modify_time``, rows that have none first.

    Args:
        relation: the rows.
        since: leave out rows that changed before that moment (ISO 8601); those that do not tell stay.
    """
    key = name(REPLICATION_KEY)
    if since is not None:
        relation = relation.filter(f"{key} IS NULL OR {key} >= {text(since)}::TIMESTAMPTZ")
    return relation.order(f"{key} NULLS FIRST, subscription_id")


def _json_value(column: str, kind: str) -> str:
    if kind == "VARCHAR":
        return f"to_json({column})::VARCHAR"
    if kind.startswith("TIMESTAMP"):
        return f"""'"' || {iso_8601(column)} || '"'"""
    return f"{column}::VARCHAR"
