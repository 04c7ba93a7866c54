"""From the relation to the wire: rows in bookmark order, as Parquet or JSON-lines files, or as RECORD lines.

Python never holds a row here. The database writes files, and files are handed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from piano_engage_common.duck import name, text

from tap_piano.columns import REPLICATION_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import duckdb

ISO_8601 = "%Y-%m-%dT%H:%M:%S+00:00"
ROW_GROUP = 100_000


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the rows, in a file.

    Attributes:
        path: the file.
        rows: how many rows it holds.
        bookmark: newest ``modify_time`` in it as ISO 8601 in UTC; None when no row has one.
    """

    path: Path
    rows: int
    bookmark: str | None


class OrderedRows:
    """The rows of a relation, on disk and in the order in which they leave.

    Args:
        connection: where the relation lives.
        relation: the rows; read once.
        folder: for the files; the caller removes what is left in it.
        in_bookmark_order: sort by ``modify_time``, blanks first.
        since: with *in_bookmark_order*, only rows that changed then or later (ISO 8601), and those that do not
            tell.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        relation: duckdb.DuckDBPyRelation,
        folder: Path,
        *,
        in_bookmark_order: bool,
        since: str | None = None,
    ) -> None:
        """Write the rows into one Parquet file."""
        self._connection = connection
        self._folder = folder
        self._path = folder / "rows.parquet"
        key = name(REPLICATION_KEY)
        if in_bookmark_order:
            if since is not None:
                relation = relation.filter(f"{key} IS NULL OR {key} >= {text(since)}::TIMESTAMPTZ")
            relation = relation.order(f"{key} NULLS FIRST, subscription_id")
        self._types = dict(zip(relation.columns, map(str, relation.types), strict=True))
        connection.execute(
            f"COPY ({relation.sql_query()}) TO {text(str(self._path))} (FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP})"
        )
        ((self.rows,),) = connection.sql(f"SELECT count(*) FROM {self._source()}").fetchall()

    def parquet_files(self, rows: int, options: str = "") -> Iterator[Slice]:
        """Yield Parquet files of at most *rows* rows; *options* are further ones of DuckDB's COPY."""
        yield from self._files(", ".join(map(name, self._types)), rows, ".parquet", f"FORMAT parquet{options}")

    def json_files(self, rows: int, *, gzip: bool) -> Iterator[Slice]:
        """Yield JSON-lines files of at most *rows* records."""
        columns = ", ".join(f"{value} AS {name(column)}" for column, value in self._json_values().items())
        suffix, options = (".jsonl.gz", ", COMPRESSION gzip") if gzip else (".jsonl", "")
        yield from self._files(columns, rows, suffix, f"FORMAT json{options}")

    def record_lines(self, stream: str, extra: Mapping[str, str | int], rows: int) -> Iterator[Slice]:
        """Yield files of RECORD messages, ready to be written out as they are; each is gone after its turn.

        Args:
            stream: name of the stream.
            extra: further members of each message, such as its version.
            rows: messages in a file.
        """
        record = ", ".join(f"{name(column)} := {value}" for column, value in self._json_values().items())
        members = [f"'RECORD' AS type, {text(stream)} AS stream, struct_pack({record}) AS record"]
        members += [f"{text(value) if isinstance(value, str) else value} AS {name(key)}" for key, value in extra.items()]
        for part in self._files(", ".join(members), rows, ".lines", "FORMAT json"):
            yield part
            part.path.unlink()

    def _json_values(self) -> dict[str, str]:
        """Map each column to the SQL of its JSON value: stamps become ISO 8601 text."""
        return {
            column: f"strftime({name(column)}, {text(ISO_8601)})" if kind.startswith("TIMESTAMP") else name(column)
            for column, kind in self._types.items()
        }

    def _files(self, columns: str, rows: int, suffix: str, options: str) -> Iterator[Slice]:
        for number, first in enumerate(range(0, self.rows, rows)):
            last = min(first + rows, self.rows)
            within = "" if rows >= self.rows else f" WHERE file_row_number >= {first} AND file_row_number < {last}"
            path = self._folder / f"subscription_log-{number:05}{suffix}"
            source = f"{self._source()}{within}"
            self._connection.execute(f"COPY (SELECT {columns} FROM {source}) TO {text(str(path))} ({options})")
            yield Slice(path, last - first, self._bookmark(source))

    def _bookmark(self, source: str) -> str | None:
        if REPLICATION_KEY not in self._types:
            return None
        query = f"SELECT strftime(max({name(REPLICATION_KEY)}), {text(ISO_8601)}) FROM {source}"
        ((newest,),) = self._connection.sql(query).fetchall()
        return newest

    def _source(self) -> str:
        return f"read_parquet({text(str(self._path))}, file_row_number = true)"
