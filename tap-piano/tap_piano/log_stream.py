"""The stream of the subscription log, from export files or from an export job."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

from piano_engage_common.duck import connect
from piano_engage_common.stops import ConfigRefused, InputRefused
from singer_sdk.singerlib.catalog import Metadata
from typing_extensions import override

from tap_piano.base import PianoStream, moment_of, temporary_folder
from tap_piano.columns import BY_NAME, KNOWN, REPLICATION_KEY, property_name
from tap_piano.emit import OrderedRows, Slice, in_bookmark_order
from tap_piano.export_size import KEY, end_of_a_repeated_file, last_size, measure
from tap_piano.fields import NAMEABLE
from tap_piano.files import read_header
from tap_piano.handed_on import SKIP, claim, claimed, signature, signature_of_job
from tap_piano.listing import Listing, list_files
from tap_piano.log import LogCounts, LogOptions, SubscriptionLog
from tap_piano.schema import log_schema
from tap_piano.selection import Selection
from tap_piano.workdir import RunFolder, local_folder

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    import duckdb
    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig, SDKBatchMessage
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.singerlib import Catalog

    from tap_piano.columns import Column
    from tap_piano.export_size import ExportSize
    from tap_piano.files import Export, Header
    from tap_piano.reports import ExportJob
    from tap_piano.tap import TapPiano

CLOCK_SLACK = timedelta(minutes=5)
"""How far ahead of our clock the one that stamps changes may be."""

RECORDS_PER_STATE = 25_000
"""RECORD messages between two STATE messages of the fast path."""


class SubscriptionLogStream(PianoStream):
    """Piano's subscription log, one row per subscription, from export files or from an export job of the Reports API.

    Rows come from one DuckDB relation: as RECORD lines or BATCH files written by the database, or, where a
    feature of the SDK wants to see each record, through the SDK's own path.
    """

    name = "subscription_log"

    def __init__(self, tap: TapPiano, listing: Listing, job: ExportJob | None = None) -> None:
        """Bind the stream to the export files, as far as there are any yet.

        Args:
            tap: the tap.
            listing: the files; empty while nobody said where they are.
            job: what gets a file from Piano when a sync begins.

        Raises:
            InputRefused: the header of an export cannot be read.
        """
        exports = _with_headers(listing)
        self._exports = exports
        self._listing = listing
        self._job = job
        self._catalog_changed = tap.catalog_changed
        self._download: Path | None = None
        self._aid: str | None = tap.config.get("aid")
        unknown = _unknown_columns(exports)
        super().__init__(tap, log_schema([*KNOWN, *unknown.values()], with_aid=self._aid is not None))
        self._selection = self._select(unknown)
        self.primary_keys = ["aid", "subscription_id"] if self._aid is not None else ["subscription_id"]
        if self._has_bookmarks:
            self.replication_key = REPLICATION_KEY
        self._selection.apply(self.metadata, by_default=True)
        self._log_counts: LogCounts | None = None
        self._signature: str | None = None
        self._before: str | None = None
        self._whole = False
        self._size: ExportSize | None = None
        self._is_part = False
        self._send_all = False
        self._first = True

    # Selection

    def _select(self, unknown: Mapping[str, Column]) -> Selection:
        return Selection(
            self.config["columns"],
            unknown,
            self._exports,
            with_aid=self._aid is not None,
            elsewhere=NAMEABLE,
            complete=self._job is None or bool(self._exports),
        )

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        super().apply_catalog(catalog)
        self._metadata = self._mask = None
        if entry := catalog.get_stream(self.name):
            self._selection.apply(entry.metadata, by_default=False)
            if self.forced_replication_method != "FULL_TABLE" and not self._has_bookmarks:
                self._read_it_all()

    def _read_it_all(self) -> None:
        self.forced_replication_method = "FULL_TABLE"
        self.replication_key = None

    @property
    def _has_bookmarks(self) -> bool:
        if not self._exports:
            return self._job is not None
        return all(REPLICATION_KEY in header for _, header in self._exports)

    @property
    def _names(self) -> tuple[str, ...]:
        """Property names of what is delivered, ``aid`` left out."""
        selected = [name for name in self.schema["properties"] if self.mask.get(("properties", name), False)]
        return tuple(name for name in selected if name != "aid")

    # The export job

    @override
    def get_replication_key_signpost(self, context: Context | None = None) -> datetime | Any | None:
        """Have the export made first: this is what a sync asks for before it writes the SCHEMA.

        Raises:
            ConfigRefused: nobody said where the log comes from.
        """
        if self._job is None and not self._exports:
            msg = (
                "export_path: is missing. Set it to read export files, or set api_token and aid to have Piano make the "
                "exports."
            )
            raise ConfigRefused(msg)
        if self._job is not None and not self.sampling and not self._exports:
            self._fetch(self._job)
        return super().get_replication_key_signpost(context)

    def _fetch(self, job: ExportJob) -> None:
        """Get the export from Piano and bind its header.

        Raises:
            Outage, AccessRefused, AnswerRefused: there is no export to be had.
            InputRefused: what Piano made is no subscription log.
        """
        work = RunFolder(temporary_folder())
        finalize(self, shutil.rmtree, work.path, ignore_errors=True)
        self._download = work.path
        job.fetch(self._selection.groups(self._names), work.path / "export")
        self._listing = list_files([work.path / "export"], label=f"export {job.export_id}")
        self._bind(_with_headers(self._listing))

    def _bind(self, exports: list[tuple[Export, Header]]) -> None:
        """Settle what leaves, now that the headers are known."""
        self._exports = exports
        unknown = _unknown_columns(exports)
        added = log_schema(unknown.values(), with_aid=False)["properties"]
        for schema in (self.schema, self._input_schema):
            if schema is not None:
                schema["properties"] |= {name: kind for name, kind in added.items() if name not in schema["properties"]}
        self._selection = self._select(unknown)
        for name in unknown:
            self.metadata.setdefault(("properties", name), Metadata(selected=True))
        self._selection.apply(self.metadata, by_default=False)
        self._mask = self._stream_maps = None
        if self._incremental and not self._has_bookmarks:
            self.logger.warning("subscription_log: the export has no column 'Modify time': all of it is sent")
            self._read_it_all()
        self._catalog_changed()

    def _discard_download(self) -> None:
        if self._download is not None:
            shutil.rmtree(self._download, ignore_errors=True)

    # State

    def _since(self) -> str | None:
        if not self._incremental:
            return None
        if self._send_all:  # all but what the settings leave out
            return self.config.get("start_date")
        start = self.get_starting_timestamp(None)
        return (start - timedelta(minutes=self.config["lookback"])).isoformat() if start else None

    @property
    def _now(self) -> datetime:
        """The moment that no change lies behind: now, by the later of our clock and Piano's."""
        now = datetime.now(tz=UTC)
        made_at = None if self._job is None else self._job.made_at
        return now if made_at is None else max(now, made_at)

    @property
    def _until(self) -> datetime:
        return self._now + CLOCK_SLACK

    @override
    def _increment_stream_state(self, latest_record: Record, *, context: Context | None = None) -> None:
        """Move the bookmark on, but not back, not past a rejected row, and not for a stamp in the future.

        A change may come whose stamp lies between now and that one, so it is as if such a row had none.
        """
        if not self._incremental or self._log_counts is None:
            return
        newest = latest_record.get(REPLICATION_KEY)
        if not newest or self._log_counts.hold_back == "" or datetime.fromisoformat(newest) > self._until:
            return
        limits = [self._now.isoformat(timespec="seconds"), self._log_counts.hold_back]
        bookmark = min([newest, *filter(None, limits)], key=datetime.fromisoformat)
        before = self.stream_state.get("replication_key_value")
        if before is None or datetime.fromisoformat(bookmark) > moment_of(before):
            super()._increment_stream_state({REPLICATION_KEY: bookmark}, context=context)

    # What was handed on before

    def stand_on(self, bookmark: dict[str, Any]) -> None:
        """Build on what the run before handed on; that is all that this one claims until it has done so itself."""
        self._before = claimed(bookmark)
        claim(bookmark, self._before, after=self._before)

    def _is_handed_on(self) -> bool:
        """Find out whether the files hold nothing but what was handed on before."""
        if self._job is not None or self.config["unchanged_files"] != SKIP or self.ABORT_AT_RECORD_COUNT is not None:
            return False
        if self._listing.passed_over:  # what was left out is looked at in every run
            return False
        self._signature = signature(
            [export for export, _ in self._exports], progress=self._progress, **self._way_of_reading
        )
        if self._signature != self._before:
            return False
        self.logger.info(
            "subscription_log: the export is the one that was read before (%d file(s)), and was handed on; nothing is "
            "read again (setting unchanged_files)",
            len(self._exports),
        )
        return True

    @property
    def _way_of_reading(self) -> dict[str, Any]:
        properties = [name for name in self.schema["properties"] if self.mask.get(("properties", name), False)]
        return {"config": self.config, "properties": properties, "method": self.replication_method}

    def _begin_claim(self) -> None:
        """Claim nothing before the last row, for files are passed by when they were handed on.

        What comes of a job is not, and it goes by the bookmark: of all that is older, it may claim that from the first.
        """
        self._whole = not self._incremental or self.stream_state.get("replication_key_value") is None
        claim(self.stream_state, None)
        if self._job is not None:
            self._signature = signature_of_job(**self._way_of_reading)
            self._claim()

    def _claim(self) -> None:
        before = self._before if self._incremental else None
        claim(self.stream_state, self._signature, after=before, whole=self._whole)

    @override
    def _close_snapshot(self) -> None:
        """Claim what was handed on, unless rows were rejected or are missing: those are looked at in every run."""
        if self._log_counts is not None and not self._log_counts.rejected and not self._is_part:
            self._claim()
        if self._size is not None and not self._listing.passed_over:
            self.stream_state[KEY] = self._size.as_state()
        super()._close_snapshot()

    # Reading

    def _rows(self, folder: Path) -> OrderedRows:
        """Read and check the export files, then put their rows in order on disk.

        Raises:
            InputRefused: a file, or too many of the rows, cannot be used.
            StorageFailed: the disk is full.
        """
        self._first = self._before is None and self.stream_state.get("replication_key_value") is None
        self._write_starting_replication_value(None)
        self._begin_claim()
        self._check_headers()
        self._selection.warn_of_missing(self.logger)
        connection = connect(spill=folder / "spill", memory_limit=self.config["memory_limit"])
        log = self._log(connection, folder)
        relation = log.read()
        self._log_counts = log.counts
        self._weigh_what_is_missing(log.counts)
        if self._incremental and not self.sampling:
            self._weigh_size(connection, relation, log.counts)
        rows = self._in_order(connection, relation, folder, ready=log.ready)
        self._discard_download()
        if not self._incremental:
            self._open_snapshot_of(log.counts)
        self.logger.info(
            "subscription_log: %d rows read from %d file(s), %d rejected, %d superseded, %d to send",
            log.counts.read,
            len(self._exports),
            log.counts.rejected,
            log.counts.superseded,
            rows.rows,
        )
        return rows

    def _check_headers(self) -> None:
        """Name headers that are nearly those of wanted columns; without history they stop the run.

        With history whoever keeps it sees that a column is gone.

        Raises:
            InputRefused: the state knows of no run before.
        """
        if not (found := self._selection.mistyped()):
            return
        words = "; ".join(f"{header[:40]!r}: did you mean {meant!r}?" for header, meant in sorted(found.items()))
        msg = f"subscription_log: the export has headers that are not known: {words} Correct them in the export."
        if not self._first:
            self.logger.warning("%s", msg)
            return
        without = ",".join(f"-{property_name(meant)}" for meant in sorted(found.values()))
        msg += f" Nothing was sent. If it is not meant to have these columns, set columns: traits,{without}"
        raise InputRefused(msg)

    def _log(self, connection: duckdb.DuckDBPyConnection, folder: Path) -> SubscriptionLog:
        unpacked = folder / "unpacked"
        unpacked.mkdir()
        return SubscriptionLog(
            connection,
            [(export.unpack(unpacked), header) for export, header in self._exports],
            LogOptions(
                names=self._names,
                zone=self.config["timezone"],
                max_reject_fraction=self.config["max_reject_fraction"],
                rejects_folder=Path(self.config["rejects_path"]),
            ),
            folder=folder,
            progress=self._progress,
            logger=self.logger,
        )

    def _in_order(
        self,
        connection: duckdb.DuckDBPyConnection,
        relation: duckdb.DuckDBPyRelation,
        folder: Path,
        *,
        ready: Path | None,
    ) -> OrderedRows:
        if self._incremental:
            relation, ready = in_bookmark_order(relation, since=self._since()), None
        constants = {} if self._aid is None else {"aid": self._aid}
        with self._progress.watch("subscription_log: putting rows in order", connection):
            until = self._until.isoformat()
            rows = OrderedRows(connection, relation, folder, ready=ready, constants=constants, until=until)
        if ready is None:
            for stage in folder.glob("stage-*.parquet"):
                stage.unlink()
        return rows

    def _weigh_what_is_missing(self, counts: LogCounts) -> None:
        """Keep the log from counting as complete, and the bookmark from moving, where files were not read."""
        if not self._listing.passed_over:
            return
        counts.complete, counts.hold_back = False, ""
        self.logger.warning(
            "export_path: %d file(s) look like exports and are not read: %s. Until they are, the log does not count "
            "as complete: nothing that is missing from it is cleared, and the bookmark stays. Rename, unpack or move "
            "them, or name what to read with a glob such as 'exports/*.csv'",
            len(self._listing.passed_over),
            self._listing,
        )

    def _weigh_size(
        self, connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, counts: LogCounts
    ) -> None:
        """Keep the bookmark from passing what is missing in an export, or was missing in the last one."""
        min_share, lookback = float(self.config["min_export_share"]), timedelta(minutes=self.config["lookback"])
        last = last_size(self.stream_state)
        self._size = measure(relation, last, until=self._until, lookback=lookback)
        if last is not None and self._size.is_shrunken(last, min_share):
            counts.hold_back = ""
            self._warn_of_part(f"{self._size.rows:,} subscriptions, and the last complete one held {last['rows']:,}")
        elif last is not None and self._size.has_more_than(last):
            self._send_all = True
            self.logger.warning(
                "subscription_log: the last export lacked subscriptions that this one holds; all rows are sent"
            )
        if min_share and len(self._exports) > 1:
            newest = end_of_a_repeated_file(connection, min_share=min_share, until=self._until)
            if newest is not None:
                counts.hold_back = newest if counts.hold_back is None else min(newest, counts.hold_back)
                self._warn_of_part(f"fewer subscriptions than an older one beside it, which ends at {newest}")

    def _warn_of_part(self, what: str) -> None:
        self._size = None
        self._is_part = True
        self.logger.warning(
            "subscription_log: the newest export holds %s (min_export_share is %s): it looks cut off or filtered. What "
            "it holds is sent, and the bookmark stays, so that the next complete export brings the rest. If it is "
            "complete, run once with --full-refresh or lower min_export_share",
            what,
            self.config["min_export_share"],
        )

    @property
    @override
    def _ended_well(self) -> bool:
        return not self._listing.passed_over and not self._is_part

    def _open_snapshot_of(self, counts: LogCounts) -> None:
        """Decide whether what is sent is the complete log, so that what is absent has vanished from Piano."""
        if counts.complete:
            self._open_snapshot()
            return
        why = "files were not read" if self._listing.passed_over else "rows were rejected"
        self.logger.warning(
            "subscription_log: no ACTIVATE_VERSION is sent: %s, so this is not the complete log, and a subscription "
            "that is absent has not vanished",
            why,
        )

    # Writing

    @override
    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Yield each row as a record; only the SDK's own path asks for that."""
        with (
            RunFolder(temporary_folder()) as folder,
            closing(self._rows(folder.path).json_files(RECORDS_PER_STATE, gzip=False)) as parts,
        ):
            for part in parts:
                with part.path.open(encoding="utf-8") as lines:
                    yield from map(json.loads, lines)
                part.path.unlink()

    @override
    def _sync_records(
        self, context: Context | None = None, *, write_messages: bool = True
    ) -> Generator[dict[str, Any], Any, Any]:
        if self._job is not None and self.sampling:
            self._job.probe()
            return
        if write_messages and self._is_handed_on():
            pass
        elif write_messages and self._fast:
            self._write_record_lines()
        else:
            yield from super()._sync_records(context, write_messages=write_messages)
        if write_messages:
            self._close_snapshot()

    def _write_record_lines(self) -> None:
        """Write RECORD messages by the file, with a STATE after each."""
        with self.get_record_counter() as counter, self.get_sync_timer(), RunFolder(temporary_folder()) as folder:
            rows = self._rows(folder.path)
            with closing(rows.record_lines(self.name, self._beside_record(), RECORDS_PER_STATE)) as parts:
                for part in self._told(parts, rows.rows):
                    self._wire.copy_lines(part.path)
                    part.path.unlink()
                    counter.increment(part.rows)
                    self._advance(part.bookmark)
                    self._write_state_message()
        self._finalize_state(self.stream_state)

    def _told(self, parts: Iterable[Slice], total: int) -> Iterator[Slice]:
        """Hand on *parts*, and tell how far the sending is."""
        sent = 0
        with self._progress.steps(
            "subscription_log: sending records", lambda: 100 * sent / total, size=f"{total:,} rows"
        ):
            for part in parts:
                yield part
                sent += part.rows

    def _advance(self, bookmark: str | None) -> None:
        if self._incremental:
            self._increment_stream_state({REPLICATION_KEY: bookmark})
            self.state_manager.is_flushed = False

    # Batches

    @override
    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        """A BATCH passes stream maps by; where there are any, records go out instead."""
        return super().get_batch_config(config) if self._fast else None

    @override
    def get_batches(
        self, batch_config: BatchConfig, context: Context | None = None
    ) -> Iterable[tuple[BaseBatchFileEncoding, list[str]]]:
        """Yield the files that the database wrote; whoever reads them removes them.

        A folder that is not on this machine is left to the SDK, which goes through the records.
        """
        root = local_folder(batch_config.storage.root)
        if root is None:
            self.logger.info("subscription_log: batches go to %s: the slower path", batch_config.storage.root)
            yield from super().get_batches(batch_config, context)
            return
        work = RunFolder(root)
        announced: list[Path] = []
        try:
            rows = self._rows(work.path)
            with closing(rows.batch_files(batch_config)) as parts:
                for part in parts:
                    self._advance(part.bookmark)
                    announced.append(part.path)
                    yield batch_config.encoding, [part.path.as_uri()]
            self._finalize_state(self.stream_state)
        finally:
            work.remove_all_but(announced)

    @override
    def _sync_batches(self, batch_config: BatchConfig, context: Context | None = None) -> None:
        if not self._is_handed_on():
            super()._sync_batches(batch_config, context)
        self._close_snapshot()

    @override
    def _generate_batch_messages(
        self, encoding: BaseBatchFileEncoding, manifest: list[str]
    ) -> Generator[SDKBatchMessage, None, None]:
        """Add the version, which the SDK leaves out of BATCH messages."""
        for message in super()._generate_batch_messages(encoding, manifest):
            message.version = self._snapshot
            yield message


def _with_headers(listing: Listing) -> list[tuple[Export, Header]]:
    return [(export, read_header(export)) for export in listing.exports]


def _unknown_columns(exports: Iterable[tuple[Export, Header]]) -> dict[str, Column]:
    return {column.name: column for _, header in exports for column in header.columns if column.name not in BY_NAME}
