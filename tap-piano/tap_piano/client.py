"""Piano's Publisher API, version 3: where it is, how it is asked, and how its lists are paged.

Facts are those of the project's fact sheet of the Piano API, 1.1 to 1.9: `offset` and `limit`, lists that move while
one pages. What an answer means is the subject of `answers.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from piano_engage_common.stops import Outage
from piano_engage_common.transport import TryAgain, label_of

from tap_piano.answers import BadParameters, Unanswered, judge, judge_write

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

    from piano_engage_common.transport import Transport

    from tap_piano.answers import Page

REGIONS: Final[dict[str, str]] = {
    "us": "https://api.piano.io/api/v3",
    "eu": "https://api-eu.piano.io/api/v3",
    "au": "https://api-au.piano.io/api/v3",
    "ap": "https://api-ap.piano.io/api/v3",
    "sandbox": "https://sandbox.piano.io/api/v3",
}
"""Base of the Publisher API by region (fact sheet, 1.1)."""

SMALL_PAGE: Final = 100
"""Piano's own default, asked for when a larger page is refused."""

PASSES: Final = 12
"""How often a list that moves is read before the run gives up."""


class PianoClient:
    """The Publisher API of one application.

    Args:
        transport: sends the requests.
        url: base, such as ``https://api-eu.piano.io/api/v3``.
        aid: the application.
        token: its API token; goes out in a header.
        page_size: items to ask for at a time.
        logger: told of lists that move.

    Attributes:
        clock: Piano's clock at its last answer, in epoch seconds; None before the first.
        skew: seconds by which Piano's clock is ahead of ours; None before the first answer.
    """

    def __init__(
        self, transport: Transport, *, url: str, aid: str, token: str, page_size: int, logger: logging.Logger
    ) -> None:
        """Remember whom to ask; nothing is sent yet."""
        self.aid = aid
        self.clock: int | None = None
        self.skew: float | None = None
        self._transport = transport
        self._url = url.rstrip("/")
        self._token = token
        self._page_size = page_size
        self._logger = logger

    def __repr__(self) -> str:
        """Show all but the token."""
        return f"{type(self).__name__}({self._url!r}, aid={self.aid!r})"

    def get(self, path: str, **params: Any) -> Page:  # noqa: ANN401 - texts, numbers and lists of them
        """Ask once, such as ``get("term/get", term_id="TM…")``.

        Raises:
            Outage: Piano did not answer.
            AccessRefused, NotFound, AnswerRefused: as :func:`.judge` says.
        """
        url, label = self._place("GET", path)

        def attempt() -> Page:
            params_ = {"aid": self.aid, **params}
            return judge(label, self._transport.once("GET", url, params=params_, headers=self._headers()))

        return self._noted(self._transport.retrying(label, attempt))

    def ask(self, path: str, **form: Any) -> Page:  # noqa: ANN401 - as in get
        """Ask once by POST, of an endpoint that changes nothing, such as ``ask("term/change/can", …)``.

        Raises:
            Outage: Piano did not answer.
            AccessRefused, NotFound, PianoRefused: as :func:`.judge` says.
        """
        url, label = self._place("POST", path)
        headers, data = self._headers(form=True), self._form(form)

        def attempt() -> Page:
            return judge(label, self._transport.once("POST", url, headers=headers, data=data))

        return self._noted(self._transport.retrying(label, attempt))

    def write(self, path: str, *, by_get: bool = False, **form: Any) -> Page:  # noqa: ANN401 - as in get
        """Have Piano do something. It is sent again only where Piano surely did nothing (decision 16 of the design).

        Args:
            path: of the endpoint.
            by_get: the endpoint takes its parameters from the query, although it changes something.
            form: its parameters.

        Raises:
            Unanswered: Piano may have done it, or not.
            Outage: Piano could not be reached, and did nothing.
            AccessRefused, PianoRefused: as :func:`.judge_write` says.
        """
        method = "GET" if by_get else "POST"
        url, label = self._place(method, path)
        headers, data = self._headers(form=not by_get), None if by_get else self._form(form)
        params = {"aid": self.aid, **form} if by_get else None

        def attempt() -> Page:
            try:
                answer = self._transport.once(method, url, params=params, headers=headers, data=data)
            except TryAgain as e:
                if e.untouched:
                    raise
                msg = f"{label} {e.problem}, so it may be done or not"
                raise Unanswered(msg) from e
            return judge_write(label, answer)

        return self._noted(self._transport.retrying(label, attempt))

    def _place(self, method: str, path: str) -> tuple[str, str]:
        url = f"{self._url}/publisher/{path}"
        return url, label_of(method, url)

    def _headers(self, *, form: bool = False) -> dict[str, str]:
        headers = {"api_token": self._token, "Accept": "application/json"}
        return headers | {"Content-Type": "application/x-www-form-urlencoded"} if form else headers

    def _form(self, form: Mapping[str, Any]) -> bytes:
        """Write a form as Piano reads it: truth values as words, nothing for None."""
        given = {"aid": self.aid, **form}
        words = {True: "true", False: "false"}
        pairs = {
            name: words[value] if isinstance(value, bool) else value
            for name, value in given.items()
            if value is not None
        }
        return urlencode(pairs).encode()

    def _noted(self, page: Page) -> Page:
        """Remember what Piano's clock said."""
        self.clock = page.ts
        self.skew = page.ts - time.time()
        return page

    def some(self, path: str, most: int, **params: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - as in get
        """List the first items with one request: *most*, or a page if that is less."""
        return self.get(path, offset=0, limit=min(most, self._page_size), **params).items

    def pages(self, path: str, id_key: str, **params: Any) -> Iterator[list[dict[str, Any]]]:  # noqa: ANN401 - as in get
        """List all items, each of them once, a page at a time.

        Items without an id come as often as the first reading meets them; it is for the caller to reject them. A list
        that holds an id twice is complete when it was read twice and brought nothing new.

        The next page begins with the last item of the one before: another one there, or another `total`, tells that
        the list has moved meanwhile. Then it is read again for what slipped through.

        Args:
            path: of the endpoint.
            id_key: the member that tells items apart.
            params: further ones, such as filters.

        Raises:
            Outage: Piano did not answer, or the list moved as often as it was read.
            AccessRefused, NotFound, AnswerRefused: as :func:`.judge` says.
        """
        seen: set[Any] = set()
        for number in range(PASSES):
            walk = _Walk()
            found = 0
            for page in self._walk(path, id_key, walk, params):
                keyed = {key: item for item in page if (key := key_of(item, id_key)) is not None and key not in seen}
                fresh = list(keyed.values())
                seen.update(keyed)
                found += len(fresh)
                odd = [] if number else [item for item in page if key_of(item, id_key) is None]
                if fresh or odd:
                    yield [*fresh, *odd]
            complete = walk.total is None or len(seen) + walk.without_key >= walk.total
            again = number and not found
            if (complete or again) and (not walk.moved or (complete and again)):
                return
            self._logger.info(
                "%s moved while it was read (%d of %s items so far): reading it again", path, len(seen), walk.total
            )
        msg = f"{path} changed each of the {PASSES} times it was read, so it cannot be known to be complete. Run again."
        raise Outage(msg)

    def _walk(self, path: str, id_key: str, walk: _Walk, params: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        offset, last = 0, None
        while True:
            page = self._page_at(path, offset, params)
            items = page.items
            walk.note_total(page.total)
            if offset and (not items or key_of(items[0], id_key) != last):
                walk.moved = True
            walk.without_key += sum(key_of(item, id_key) is None for item in items[1 if offset else 0 :])
            yield items
            end = offset + len(items)
            fresh = len(items) - (1 if offset else 0)
            if page.total is None:
                if fresh < self._page_size - (1 if offset else 0):
                    return
            elif end >= page.total:
                return
            if fresh < 1:
                walk.moved = True
                return
            offset, last = end - 1, key_of(items[-1], id_key)

    def _page_at(self, path: str, offset: int, params: dict[str, Any]) -> Page:
        try:
            return self.get(path, offset=offset, limit=self._page_size, **params)
        except BadParameters:
            if self._page_size <= SMALL_PAGE:
                raise
            self._logger.warning("%s takes no pages of %d items: going on with %d", path, self._page_size, SMALL_PAGE)
            self._page_size = SMALL_PAGE
            return self.get(path, offset=offset, limit=SMALL_PAGE, **params)


def key_of(item: dict[str, Any], id_key: str) -> str | int | None:
    """Return what tells an item apart; None where it has nothing that could."""
    value = item.get(id_key)
    return value if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


@dataclass(slots=True)
class _Walk:
    """What one reading of a list showed: its total, whether it moved meanwhile, and how many items have no id."""

    total: int | None = None
    moved: bool = False
    without_key: int = 0

    def note_total(self, total: int | None) -> None:
        """Compare with the total of the pages before."""
        if total is not None:
            self.moved = self.moved or (self.total is not None and total != self.total)
            self.total = total
