"""One export file in, one Parquet file of typed rows out, with a list of all rows that are bad.

Each file is read once: every selected cell as text, cast, and kept in a Parquet file of our own with the names of the
columns that could not be cast. How many rows there are is counted by other means, and the counts have to agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import duckdb
from piano_engage_common.duck import file_source, file_target, name, text
from piano_engage_common.stops import RowsLost

from tap_piano.casts import SQL_TYPES, can_fail, cast, failure, lacks_offset
from tap_piano.columns import BY_NAME, Kind
from tap_piano.emit import ROW_GROUP
from tap_piano.files import refused
from tap_piano.rejects import REASONS, ReadRow
from tap_piano.rows import MAX_ROW_BYTES, rows
from tap_piano.sifting import Sifted, judged_rows, sift
from tap_piano.survey import Shape, check_row_limit, survey

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator
    from pathlib import Path

    from tap_piano.files import Export, Header

BUFFER_BYTES: Final = 16_000_000

WITHOUT_OFFSET = "stamps without offset"
"""Column of the Parquet file: how many stamps of the row carry no offset."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One export after it was read.

    Attributes:
        export: the file.
        header: its header.
        parquet: a row for every row that the database could read.
        parsed: how many these are.
        unread: byte position and kind of each row that the database could not read.
        sifted: what became of the rows before the database read them; None where it read the file as it is.
    """

    export: Export
    header: Header
    parquet: Path
    parsed: int
    unread: tuple[tuple[int, str], ...]
    sifted: Sifted | None = None

    @property
    def malformed(self) -> int:
        """Rows that the database was not given or could not read."""
        return len(self.unread) + (len(self.sifted.malformed) if self.sifted else 0)

    @property
    def records(self) -> int:
        """All rows of the file but those of blank cells."""
        return self.parsed + self.malformed

    def read_rows(self) -> Iterator[ReadRow]:
        """Yield the rows of the file in their order, to find those that are bad."""
        if self.sifted is None:
            for row in rows(self.export):
                yield ReadRow(row.line, row.raw, row.offset + len(row.raw.rstrip(b"\r\n")), None)
            return
        offset = 0
        for row, problem in judged_rows(self.export, self.sifted.cells):
            if problem != "":
                yield ReadRow(row.line, row.raw, offset + len(row.raw.rstrip(b"\r\n")), problem)
            offset += len(row.raw) if problem is None else 0


class Stager:
    """Reads one file after the other.

    Args:
        connection: where the work is done.
        names: property names of the columns to keep.
        zone: IANA time zone of stamps that carry no offset.
        folder: for the Parquet files; the caller removes it.
        logger: for one line about each noteworthy thing.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        names: tuple[str, ...],
        zone: str,
        folder: Path,
        logger: logging.Logger,
    ) -> None:
        """Remember how to read."""
        self._connection = connection
        self._names = names
        self._zone = zone
        self._folder = folder
        self._logger = logger

    def stage(self, number: int, export: Export, header: Header) -> Stage:
        """Read the file with that *number*.

        Raises:
            InputRefused: the file is damaged, or was cut off.
            RowsLost: the database found other rows than are in the file.
        """
        shape = survey(export, len(header.columns))
        if shape is not None:
            check_row_limit(export, shape.records + 1)
            stage = self._as_it_is(number, export, header, shape)
            if stage is not None:
                return stage
            export.check_unchanged()
        return self._sifted(number, export, header)

    def _as_it_is(self, number: int, export: Export, header: Header, shape: Shape) -> Stage | None:
        """Let the database read the file; None where it found something odd after all."""
        try:
            parsed = self._parse(number, export.path, header, parallel=not shape.imitations)
        except duckdb.InvalidInputException:
            return None
        stage = Stage(export, header, self._parquet(number), parsed, self._unread(number))
        agree = stage.records == shape.records and all(kind in REASONS for _, kind in stage.unread)
        return stage if agree else None

    def _sifted(self, number: int, export: Export, header: Header) -> Stage:
        self._logger.info("%s: some rows are odd, so they are looked at one by one.", export.label)
        sifted = sift(export, header, self._folder / f"sifted-{number}.csv")
        check_row_limit(export, sifted.rows + 1)
        try:
            parsed = self._parse(
                number, sifted.path, header, parallel=sifted.simple, has_header=False, cells=sifted.cells
            )
        except duckdb.InvalidInputException as e:
            problem = f"cannot be read as CSV ({str(e).splitlines()[0]}). Download the export again"
            raise refused(export, problem) from e
        stage = Stage(export, header, self._parquet(number), parsed, self._unread(number), sifted)
        if stage.parsed + len(stage.unread) != sifted.good or any(kind not in REASONS for _, kind in stage.unread):
            msg = (
                f"{export.label}: has {sifted.good:,} good rows, and the database read {stage.parsed:,} of them and "
                f"could not read {len(stage.unread):,}. Nothing was sent. Report this with the version of DuckDB "
                f"({duckdb.__version__})."
            )
            raise RowsLost(msg)
        sifted.path.unlink()
        if sifted.blank:
            self._logger.info("%s: %d row(s) of blank cells were passed over", export.label, sifted.blank)
        return stage

    # The database

    def _parquet(self, number: int) -> Path:
        return self._folder / f"stage-{number}.parquet"

    def _parse(
        self, number: int, path: Path, header: Header, *, parallel: bool, has_header: bool = True, cells: int = 0
    ) -> int:
        """Read a CSV into the Parquet file, and return how many rows that has."""
        names = [*header.names, *(f"surplus {at}" for at in range(len(header.names), cells))]
        columns = ", ".join(f"{text(column)}: 'VARCHAR'" for column in names)
        reader = (
            f"read_csv({file_source(path)}, columns = {{{columns}}}, compression = 'none', auto_detect = false, "
            f"header = {str(has_header).lower()}, delim = ',', quote = '\"', escape = '\"', strict_mode = true, "
            f"null_padding = false, parallel = {str(parallel).lower()}, store_rejects = true, "
            f"rejects_table = 'malformed_{number}', rejects_scan = 'scans_{number}', "
            f"max_line_size = {MAX_ROW_BYTES}, buffer_size = {BUFFER_BYTES})"
        )
        self._connection.execute(f"DROP TABLE IF EXISTS malformed_{number}; DROP TABLE IF EXISTS scans_{number}")
        ((written,),) = self._connection.execute(
            f"COPY ({self._typed(header, reader)}) "
            f"TO {file_target(self._parquet(number))} (FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP})"
        ).fetchall()
        return int(written)

    def _typed(self, header: Header, reader: str) -> str:
        """Build the query of the typed columns and of the names of those that could not be cast.

        The casts come first, below; with both in one step most of them would be made twice.
        """
        present = [column for column in header.columns if column.name in self._names]
        cells = {column.name: name(f"{column.name} (text)") for column in present}
        casts = [f"{cast(column, self._zone)} AS {name(column.name)}" for column in present]
        texts = [f"{name(column.name)} AS {cells[column.name]}" for column in present if can_fail(column)]
        checks = [
            f"CASE WHEN {failure(column, cell=cells[column.name])} THEN {text(column.name)} END"
            for column in present
            if can_fail(column)
        ]
        values = [
            name(wanted)
            if wanted in header
            else f"NULL::{SQL_TYPES[BY_NAME[wanted].kind if wanted in BY_NAME else Kind.TEXT]} AS {name(wanted)}"
            for wanted in self._names
        ]
        stamps = [cells[column.name] for column in present if column.kind is Kind.TIMESTAMP]
        bare = " + ".join(f"{lacks_offset(cell)}::INTEGER" for cell in stamps) or "0"
        return (
            f"SELECT {', '.join(values)}, nullif(concat_ws(',', {', '.join(checks)}), '') AS failed, "
            f"{bare} AS {name(WITHOUT_OFFSET)} "
            f"FROM (SELECT {', '.join([*casts, *texts])} FROM {reader})"
        )

    def _unread(self, number: int) -> tuple[tuple[int, str], ...]:
        """List the rows that the database could not read: its own list, so that none is forgotten."""
        found = self._connection.sql(
            f"SELECT line_byte_position, any_value(error_type ORDER BY error_type) FROM malformed_{number} "
            "GROUP BY line_byte_position ORDER BY line_byte_position"
        ).fetchall()
        return tuple((int(position) - 1, str(kind)) for position, kind in found)
