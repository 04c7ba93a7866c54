"""The streams of the tap."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from piano_engage_common.duck import connect
from piano_engage_common.progress import Progress
from piano_engage_common.stops import RunStopped
from singer_sdk import Stream
from singer_sdk.mapper import SameRecordTransform
from typing_extensions import override

from tap_piano.columns import BY_NAME, KNOWN, REPLICATION_KEY
from tap_piano.emit import OrderedRows, Slice, in_bookmark_order
from tap_piano.log import LogCounts, LogOptions, SubscriptionLog
from tap_piano.schema import log_schema
from tap_piano.selection import Selection
from tap_piano.workdir import RunFolder

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    import duckdb
    from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig, SDKBatchMessage
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.singerlib import Catalog

    from tap_piano.files import Export, Header
    from tap_piano.tap import TapPiano

RECORDS_PER_STATE = 25_000
"""RECORD messages between two STATE messages of the fast path."""


class SubscriptionLogStream(Stream):
    """Piano's subscription log, one row per subscription, from export files.

    Rows come from one DuckDB relation: as RECORD lines or BATCH files written by the database, or, where a
    feature of the SDK wants to see each record, through the SDK's own path.
    """

    name = "subscription_log"

    def __init__(self, tap: TapPiano, exports: list[tuple[Export, Header]]) -> None:
        """Bind the stream to the export files.

        Args:
            tap: the tap.
            exports: the files with their headers; none while nobody said where they are.
        """
        self._exports = exports
        self._wire = tap.wire
        self._aid: str | None = tap.config.get("aid")
        unknown = {c.name: c for _, header in exports for c in header.columns if c.name not in BY_NAME}
        super().__init__(tap=tap, schema=log_schema([*KNOWN, *unknown.values()], with_aid=self._aid is not None))
        self._selection = Selection(tap.config["columns"], unknown, exports, with_aid=self._aid is not None)
        self.primary_keys = ["aid", "subscription_id"] if self._aid is not None else ["subscription_id"]
        if exports and all(REPLICATION_KEY in header for _, header in exports):
            self.replication_key = REPLICATION_KEY
        self._selection.apply(self.metadata, by_default=True)
        self._log_counts: LogCounts | None = None
        self._snapshot: int | None = None
        self._complete = False
        self._progress = Progress(self.logger)

    @override
    def log(self, message: str, *args: Any, level: int = logging.INFO, **kwargs: Any) -> None:
        """Log, but not the SDK's "unhandled error" about a stop, whose own message follows and says it all."""
        if not isinstance(sys.exception(), RunStopped):
            super().log(message, *args, level=level, **kwargs)

    # Selection

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        super().apply_catalog(catalog)
        self._metadata = self._mask = None
        if entry := catalog.get_stream(self.name):
            self._selection.apply(entry.metadata, by_default=False)
            if self.forced_replication_method != "FULL_TABLE" and not self._has_bookmarks:
                self.forced_replication_method = "FULL_TABLE"
                self.replication_key = None

    @property
    def _has_bookmarks(self) -> bool:
        return bool(self._exports) and all(REPLICATION_KEY in header for _, header in self._exports)

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Property names of what is delivered, ``aid`` left out."""
        selected = [name for name in self.schema["properties"] if self.mask.get(("properties", name), False)]
        return tuple(name for name in selected if name != "aid")

    # State

    @property
    @override
    def is_sorted(self) -> bool:
        return True

    @property
    @override
    def check_sorted(self) -> bool:
        """The database sorts, and the SDK would compare bookmarks as text, whatever their offset."""
        return False

    @property
    def _incremental(self) -> bool:
        return self.replication_method == "INCREMENTAL"

    @property
    @override
    def emit_activate_version_messages(self) -> bool:
        """The SDK would send it before the rows; ours follows the last one, see :meth:`_close_snapshot`."""
        return False

    def _since(self) -> str | None:
        start = self.get_starting_timestamp(None) if self._incremental else None
        return (start - timedelta(minutes=self.config["lookback"])).isoformat() if start else None

    @override
    def _increment_stream_state(self, latest_record: Record, *, context: Context | None = None) -> None:
        """Move the bookmark on, but not back, not past now, and not past a row that was rejected."""
        if not self._incremental or self._log_counts is None:
            return
        newest = latest_record.get(REPLICATION_KEY)
        if not newest or self._log_counts.hold_back == "":
            return
        limits = [datetime.now(tz=UTC).isoformat(timespec="seconds"), self._log_counts.hold_back]
        bookmark = min([newest, *filter(None, limits)], key=datetime.fromisoformat)
        before = self.stream_state.get("replication_key_value")
        if before is None or datetime.fromisoformat(bookmark) > _moment(before):
            super()._increment_stream_state({REPLICATION_KEY: bookmark}, context=context)

    # Reading

    def _rows(self, folder: Path) -> OrderedRows:
        """Read and check the export files, then put their rows in order on disk.

        Raises:
            InputRefused: a file, or too many of the rows, cannot be used.
            StorageFailed: the disk is full.
        """
        self._write_starting_replication_value(None)
        self._selection.warn_of_missing(self.logger)
        connection = connect(spill=folder / "spill", memory_limit=self.config["memory_limit"])
        log = self._log(connection, folder)
        relation = log.read()
        self._log_counts = log.counts
        rows = self._in_order(connection, relation, folder, ready=log.ready)
        self._open_snapshot(log.counts)
        self.logger.info(
            "subscription_log: %d rows read from %d file(s), %d rejected, %d superseded, %d to send",
            log.counts.read,
            len(self._exports),
            log.counts.rejected,
            log.counts.superseded,
            rows.rows,
        )
        return rows

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
            rows = OrderedRows(connection, relation, folder, ready=ready, constants=constants)
        if ready is None:
            for stage in folder.glob("stage-*.parquet"):
                stage.unlink()
        return rows

    def _open_snapshot(self, counts: LogCounts) -> None:
        """Decide whether what is sent is the complete log, so that what is absent has vanished from Piano."""
        if self._incremental:
            return
        if not counts.complete:
            self.logger.warning(
                "subscription_log: no ACTIVATE_VERSION is sent: with rejected rows this is not the complete log, "
                "and a subscription that is absent has not vanished"
            )
            return
        self._snapshot = self._stream_version = self._initialized_at

    def _close_snapshot(self) -> None:
        """Say that all rows of the snapshot were sent."""
        if self._snapshot is not None:
            self._write_activate_version_message(self._snapshot)
        self._complete = True
        self.state_manager.is_flushed = False
        self._write_state_message()

    @override
    def _write_state_message(self) -> None:
        """Write a STATE when it says something: a full table knows nothing to resume from before its end."""
        if self._incremental or self._complete:
            super()._write_state_message()

    # Writing

    @cached_property
    def _fast(self) -> bool:
        """Whether files of the database can be handed on as they are."""
        plain = [type(stream_map) for stream_map in self.stream_maps] == [SameRecordTransform]
        if plain and not self.config.get("flattening_enabled") and self.ABORT_AT_RECORD_COUNT is None:
            return True
        self.logger.info("subscription_log: a stream map, flattening or a test wants each record: the slower path")
        return False

    @override
    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Yield each row as a record; only the SDK's own path asks for that."""
        with (
            RunFolder(_temporary()) as folder,
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
        if write_messages and self._fast:
            self._write_record_lines()
        else:
            yield from super()._sync_records(context, write_messages=write_messages)
        if write_messages:
            self._close_snapshot()

    def _write_record_lines(self) -> None:
        """Write RECORD messages by the file, with a STATE after each."""
        with self.get_record_counter() as counter, self.get_sync_timer(), RunFolder(_temporary()) as folder:
            rows = self._rows(folder.path)
            extra: dict[str, str | int] = {"time_extracted": datetime.now(tz=UTC).isoformat()}
            if self._snapshot is not None:
                extra["version"] = self._snapshot
            with closing(rows.record_lines(self.name, extra, RECORDS_PER_STATE)) as parts:
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
        root = _local_folder(batch_config.storage.root)
        if root is None:
            self.logger.info("subscription_log: batches go to %s: the slower path", batch_config.storage.root)
            yield from super().get_batches(batch_config, context)
            return
        work = RunFolder(root)
        announced: list[Path] = []
        try:
            rows = self._rows(work.path)
            with closing(_batch_files(rows, batch_config)) as parts:
                for part in parts:
                    self._advance(part.bookmark)
                    announced.append(part.path)
                    yield batch_config.encoding, [part.path.as_uri()]
            self._finalize_state(self.stream_state)
        finally:
            work.remove_all_but(announced)

    @override
    def _sync_batches(self, batch_config: BatchConfig, context: Context | None = None) -> None:
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


def _moment(bookmark: str) -> datetime:
    moment = datetime.fromisoformat(bookmark)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _temporary() -> Path:
    return Path(gettempdir()) / "tap-piano"


def _local_folder(root: str) -> Path | None:
    address = urlparse(root)
    if address.scheme == "file":
        return Path(unquote(address.path))
    return None if address.scheme else Path(root).resolve()


def _batch_files(rows: OrderedRows, batch_config: BatchConfig) -> Generator[Slice]:
    gzip = batch_config.encoding.compression == "gzip"
    if batch_config.encoding.format == "jsonl":
        return rows.json_files(batch_config.batch_size, gzip=gzip)
    return rows.parquet_files(batch_config.batch_size, ", COMPRESSION gzip" if gzip else "")
