"""A stream of the Publisher API: what may leave, how far the state is, and the way out, a chunk at a time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from piano_engage_common.stops import RunStopped
from singer_sdk.singerlib.catalog import Metadata
from typing_extensions import override

from tap_piano.base import PianoStream, moment_of
from tap_piano.fields import AID
from tap_piano.records import UNKNOWN_FIELDS, Reader, schema_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from singer_sdk.helpers._batch import BatchConfig
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.singerlib import Catalog
    from singer_sdk.singerlib.catalog import MetadataMapping

    from tap_piano.client import PianoClient
    from tap_piano.records import Field
    from tap_piano.tap import TapPiano

Chunk = list[bytes]
"""Some records, each as JSON."""

Item = dict[str, Any]


class Listings:
    """Complete lists that several streams of one run need; each is asked for once.

    Args:
        client: asks for them.

    Attributes:
        client: the same.
    """

    def __init__(self, client: PianoClient) -> None:
        """Begin without any."""
        self.client = client
        self._known: dict[str, list[Item]] = {}

    def items(self, path: str, id_key: str, most: int | None, **params: Any) -> list[Item]:  # noqa: ANN401 - of a query
        """List all items, or the first *most* with one request."""
        key = json.dumps([path, most, params], sort_keys=True)
        if key not in self._known:
            self._known[key] = (
                [item for page in self.client.pages(path, id_key, **params) for item in page]
                if most is None
                else self.client.some(path, most, **params)
            )
        return self._known[key]


class ApiStream(PianoStream):
    """A stream of the Publisher API.

    Class attributes:
        fields: its properties.
        id_property: the one that, with ``aid``, tells records apart.
        about_readers: whether records are about readers, so that unknown fields may be personal.
    """

    fields: ClassVar[tuple[Field, ...]]
    id_property: ClassVar[str]
    about_readers: ClassVar[bool] = False
    replication_key = "update_date"

    def __init__(self, tap: TapPiano, listings: Listings) -> None:
        """Make the stream; nothing is asked for yet."""
        self._listings = listings
        self._client = listings.client
        self._rejected = 0
        super().__init__(tap, schema_of(self.fields))
        self.primary_keys = [AID.name, self.id_property]
        self._allowed = self._allowed_names()
        self._narrow(self.metadata, by_default=True)

    # Selection

    def _allowed_names(self) -> frozenset[str]:
        """Resolve the setting ``columns``: personal properties, and unknown ones, leave only when it names them."""
        setting = self.config["columns"]
        words = {word.strip() for word in (setting.split(",") if isinstance(setting, str) else setting)}
        everything = "all" in words
        names = {field.name for field in self.fields if everything or not field.personal or field.name in words}
        if everything or not self.about_readers or UNKNOWN_FIELDS in words:
            names.add(UNKNOWN_FIELDS)
        return frozenset(names)

    def _narrow(self, metadata: MetadataMapping, *, by_default: bool) -> None:
        for breadcrumb, entry in metadata.items():
            if not breadcrumb:
                continue
            name = breadcrumb[1]
            if name in self.primary_keys or name == self.replication_key:
                entry.inclusion = Metadata.InclusionType.AUTOMATIC
            elif by_default:
                entry.selected_by_default = name in self._allowed
            elif name not in self._allowed:
                entry.inclusion = Metadata.InclusionType.AVAILABLE
                entry.selected = False

    @override
    def apply_catalog(self, catalog: Catalog) -> None:
        super().apply_catalog(catalog)
        self._metadata = self._mask = None
        if entry := catalog.get_stream(self.name):
            self.primary_keys = [AID.name, self.id_property]
            self._narrow(entry.metadata, by_default=False)

    def _wanted(self) -> frozenset[str]:
        return frozenset(name for name in self.schema["properties"] if self.mask.get(("properties", name), False))

    # Reading

    @property
    def _most(self) -> int | None:
        """How many items a test wants at most; None in earnest."""
        limit = self.ABORT_AT_RECORD_COUNT
        return None if limit is None else max(int(limit), 1)

    @property
    def _bookmark(self) -> str | None:
        """Where the last run ended; None when there was none, or when all is wanted."""
        value = self.stream_state.get("replication_key_value") if self._incremental else None
        return None if value is None else str(value)

    @property
    def _start(self) -> datetime | None:
        """The setting ``start_date``."""
        start = self.config.get("start_date")
        return None if start is None else moment_of(str(start))

    def _reader(self) -> Reader:
        return Reader(self.fields, self._wanted(), self.id_property)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the records that shall leave, and move the state on behind them."""
        raise NotImplementedError

    def _records(self, reader: Reader, items: Iterable[object], **given: Any) -> Chunk:  # noqa: ANN401 - JSON
        """Build the records of *items* that can be used, as JSON."""
        records = (reader.record(item, aid=self._client.aid, **given) for item in items)
        return [encode(record) for record in records if record is not None]

    def _tell_misfits(self, reader: Reader) -> None:
        for name, times in reader.misfits.items():
            self.logger.warning(
                "%s: %d value(s) of %s are not what Piano documents%s; left blank, and kept in %s where selected",
                self.name,
                times,
                name,
                _listed(reader.bad.get(name, [])),
                UNKNOWN_FIELDS,
            )
        self._rejected += reader.rejected
        if reader.rejected:
            of = ", ".join(f"{name}{_listed(ids)}" for name, ids in reader.bad.items() if name not in reader.misfits)
            self.logger.warning(
                "%s: %d record(s) are rejected and left out, for a blank would say something else than Piano in %s",
                self.name,
                reader.rejected,
                of or ", ".join(reader.bad),
            )

    @override
    def _close_snapshot(self) -> None:
        """Leave the snapshot open when records were rejected: what is absent has not vanished from Piano."""
        if self._snapshot is not None and self._rejected:
            self.logger.warning(
                "%s: no ACTIVATE_VERSION is sent: with rejected records this is not the complete list", self.name
            )
            self._snapshot = None
        super()._close_snapshot()

    @override
    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Yield each record; only the SDK's own path asks for that."""
        for chunk in self._read():
            yield from map(json.loads, chunk)

    def _read(self) -> Iterator[Chunk]:
        if not self._incremental:
            self._open_snapshot()
        yield from self.chunks()

    # State

    @override
    def _increment_stream_state(self, latest_record: Record, *, context: Context | None = None) -> None:
        """Leave the state alone: it moves in :meth:`chunks`, when it is known that nothing can be missing."""

    def _move_bookmark(self, value: str) -> None:
        """Set the bookmark, which never goes back."""
        before = self._bookmark
        if before is None or moment_of(value) > moment_of(before):
            self.stream_state["replication_key"] = self.replication_key
            self.stream_state["replication_key_value"] = value
        self._changed_state()

    def _changed_state(self) -> None:
        self.state_manager.is_flushed = False

    # Writing

    @override
    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        """What the Publisher API tells is not much: it goes out as records."""
        return None

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
        """Write RECORD messages a chunk at a time, with a STATE after each."""
        with self.get_record_counter() as counter, self.get_sync_timer():
            before = f'{{"type":"RECORD","stream":{json.dumps(self.name)},"record":'.encode()
            for chunk in self._told_before_it_ends(filter(None, self._read())):
                after = f",{json.dumps(self._beside_record(), separators=(',', ':'))[1:]}\n".encode()
                self._wire.write_lines(b"".join(before + record + after for record in chunk))
                for _ in chunk:
                    counter.increment()
                self._write_state_message()

    def _told_before_it_ends(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Hand on *chunks*; when Piano lets us down, tell first how far all is well."""
        try:
            yield from chunks
        except RunStopped:
            self._write_state_message()
            raise


def encode(content: object) -> bytes:
    """Write JSON without blanks, in UTF-8.

    Raises:
        ValueError: it holds what JSON or Unicode does not have.
    """
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _listed(ids: list[str]) -> str:
    return f" ({', '.join(ids)})" if ids else ""


def iso_of(epoch: int | None) -> str:
    """Write epoch seconds as ISO 8601 in UTC; None is now by our own clock."""
    return (datetime.now(tz=UTC) if epoch is None else datetime.fromtimestamp(epoch, UTC)).isoformat()
