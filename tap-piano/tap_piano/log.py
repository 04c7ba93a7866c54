"""The subscription log as a relation: many export files in, one checked set of typed rows out.

Before a single row leaves it is known how many rows are bad, which subscriptions come twice, and that every row that
was read is sent, rejected or superseded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
from piano_engage_common.duck import file_source, name, text
from piano_engage_common.stops import InputRefused, RowsLost, storage_errors

from tap_piano.ages import AGE_COLUMNS, age_of_files, undecided
from tap_piano.columns import KNOWN, REPLICATION_KEY
from tap_piano.emit import iso_8601
from tap_piano.rejects import DUPLICATE, Bad, RejectsFile, find_rejects
from tap_piano.staging import WITHOUT_OFFSET, Stager

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from piano_engage_common.progress import Progress

    from tap_piano.files import Export, Header
    from tap_piano.rejects import Reject
    from tap_piano.staging import Stage

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
        blank: rows of blank cells only, as spreadsheets leave them; they are of nobody and count nowhere else.
        hold_back: the bookmark must stay before this moment (a rejected row changed then); ``""`` when a
            rejected row does not tell when it changed; None when nothing was rejected.
    """

    read: int = 0
    rejected: int = 0
    complete: bool = True
    superseded: int = 0
    blank: int = 0
    hold_back: str | None = None


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
        self._stager = Stager(connection, names=self._staged_names, zone=options.zone, folder=folder, logger=logger)

    def read(self) -> duckdb.DuckDBPyRelation:
        """Read all files.

        Returns:
            The good rows, one per subscription, in the columns of the options.

        Raises:
            InputRefused: a file is damaged or empty, or too many rows are bad.
            RowsLost: the rows do not add up.
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
        relation = self._connection.sql(f"SELECT {columns} FROM staged ANTI JOIN left_out USING (file, row)")
        self._check_sum(relation)
        return relation

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

    def _stage(self, number: int, export: Export, header: Header) -> Stage:
        size = f"{export.megabytes:,.0f} MB"
        try:
            with self._progress.watch(f"{export.label}: reading", self._connection, size=size):
                return self._stager.stage(number, export, header)
        except InputRefused:
            export.check_unchanged()  # a file that still grows looks broken in other ways
            raise

    def _make_view(self, stages: list[Stage]) -> None:
        parts = [
            f"SELECT {number} AS file, file_row_number AS row, * EXCLUDE (file_row_number) "
            f"FROM read_parquet({file_source(stage.parquet)}, file_row_number = true)"
            for number, stage in enumerate(stages)
        ]
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW staged AS {' UNION ALL BY NAME '.join(parts)}")
        self.counts.read = sum(stage.records for stage in stages)
        self.counts.blank = sum(stage.sifted.blank for stage in stages if stage.sifted)
        if not self.counts.read:
            labels = ", ".join(stage.export.label for stage in stages)
            msg = f"{labels}: a header, but no rows. An empty log would clear every reader; check the export's filters."
            raise InputRefused(msg)

        self._warn_of_offsets()

    def _warn_of_offsets(self) -> None:
        ((stamps,),) = self._connection.sql(f"SELECT sum({name(WITHOUT_OFFSET)}) FROM staged").fetchall()
        if stamps:
            self._logger.warning(
                "%s stamps carry no offset and are read as times of %s. If Piano shows another zone, set `timezone`",
                f"{int(stamps):,}",
                self._options.zone,
            )

    # Rows that stay behind

    def _find_losers(self, stages: list[Stage]) -> None:
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

    def _settle_rejects(self, stages: list[Stage]) -> None:
        """Count what is left out, by the database's own lists, and stop where that is too much."""
        bad = self._connection.sql("SELECT file, row, reason FROM left_out WHERE reason IS NOT NULL").fetchall()
        malformed = sum(stage.malformed for stage in stages)
        self.counts.rejected = malformed + len(bad)
        self.counts.superseded = self._left_out() - len(bad)
        if not self.counts.rejected:
            return
        self.counts.complete = not malformed and not self._may_be_anybody()
        if not self.counts.complete:
            self.counts.hold_back = self._earliest_rejected(malformed=bool(malformed))
        shown: list[str] = []
        path = RejectsFile(self._options.rejects_folder).write(self._rejects(stages, bad, shown))
        summary = (
            f"{self.counts.rejected:,} of {self.counts.read:,} rows rejected, written to {path}. "
            f"The first: {'; '.join(shown)}."
        )
        if self.counts.rejected > self._options.max_reject_fraction * self.counts.read:
            msg = (
                f"{summary} That is more than max_reject_fraction ({self._options.max_reject_fraction:g}) allows, so "
                "nothing was sent on. Mend the export, or raise the setting if these rows can be done without."
            )
            raise InputRefused(msg)
        self._logger.warning("%s", summary)

    def _rejects(self, stages: list[Stage], bad: list[tuple[int, int, str]], shown: list[str]) -> Iterator[Reject]:
        """Yield the rejects as they are found in the files; the first few are put into *shown* as well."""
        for number, stage in enumerate(stages):
            failed = {row: reason for file, row, reason in bad if file == number}
            if not (failed or stage.malformed):
                continue
            rows = find_rejects(
                stage.read_rows(), stage.export.label, stage.header, Bad(stage.unread, failed), self._options.names
            )
            for reject in rows:
                if len(shown) < SHOWN_REJECTS:
                    shown.append(str(reject))
                yield reject

    def _may_be_anybody(self) -> bool:
        """Return whether a rejected row may be one of a subscription that no other row is of.

        One that is only the double of another is not; but a double of another user may have a copied id.
        """
        ((rows,),) = self._connection.sql(f"""
            SELECT count(*) FROM left_out JOIN staged USING (file, row)
            WHERE reason <> {text(DUPLICATE)} OR (
                reason = {text(DUPLICATE)} AND user_id IS DISTINCT FROM (
                    SELECT any_value(kept.user_id) FROM staged AS kept ANTI JOIN left_out USING (file, row)
                    WHERE kept.subscription_id = staged.subscription_id
                )
            )
        """).fetchall()
        return bool(rows)

    def _check_sum(self, relation: duckdb.DuckDBPyRelation) -> None:
        """Check that every row that was read is sent, rejected or superseded.

        Raises:
            RowsLost: a row is none of these, or more than one.
        """
        ((sent,),) = relation.aggregate("count(*)").fetchall()
        counts = self.counts
        if sent + counts.rejected + counts.superseded != counts.read:
            msg = (
                f"Of {counts.read:,} rows read, {sent:,} would be sent, {counts.rejected:,} were rejected and "
                f"{counts.superseded:,} superseded, which does not add up. Nothing was sent. Report this with the "
                f"version of DuckDB ({duckdb.__version__})."
            )
            raise RowsLost(msg)

    def _earliest_rejected(self, *, malformed: bool) -> str:
        if malformed or REPLICATION_KEY not in self._staged_names:
            return ""
        key = name(REPLICATION_KEY)
        ((earliest, unknown),) = self._connection.sql(
            f"SELECT {iso_8601(f'min({key})')}, count(*) - count({key}) "
            f"FROM staged JOIN left_out USING (file, row) WHERE reason <> {text(DUPLICATE)}"
        ).fetchall()
        return "" if unknown else str(earliest)
