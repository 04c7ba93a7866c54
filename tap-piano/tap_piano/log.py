"""The subscription log as a relation: many export files in, one checked set of typed rows out.

Each file is read once: every selected cell as text, cast, and kept in a Parquet file of our own with the names
of the columns that could not be cast. Then, before a single row leaves, it is known how many rows are bad,
which subscriptions stand twice, and whether the parser saw every row.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb
from piano_engage_common.duck import file_source, file_target, name, text
from piano_engage_common.stops import InputRefused, storage_errors

from tap_piano.ages import AGE_COLUMNS, age_of_files, undecided
from tap_piano.casts import SQL_TYPES, cast, failure
from tap_piano.columns import BY_NAME, KNOWN, REPLICATION_KEY, Kind
from tap_piano.emit import ROW_GROUP, iso_8601
from tap_piano.files import refused
from tap_piano.rejects import DUPLICATE, Reject, RejectsFile, cell_rejects, structural_rejects
from tap_piano.survey import Shape, count_carefully, odd_line_end, survey

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from pathlib import Path

    from piano_engage_common.progress import Progress

    from tap_piano.files import Export, Header

MAX_LINE_BYTES = 2_000_000
BUFFER_BYTES = 16_000_000
SHOWN_REJECTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """How to read the log.

    Attributes:
        names: property names of the columns to deliver, ``aid`` left out.
        zone: IANA time zone of stamps that carry no offset.
        max_reject_fraction: more bad rows than this share stop the run.
        rejects_folder: where the file of bad rows goes.
    """

    names: tuple[str, ...]
    zone: str
    max_reject_fraction: float
    rejects_folder: Path


@dataclass(slots=True)
class LogCounts:
    """What became of the rows.

    Attributes:
        read: rows below the headers of all files.
        rejected: rows that were left out because of a bad cell, because the row is malformed, or because another row
            of the same subscription in the same file says otherwise.
        complete: no subscription is missing for a rejected row: those that were rejected were only duplicates.
        superseded: rows that a newer row of the same subscription replaced.
        hold_back: the bookmark must stay before this moment (a rejected row changed then); ``""`` when a
            rejected row does not tell when it changed; None when nothing was rejected.
    """

    read: int = 0
    rejected: int = 0
    complete: bool = True
    superseded: int = 0
    hold_back: str | None = None


@dataclass(frozen=True, slots=True)
class _Stage:
    """One export after it was read: a Parquet file with a row for every row of the CSV that could be parsed."""

    export: Export
    header: Header
    parquet: Path
    malformed: list[Reject] = field(default_factory=list)


class SubscriptionLog:
    """Reads export files into a checked relation.

    Args:
        connection: where the work is done.
        exports: the files, with the header of each.
        options: how to read them.
        folder: for the Parquet files in between; the caller removes it.
        progress: told how far the reading is.
        logger: for one line about each noteworthy thing.

    Attributes:
        counts: what became of the rows, after the reading.
        ready: after the reading, a Parquet file that holds just the good rows (and maybe further columns); None
            when the files hold others too.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        exports: Sequence[tuple[Export, Header]],
        options: LogOptions,
        *,
        folder: Path,
        progress: Progress,
        logger: logging.Logger,
    ) -> None:
        """Remember what to read."""
        self._connection = connection
        self._exports = exports
        self._options = options
        self._folder = folder
        self._progress = progress
        self._logger = logger
        self.counts = LogCounts()
        self.ready: Path | None = None
        self._staged_names = self._names_to_stage()

    def read(self) -> duckdb.DuckDBPyRelation:
        """Read all files.

        Returns:
            The good rows, one per subscription, in the columns of the options.

        Raises:
            InputRefused: a file is damaged or empty, or too many rows are bad.
            StorageFailed: the disk is full.
        """
        with storage_errors(f"reading the export into {self._folder}"):
            stages = [self._stage(number, *found) for number, found in enumerate(self._exports)]
            self._make_view(stages)
            self._find_losers(stages)
            self._settle_rejects(stages)
        for export, _ in self._exports:
            export.check_unchanged()
        if len(stages) == 1 and not self._left_out():
            self.ready = stages[0].parquet
        columns = ", ".join(name(column) for column in self._options.names)
        return self._connection.sql(f"SELECT {columns} FROM staged ANTI JOIN left_out USING (file, row)")

    # Reading

    def _names_to_stage(self) -> tuple[str, ...]:
        helpers = {"subscription_id", "user_id"}
        if any(REPLICATION_KEY in header for _, header in self._exports):
            helpers.add(REPLICATION_KEY)
        if len(self._exports) > 1:
            helpers |= {column for column in AGE_COLUMNS if any(column in header for _, header in self._exports)}
        wanted = set(self._options.names) | helpers
        known = [column.name for column in KNOWN if column.name in wanted]
        return (*known, *sorted(wanted.difference(known)))

    def _stage(self, number: int, export: Export, header: Header) -> _Stage:
        try:
            return self._stage_at_rest(number, export, header)
        except InputRefused:
            export.check_unchanged()  # a file that still grows looks broken in other ways
            raise

    def _stage_at_rest(self, number: int, export: Export, header: Header) -> _Stage:
        size = f"{export.megabytes:,.0f} MB"
        with self._progress.watch(f"{export.label}: reading", self._connection, size=size):
            with ThreadPoolExecutor(1) as pool:
                second_opinion = pool.submit(survey, export)
                try:
                    stage = self._parse(number, export, header, parallel=True)
                except InputRefused:
                    second_opinion.result()  # may know better what is wrong
                    raise
                shape = second_opinion.result()
            if not shape.quotes_close or self._records(stage) != shape.records:
                stage = self._parse_carefully(number, export, header, stage)
        self._check_last_row(export, shape, stage)
        return stage

    def _parse_carefully(self, number: int, export: Export, header: Header, stage: _Stage) -> _Stage:
        """Settle who is right when parser and survey differ: a stray quote, or a parser that was misled."""
        export.check_unchanged()
        records = count_carefully(export)
        if self._records(stage) == records:
            return stage
        self._logger.info("%s: cells with line breaks need a slower way of reading.", export.label)
        stage = self._parse(number, export, header, parallel=False)
        if (parsed := self._records(stage)) != records:
            raise refused(
                export,
                f"its rows cannot be told apart ({parsed:,} or {records:,}, depending on how the quotes are read). "
                "Download the export again",
            )
        return stage

    def _parse(self, number: int, export: Export, header: Header, *, parallel: bool) -> _Stage:
        parquet = self._folder / f"stage-{number}.parquet"
        present = [column for column in header.columns if column.name in self._staged_names]
        values = [f"{cast(column, self._options.zone)} AS {name(column.name)}" for column in present]
        values += [
            f"NULL::{SQL_TYPES[BY_NAME[missing].kind if missing in BY_NAME else Kind.TEXT]} AS {name(missing)}"
            for missing in self._staged_names
            if missing not in header
        ]
        checks = [
            f"CASE WHEN {condition} THEN {text(column.name)} END"
            for column in present
            if (condition := failure(column, self._options.zone))
        ]
        cells = ", ".join(f"{text(column)}: 'VARCHAR'" for column in header.names)
        reader = (
            f"read_csv({file_source(export.path)}, columns = {{{cells}}}, compression = 'none', "
            "auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"', strict_mode = true, "
            f"null_padding = false, parallel = {str(parallel).lower()}, store_rejects = true, "
            f"rejects_table = 'malformed_{number}', rejects_scan = 'scans_{number}', "
            f"max_line_size = {MAX_LINE_BYTES}, buffer_size = {BUFFER_BYTES})"
        )
        self._connection.execute(f"DROP TABLE IF EXISTS malformed_{number}; DROP TABLE IF EXISTS scans_{number}")
        try:
            self._connection.execute(
                f"COPY (SELECT {', '.join(values)}, nullif(concat_ws(',', {', '.join(checks)}), '') AS failed "
                f"FROM {reader}) TO {file_target(parquet)} (FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP})"
            )
        except duckdb.InvalidInputException as e:
            raise _unparsable(export, e) from e
        return _Stage(export, header, parquet, structural_rejects(self._connection, number, export))

    def _records(self, stage: _Stage) -> int:
        rows = self._connection.sql(f"SELECT count(*) FROM read_parquet({file_source(stage.parquet)})").fetchall()
        return int(rows[0][0]) + len(stage.malformed)

    def _check_last_row(self, export: Export, shape: Shape, stage: _Stage) -> None:
        last = max(stage.malformed, key=lambda reject: reject.line, default=None)
        if last and not shape.ends_with_newline and last.reason == "too few cells" and last.at_end:
            raise refused(export, f"line {last.line}: the last row is cut off. Download the export again")

    def _make_view(self, stages: list[_Stage]) -> None:
        parts = [
            f"SELECT {number} AS file, file_row_number AS row, * EXCLUDE (file_row_number) "
            f"FROM read_parquet({file_source(stage.parquet)}, file_row_number = true)"
            for number, stage in enumerate(stages)
        ]
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW staged AS {' UNION ALL BY NAME '.join(parts)}")
        (rows,) = self._connection.sql("SELECT count(*) FROM staged").fetchall()
        self.counts.read = int(rows[0]) + sum(len(stage.malformed) for stage in stages)
        if not self.counts.read:
            labels = ", ".join(stage.export.label for stage in stages)
            msg = f"{labels}: a header, but no rows. An empty log would clear every reader; check the export's filters."
            raise InputRefused(msg)

    # Rows that stay behind

    def _find_losers(self, stages: list[_Stage]) -> None:
        """Keep one row of each subscription: the one that changed last, else that of the newest export."""
        self._connection.execute(
            "CREATE OR REPLACE TEMP TABLE left_out AS SELECT file, row, failed AS reason FROM staged "
            "WHERE failed IS NOT NULL"
        )
        newest = [f"staged.{name(REPLICATION_KEY)} DESC NULLS LAST"] if REPLICATION_KEY in self._staged_names else []
        order = ", ".join([*newest, "age.rank DESC", "staged.file DESC", "row DESC"])
        content = ", ".join(name(column) for column in self._options.names)
        columns = self._staged_names if len(stages) > 1 else ()
        self._connection.execute(age_of_files(columns))
        if subscriptions := undecided(self._connection, columns, self._options.names):
            self._logger.warning(
                "%d subscription(s) are in several of the %d files with different content, and nothing in the files "
                "tells which one is the newer: the row of the file with the later name is taken. Remove older exports, "
                "or export the modify time",
                subscriptions,
                len(stages),
            )
        self._connection.execute(f"""
            INSERT INTO left_out
            WITH doubled AS (
                SELECT subscription_id FROM staged WHERE failed IS NULL
                GROUP BY subscription_id HAVING count(*) > 1
            ),
            ranked AS (
                SELECT staged.file, row,
                    row_number() OVER best AS place,
                    first_value(staged.file) OVER best AS winner_file,
                    hash({content}) = first_value(hash({content})) OVER best AS same
                FROM staged SEMI JOIN doubled USING (subscription_id) JOIN age ON age.file = staged.file
                WHERE failed IS NULL
                WINDOW best AS (PARTITION BY subscription_id ORDER BY {order})
            )
            SELECT file, row, CASE WHEN same OR file <> winner_file THEN NULL ELSE {text(DUPLICATE)} END
            FROM ranked WHERE place > 1
        """)

    def _left_out(self) -> int:
        ((rows,),) = self._connection.sql("SELECT count(*) FROM left_out").fetchall()
        return int(rows)

    def _settle_rejects(self, stages: list[_Stage]) -> None:
        rejects = [reject for stage in stages for reject in stage.malformed]
        bad = self._connection.sql("SELECT file, row, reason FROM left_out WHERE reason IS NOT NULL").fetchall()
        for number, stage in enumerate(stages):
            rows = {row: reason for file, row, reason in bad if file == number}
            rejects += cell_rejects(stage.export, stage.header, rows, stage.malformed, self._options.names)
        self.counts.rejected = len({(reject.label, reject.line) for reject in rejects})
        (left_out,) = self._connection.sql("SELECT count(*) FROM left_out WHERE reason IS NULL").fetchall()
        self.counts.superseded = int(left_out[0])
        if not rejects:
            return
        malformed = any(stage.malformed for stage in stages)
        self.counts.complete = not malformed and all(reason == DUPLICATE for _, _, reason in bad)
        if not self.counts.complete:
            self.counts.hold_back = self._earliest_rejected(malformed=malformed)
        path = RejectsFile(self._options.rejects_folder).write(rejects)
        shown = "; ".join(str(reject) for reject in rejects[:SHOWN_REJECTS])
        summary = (
            f"{self.counts.rejected:,} of {self.counts.read:,} rows rejected, written to {path}. The first: {shown}."
        )
        if self.counts.rejected > self._options.max_reject_fraction * self.counts.read:
            msg = (
                f"{summary} That is more than max_reject_fraction ({self._options.max_reject_fraction:g}) allows, so "
                "nothing was sent on. Mend the export, or raise the setting if these rows can be done without."
            )
            raise InputRefused(msg)
        self._logger.warning("%s", summary)

    def _earliest_rejected(self, *, malformed: bool) -> str:
        if malformed or REPLICATION_KEY not in self._staged_names:
            return ""
        key = name(REPLICATION_KEY)
        ((earliest, unknown),) = self._connection.sql(
            f"SELECT {iso_8601(f'min({key})')}, count(*) - count({key}) "
            f"FROM staged JOIN left_out USING (file, row) WHERE reason <> {text(DUPLICATE)}"
        ).fetchall()
        return "" if unknown else str(earliest)


def _unparsable(export: Export, error: duckdb.InvalidInputException) -> InputRefused:
    export.check_unchanged()
    line = odd_line_end(export)
    if line is not None:
        return refused(
            export,
            f"line {line}: ends otherwise than the lines above, or holds a CR outside quotes, so rows cannot be told "
            "apart (line ends are mixed). Save the file with one kind of line end, or download it again",
        )
    return refused(export, f"cannot be read as CSV ({str(error).splitlines()[0]}). Download the export again")
