"""The streams that come from Piano's Publisher API.

All of them list; what differs is what they list, and how they know what changed since the last run:

- what a publisher sets up (terms, promotions …) is listed completely each time, and what leaves is what looks other
  than when it left last. The state keeps a short digest of each, besides the usual bookmark;
- promo codes are listed again, promotion by promotion, when the promotion moved;
- subscriptions are asked for by the time of their last change.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final

from piano_engage_common.stops import AccessRefused
from typing_extensions import override

from tap_piano import fields
from tap_piano.answers import NotFound
from tap_piano.api_stream import ApiStream, encode, iso_of
from tap_piano.base import moment_of
from tap_piano.client import key_of
from tap_piano.records import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    from tap_piano.api_stream import Chunk, Item
    from tap_piano.client import PianoClient
    from tap_piano.records import Reader

RECORDS_A_CHUNK: Final = 5_000
DIGEST_BYTES: Final = 6
FAR_AHEAD: Final = 366 * 86_400
"""Seconds by which the end of a window lies ahead, so that no clock is late enough to be beyond it."""

DAY: Final = 86_400
RESTRICTED: Final = ("include", "unlocked")
"""Values of ``term_dependency_type`` with which a promotion is not for every term."""


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
            if record is None:
                continue
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
                self._move_bookmark(min(newest, iso_of(self._client.clock)))
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
            options = term.get("change_options") or ()
            for option in options if isinstance(options, list | tuple) else (options,):
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
            restricted = str(promotion.get("term_dependency_type")) in RESTRICTED
            key = key_of(promotion, self.api_key)
            yield promotion, {"term_ids": self._terms_of(str(key)) if asks and restricted and key else None}

    def _terms_of(self, promotion_id: str) -> list[Any] | None:
        """List the terms a promotion is for; None when it was deleted meanwhile."""
        try:
            pages = self._client.pages("promotion/term/list", Terms.api_key, promotion_id=promotion_id)
            return sorted((term.get(Terms.api_key) for page in pages for term in page), key=str)
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
        marks = {str(key): self._mark(one) for one in promotions if (key := key_of(one, Promotions.api_key))}
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
            self._move_bookmark(iso_of(now))

    def _sample(self, promotions: list[Item]) -> Iterator[Chunk]:
        reader = self._reader()
        for promotion_id in [key for one in promotions if (key := key_of(one, Promotions.api_key))][:1]:
            codes = self._client.some("promotion/code/list", self._most or 1, promotion_id=str(promotion_id))
            yield self._records(reader, codes)

    def _mark(self, promotion: Item) -> str:
        """Reduce a promotion to what moves with its codes, and what decides how their records look."""
        looks = [promotion.get(name) for name in ("uses", "uses_allowed", "update_date", "status", "deleted")]
        return blake2b(encode(readable([*looks, *sorted(self._wanted())])), digest_size=DIGEST_BYTES).hexdigest()

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
            pages = self._client.pages("promotion/code/list", "promo_code_id", promotion_id=promotion_id)
            return self._records(reader, (code for page in pages for code in page))
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
            chunk = self._records(reader, page, read_at=began)
            yield chunk
            sent += len(chunk)
        self._tell_misfits(reader)
        self.logger.info("subscriptions: %d to send, changed since %s", sent, since.isoformat() if since else "ever")
        if self._incremental and self._most is None:
            lookback = timedelta(minutes=self.config["lookback"])
            self._move_bookmark((moment_of(iso_of(began or self._client.clock)) - lookback).isoformat())

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
