"""Piano's Publisher API, version 3: where it is, what its answers mean, and how its lists are paged.

Facts are those of the project's fact sheet of the Piano API, 1.1 to 1.9: HTTP 200 with a `code` for errors, one data
key beside the envelope's own, `offset` and `limit`, lists that move while one pages.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from piano_engage_common.stops import AccessRefused, AnswerRefused, Outage
from piano_engage_common.transport import TryAgain, label_of

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator, Mapping

    from piano_engage_common.transport import Answer, Transport

REGIONS: Final[dict[str, str]] = {
    "us": "https://api.piano.io/api/v3",
    "eu": "https://api-eu.piano.io/api/v3",
    "au": "https://api-au.piano.io/api/v3",
    "ap": "https://api-ap.piano.io/api/v3",
    "sandbox": "https://sandbox.piano.io/api/v3",
}
"""Base of the Publisher API by region (fact sheet, 1.1)."""

ENVELOPE: Final = frozenset(
    {
        "code", "ts", "limit", "offset", "total", "count",
        "message", "localizedMessage", "validation_errors", "error_code_list",
    }
)  # fmt: skip
"""Keys of an answer that are not its data."""

SMALL_PAGE: Final = 100
"""Piano's own default, asked for when a larger page is refused."""

PASSES: Final = 12
"""How often a list that moves is read before the run gives up."""


class Decision(Enum):
    """What to do about an answer."""

    USE = auto()
    RETRY = auto()
    NO_ACCESS = auto()
    UNKNOWN_APPLICATION = auto()
    NOT_FOUND = auto()
    GIVE_UP = auto()


OF_STATUS: Final[dict[int, Decision]] = {
    HTTPStatus.UNAUTHORIZED: Decision.NO_ACCESS,
    HTTPStatus.FORBIDDEN: Decision.NO_ACCESS,
    HTTPStatus.NOT_FOUND: Decision.GIVE_UP,
}
"""By HTTP status; 408, 429 and 5xx never come so far, other statuses from 300 on are given up."""

OF_CODE: Final[dict[int, Decision]] = {
    0: Decision.USE,
    200: Decision.USE,
    1: Decision.RETRY,
    2: Decision.NO_ACCESS,
    402: Decision.UNKNOWN_APPLICATION,
    602: Decision.UNKNOWN_APPLICATION,
    403: Decision.NOT_FOUND,
    404: Decision.NOT_FOUND,
    1001: Decision.NOT_FOUND,
    2004: Decision.NOT_FOUND,
    8005: Decision.NOT_FOUND,
}
"""By the `code` in the body (fact sheet, 1.5); all others are given up. 429 there is "term name empty"."""

CODE_BAD_PARAMETERS: Final = 400


class PianoRefused(AnswerRefused):
    """Piano answered with a code that says no.

    Args:
        message: for a person.
        code: Piano's, from the body; None where there was none.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        """Remember the code."""
        super().__init__(message)
        self.code = code


class NotFound(PianoRefused):
    """What was asked about does not exist, or no more."""


class BadParameters(PianoRefused):
    """Piano takes a parameter for wrong."""


class Unanswered(Outage):
    """A write was sent and not answered as it should: Piano may have done it. Read back before doing it again."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer.

    Attributes:
        data: what stands under the one data key; None when there is no such key.
        ts: Piano's clock in epoch seconds.
        total: all items that match; None outside lists.
    """

    data: Any
    ts: int
    total: int | None = None

    @property
    def items(self) -> list[dict[str, Any]]:
        """The items of a list.

        Raises:
            AnswerRefused: the data is no list of objects.
        """
        items = self.data or []
        if isinstance(items, list) and all(isinstance(item, dict) for item in items):
            return items
        msg = "Piano answered something other than a list of objects where a list was asked for."
        raise AnswerRefused(msg)


def judge(label: str, answer: Answer) -> Page:
    """Decide what an answer of the Publisher API means; *label* names the request.

    Raises:
        TryAgain: Piano had a problem of its own.
        AccessRefused: token, application and region do not belong together, or may not do this.
        NotFound: what was asked about does not exist.
        AnswerRefused: the answer cannot be used.
    """
    body = answer.body or {}
    code = body.get("code", answer.status)
    decision = OF_STATUS.get(answer.status)
    if decision is None and answer.status >= HTTPStatus.MULTIPLE_CHOICES and "code" not in body:
        decision = Decision.GIVE_UP
    if decision is None:
        decision = OF_CODE.get(code, Decision.GIVE_UP) if isinstance(code, int) else Decision.GIVE_UP
    if decision is Decision.USE:
        return _page(label, body)
    what = f"code {code}" if "code" in body else "no code"
    problem = f"{label} was answered with HTTP {answer.status} and {what}"
    if decision is Decision.RETRY:
        msg = f"was answered with {what}, an error inside Piano"
        raise TryAgain(msg)
    if decision is Decision.NO_ACCESS:
        msg = (
            f"{problem}: access denied. Token, application id and region belong together: check api_token, aid and "
            "region; `tap-piano --test` says which of them is wrong."
        )
        raise AccessRefused(msg)
    if decision is Decision.UNKNOWN_APPLICATION:
        msg = f"{problem}: Piano does not know this application. Check aid, and that region is the application's own."
        raise AccessRefused(msg)
    if decision is Decision.NOT_FOUND:
        msg = f"{problem}: there is no such thing."
        raise NotFound(msg, code)
    if code == CODE_BAD_PARAMETERS:
        msg = f"{problem}: a parameter is wrong. Is api_url the base of Piano's Publisher API, version 3?"
        raise BadParameters(msg, code)
    msg = f"{problem}, which cannot be used. Is api_url the base of Piano's Publisher API, version 3?"
    raise PianoRefused(msg, code if "code" in body and isinstance(code, int) else None)


def judge_write(label: str, answer: Answer) -> Page:
    """Decide what an answer to a write means; *label* names the request.

    A write that is not surely done and not surely refused is unanswered: nobody can tell from here which it is.

    Raises:
        Unanswered: the answer does not say.
        AccessRefused: the token may do nothing.
        PianoRefused: Piano says no, with this code. Code 2 is among them: it stands for "not this one" as well.
    """
    body = answer.body or {}
    code = body.get("code")
    if OF_STATUS.get(answer.status) is Decision.NO_ACCESS:
        msg = f"{label} was answered with HTTP {answer.status}: access denied. Check api_token, aid and region."
        raise AccessRefused(msg)
    if not isinstance(code, int) or OF_CODE.get(code) is Decision.RETRY:
        what = f"code {code}" if isinstance(code, int) else "no code"
        msg = f"{label} was answered with HTTP {answer.status} and {what}, so it may be done or not"
        raise Unanswered(msg)
    if OF_CODE.get(code) is Decision.USE:
        return _page(label, body)
    msg = f"{label} was refused with code {code}"
    raise PianoRefused(msg, code)


def _page(label: str, body: dict[str, Any]) -> Page:
    keys = body.keys() - ENVELOPE
    if len(keys) > 1:
        msg = f"{label} was answered with several data keys ({', '.join(sorted(keys))}) where one is expected."
        raise AnswerRefused(msg)
    data = body[next(iter(keys))] if keys else None
    total = body.get("total")
    ts = body.get("ts")
    return Page(data, ts if isinstance(ts, int) else int(time.time()), total if isinstance(total, int) else None)


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
            AccessRefused, NotFound, AnswerRefused: as :func:`judge` says.
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
            AccessRefused, NotFound, PianoRefused: as :func:`judge` says.
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
            AccessRefused, PianoRefused: as :func:`judge_write` says.
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

        The next page begins with the last item of the one before: another one there, or another `total`, tells that
        the list has moved meanwhile. Then it is read again for what slipped through.

        Args:
            path: of the endpoint.
            id_key: the member that tells items apart.
            params: further ones, such as filters.

        Raises:
            Outage: Piano did not answer, or the list moved as often as it was read.
            AccessRefused, NotFound, AnswerRefused: as :func:`judge` says.
        """
        seen: set[Any] = set()
        for number in range(PASSES):
            walk = _Walk()
            found = 0
            for page in self._walk(path, id_key, walk, params):
                fresh = list({item.get(id_key): item for item in page if item.get(id_key) not in seen}.values())
                seen.update(item.get(id_key) for item in fresh)
                found += len(fresh)
                if fresh:
                    yield fresh
            complete = walk.total is None or len(seen) >= walk.total
            if complete and (not walk.moved or (number and not found)):
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
            if offset and (not items or items[0].get(id_key) != last):
                walk.moved = True
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
            offset, last = end - 1, items[-1].get(id_key)

    def _page_at(self, path: str, offset: int, params: dict[str, Any]) -> Page:
        try:
            return self.get(path, offset=offset, limit=self._page_size, **params)
        except BadParameters:
            if self._page_size <= SMALL_PAGE:
                raise
            self._logger.warning("%s takes no pages of %d items: going on with %d", path, self._page_size, SMALL_PAGE)
            self._page_size = SMALL_PAGE
            return self.get(path, offset=offset, limit=SMALL_PAGE, **params)


@dataclass(slots=True)
class _Walk:
    """What one reading of a list showed: its total, and whether it moved meanwhile."""

    total: int | None = None
    moved: bool = False

    def note_total(self, total: int | None) -> None:
        """Compare with the total of the pages before."""
        if total is not None:
            self.moved = self.moved or (self.total is not None and total != self.total)
            self.total = total
