"""The streams that come from Piano's Publisher API.

All of them list; what differs is what they list, and how they know what changed since the last run:

- what a publisher sets up (terms, promotions …) is listed completely each time, and what leaves is what looks other
  than when it left last. The state keeps a short digest of each, besides the usual bookmark;
- promo codes are listed again, promotion by promotion, when the promotion moved;
- subscriptions are asked for by the time of their last change.
"""

from __future__ import annotations

import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final

from piano_engage_common.stops import AccessRefused, RunStopped
from singer_sdk.singerlib.catalog import Metadata
from typing_extensions import override

from tap_piano import fields
from tap_piano.base import PianoStream
from tap_piano.client import NotFound
from tap_piano.fields import AID, UNKNOWN_FIELDS, Reader, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from singer_sdk.helpers._batch import BatchConfig
    from singer_sdk.helpers.types import Context, Record
    from singer_sdk.singerlib import Catalog
    from singer_sdk.singerlib.catalog import MetadataMapping

    from tap_piano.client import PianoClient
    from tap_piano.fields import Field
    from tap_piano.tap import TapPiano

RECORDS_A_CHUNK: Final = 5_000
DIGEST_BYTES: Final = 6
FAR_AHEAD: Final = 366 * 86_400
"""Seconds by which the end of a window lies ahead, so that no clock is late enough to be beyond it."""

DAY: Final = 86_400
RESTRICTED: Final = ("include", "unlocked")
"""Values of ``term_dependency_type`` with which a promotion is not for every term."""

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
        return Reader(self.fields, self._wanted())

    def chunks(self) -> Iterator[Chunk]:
        """Yield the records that shall leave, and move the state on behind them."""
        raise NotImplementedError

    def _tell_misfits(self, reader: Reader) -> None:
        for name, times in reader.misfits.items():
            self.logger.warning(
                "%s: %d value(s) of %s are not what Piano documents; left blank, and kept in %s where that is selected",
                self.name,
                times,
                name,
                UNKNOWN_FIELDS,
            )

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
                extra = {"time_extracted": datetime.now(tz=UTC).isoformat()}
                version = f',"version":{self._snapshot}' if self._snapshot is not None else ""
                after = f',"time_extracted":"{extra["time_extracted"]}"{version}}}\n'.encode()
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


class Dimension(ApiStream):
    """What a publisher sets up: listed completely, sent when it looks other than when it was sent last.

    Class attributes:
        path: of the endpoint that lists it.
        api_key: what Piano calls the id.
        lists: parameters of each list that has to be read.
    """

    path: ClassVar[str]
    api_key: ClassVar[str]
    lists: ClassVar[tuple[dict[str, Any], ...]] = ({},)

    def entries(self) -> Iterator[tuple[Item, dict[str, Any]]]:
        """Yield each item with what its record says beyond it."""
        lists = self.lists if self._most is None else self.lists[:1]
        for params in lists:
            for item in self._listings.items(self.path, self.api_key, self._most, **params):
                yield item, {}

    @override
    def chunks(self) -> Iterator[Chunk]:
        reader = self._reader()
        before: dict[str, str] = self.stream_state.get("seen", {}) if self._incremental else {}
        seen: dict[str, str] = {}
        changed: list[tuple[str, str, bytes]] = []
        newest = ""
        for item, given in self.entries():
            record = reader.record(item, aid=self._client.aid, **given)
            key, updated = str(record[self.id_property]), record[self.replication_key] or ""
            encoded = encode(record)
            seen[key] = blake2b(encoded, digest_size=DIGEST_BYTES).hexdigest()
            newest = max(newest, updated)
            if self._is_news(before.get(key), seen[key], updated, any_known=bool(before)):
                changed.append((updated, key, encoded))
        self._tell_misfits(reader)
        self.logger.info("%s: %d listed, %d to send", self.name, len(seen), len(changed))
        changed.sort(key=lambda entry: entry[:2])
        for start in range(0, len(changed), RECORDS_A_CHUNK):
            yield [encoded for _, _, encoded in changed[start : start + RECORDS_A_CHUNK]][: self._most]
        if self._incremental and self._most is None:
            self.stream_state["seen"] = seen
            if newest:
                self._move_bookmark(min(newest, _iso(self._client.clock)))
            self._changed_state()

    def _is_news(self, before: str | None, digest: str, updated: str, *, any_known: bool) -> bool:
        """Say whether a record is to be sent.

        Args:
            before: its digest when it was sent last; None when it was not.
            digest: its digest now.
            updated: when the publisher last changed it; empty when Piano does not say.
            any_known: whether the state knows digests at all; else the bookmark has to do.
        """
        if before is not None or any_known:
            return before != digest
        bounds = [moment_of(self._bookmark)] if self._bookmark else []
        bounds += [self._start] if self._start else []
        return not updated or all(moment_of(updated) >= bound for bound in bounds)


class Terms(Dimension):
    """Terms of all types, with prices and conditions."""

    name = "terms"
    path = "term/list"
    api_key = "term_id"
    id_property = "term_id"
    fields = fields.TERMS


class TermChangeOptions(Dimension):
    """Ways from one term to another, taken from the terms they lead away from."""

    name = "term_change_options"
    path = "term/list"
    api_key = "term_id"
    id_property = "term_change_option_id"
    fields = fields.TERM_CHANGE_OPTIONS

    @override
    def entries(self) -> Iterator[tuple[Item, dict[str, Any]]]:
        for term, _ in super().entries():
            for option in term.get("change_options") or ():
                yield option, {"update_date": term.get("update_date")}


class Promotions(Dimension):
    """Promotions, expired and future ones too: Piano's own default would leave them out.

    Which terms a promotion is for does not stand in the promotion; it has a list of its own.
    """

    name = "promotions"
    path = "promotion/list"
    api_key = "promotion_id"
    id_property = "promotion_id"
    fields = fields.PROMOTIONS
    lists = ({"expired": "all"},)

    @override
    def entries(self) -> Iterator[tuple[Item, dict[str, Any]]]:
        asks = "term_ids" in self._wanted()
        for promotion, _ in super().entries():
            restricted = promotion.get("term_dependency_type") in RESTRICTED
            yield promotion, {"term_ids": self._terms_of(promotion) if asks and restricted else None}

    def _terms_of(self, promotion: Item) -> list[str] | None:
        """List the terms a promotion is for; None when it was deleted meanwhile."""
        promotion_id = str(promotion["promotion_id"])
        try:
            pages = self._client.pages("promotion/term/list", Terms.api_key, promotion_id=promotion_id)
            return sorted(str(term[Terms.api_key]) for page in pages for term in page)
        except (NotFound, AccessRefused):
            if not is_gone(self._client, promotion_id):
                raise
            return None


class Resources(Dimension):
    """Resources, the enabled and the disabled ones, which Piano lists apart."""

    name = "resources"
    path = "resource/list"
    api_key = "rid"
    id_property = "resource_id"
    fields = fields.RESOURCES
    lists = ({"disabled": "false"}, {"disabled": "true"})


class Offers(Dimension):
    """Offers with the ids of their terms."""

    name = "offers"
    path = "offer/list"
    api_key = "offer_id"
    id_property = "offer_id"
    fields = fields.OFFERS


class PromoCodes(ApiStream):
    """Promo codes of all promotions.

    There is no list of all codes, nor of those that changed (fact sheet, 3.2). So a promotion's codes are listed when
    it moved since, or when that was too long ago; the state says how each promotion looked.
    """

    name = "promo_codes"
    id_property = "promo_code_id"
    fields = fields.PROMO_CODES
    about_readers = True

    @override
    def chunks(self) -> Iterator[Chunk]:
        promotions = self._listings.items(Promotions.path, Promotions.api_key, self._most, **Promotions.lists[0])
        if self._most is not None:
            yield from self._sample(promotions)
            return
        now = self._client.clock or 0
        known: dict[str, dict[str, Any]] = self.stream_state.get("promotions", {}) if self._incremental else {}
        marks = {str(promotion["promotion_id"]): self._mark(promotion) for promotion in promotions}
        known = {promotion_id: entry for promotion_id, entry in known.items() if promotion_id in marks}
        due = [one for one, mark in marks.items() if self._is_due(known.get(one), mark, now)]
        self.logger.info("promo_codes: %d of %d promotions moved or are due", len(due), len(marks))
        if self._incremental:
            self.stream_state["promotions"] = known
        reader, sent, done = self._reader(), 0, 0
        with self._progress.steps(
            "promo_codes: listing", lambda: 100 * done / len(due), size=f"{len(due):,} promotions"
        ):
            for promotion_id, codes in self._ahead(due, lambda one: self._list(one, reader)):
                done += 1
                if codes is None:
                    known.pop(promotion_id, None)
                    continue
                yield from (codes[i : i + RECORDS_A_CHUNK] for i in range(0, len(codes), RECORDS_A_CHUNK))
                sent += len(codes)
                known[promotion_id] = {"mark": marks[promotion_id], "listed": now}
                self._changed_state()
        self._tell_misfits(reader)
        self.logger.info("promo_codes: %d to send", sent)
        if self._incremental:
            self._move_bookmark(_iso(now))

    def _sample(self, promotions: list[Item]) -> Iterator[Chunk]:
        reader = self._reader()
        for promotion in promotions[:1]:
            codes = self._client.some(
                "promotion/code/list", self._most or 1, promotion_id=str(promotion["promotion_id"])
            )
            yield [encode(reader.record(code, aid=self._client.aid)) for code in codes]

    def _mark(self, promotion: Item) -> str:
        """Reduce a promotion to what moves with its codes, and what decides how their records look."""
        looks = [promotion.get(name) for name in ("uses", "uses_allowed", "update_date", "status", "deleted")]
        return blake2b(encode([*looks, *sorted(self._wanted())]), digest_size=DIGEST_BYTES).hexdigest()

    def _is_due(self, before: dict[str, Any] | None, mark: str, now: int) -> bool:
        if before is None or before.get("mark") != mark:
            return True
        return bool(now - int(before.get("listed", 0)) >= float(self.config["promo_code_refresh_days"]) * DAY)

    def _ahead(
        self, promotion_ids: Iterable[str], make: Callable[[str], Chunk | None]
    ) -> Iterator[tuple[str, Chunk | None]]:
        """List several promotions at once, as many as ``concurrency`` says, and yield them in order."""
        workers = int(self.config["concurrency"]) * 2  # half of them ask, half make records of what came
        pool = ThreadPoolExecutor(workers)
        try:
            waiting: Iterator[tuple[str, Future[Chunk | None]]] = (
                (one, pool.submit(make, one)) for one in promotion_ids
            )
            ahead = deque(islice(waiting, workers + 1))
            while ahead:
                promotion_id, future = ahead.popleft()
                codes = future.result()
                ahead.extend(islice(waiting, 1))
                yield promotion_id, codes
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _list(self, promotion_id: str, reader: Reader) -> Chunk | None:
        """List one promotion's codes; None when it was deleted meanwhile."""
        try:
            return [
                encode(reader.record(code, aid=self._client.aid))
                for page in self._client.pages("promotion/code/list", "promo_code_id", promotion_id=promotion_id)
                for code in page
            ]
        except (NotFound, AccessRefused):
            if not is_gone(self._client, promotion_id):
                raise
            self.logger.warning("promo_codes: promotion %s was deleted meanwhile; it is left out", promotion_id)
            return None


class Subscriptions(ApiStream):
    """Subscriptions that changed since the last run: the small, quick read between two exports.

    An item does not say when it changed. So the bookmark is Piano's clock when the list was begun, less the setting
    ``lookback``, and the window is open to the front: what changes while the list is read cannot leave it.
    """

    name = "subscriptions"
    id_property = "subscription_id"
    fields = fields.SUBSCRIPTIONS
    about_readers = True
    replication_key = "read_at"

    @override
    def chunks(self) -> Iterator[Chunk]:
        reader, began = self._reader(), None
        since = moment_of(self._bookmark) if self._bookmark else self._start if self._incremental else None
        window: dict[str, Any] = {}
        if since is not None:
            end = int(datetime.now(tz=UTC).timestamp()) + FAR_AHEAD
            window = {"select_by": "update", "start_date": int(since.timestamp()), "end_date": end}
        sent = 0
        for page in self._pages(window):
            began = began or self._client.clock
            yield [encode(reader.record(item, aid=self._client.aid, read_at=began)) for item in page]
            sent += len(page)
        self._tell_misfits(reader)
        self.logger.info("subscriptions: %d to send, changed since %s", sent, since.isoformat() if since else "ever")
        if self._incremental and self._most is None:
            lookback = timedelta(minutes=self.config["lookback"])
            self._move_bookmark((moment_of(_iso(began or self._client.clock)) - lookback).isoformat())

    def _pages(self, window: dict[str, Any]) -> Iterator[list[Item]]:
        if self._most is not None:
            yield self._client.some("subscription/list", self._most, **window)
            return
        yield from self._client.pages("subscription/list", "subscription_id", **window)


API_STREAMS: Final[tuple[type[ApiStream], ...]] = (
    Offers,
    PromoCodes,
    Promotions,
    Resources,
    Subscriptions,
    TermChangeOptions,
    Terms,
)


def is_gone(client: PianoClient, promotion_id: str) -> bool:
    """Tell a deleted promotion, which is refused like a wrong token, from a wrong token.

    Raises:
        AccessRefused: it is the token.
    """
    try:
        client.get("promotion/get", promotion_id=promotion_id)
    except (NotFound, AccessRefused):
        client.get("promotion/count")
        return True
    return False


def encode(content: object) -> bytes:
    """Write JSON without blanks, in UTF-8; half a surrogate pair, which UTF-8 cannot hold, as an escape."""
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(content, separators=(",", ":")).encode()


def moment_of(text: str) -> datetime:
    """Read ISO 8601; without an offset it is UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _iso(epoch: int | None) -> str:
    """Write epoch seconds as ISO 8601 in UTC; None is now by our own clock."""
    return (datetime.now(tz=UTC) if epoch is None else datetime.fromtimestamp(epoch, UTC)).isoformat()
