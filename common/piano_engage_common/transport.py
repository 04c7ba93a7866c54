"""HTTP for the APIs of Piano and Engage: one place for retries, pace, timeouts and what may be told of a request.

Nothing that leaves here names a token, a parameter or a body. An error says the method, the path and what was wrong
with the answer, never what stood in it.
"""

from __future__ import annotations

import json
import logging
import math
import random
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import requests
import tenacity
import urllib3
from typing_extensions import override

from piano_engage_common.pace import Pace
from piano_engage_common.stops import Outage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tenacity import RetryCallState

T = TypeVar("T")

CHUNK_BYTES: Final = 1 << 16
MAX_ANSWER_BYTES: Final = 1 << 28
MAX_DIGITS: Final = 1000
"""No page of a list is nearly as long as this."""

LONGEST_WAIT: Final = 60.0
"""Seconds; waits between attempts grow up to this, unless the server asks for a longer one."""

AGAIN: Final = frozenset({408, 425, 429})
"""HTTP statuses after which the same request may well succeed, beside all from 500 on, known or not."""

UNTOUCHED: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""Of these, those by which a server says that it did not begin (decision 16 of the design)."""


class TryAgain(Exception):  # noqa: N818 - what to do, which is the point of it
    """The request may succeed if it is sent again.

    Args:
        problem: what went wrong, to be read after "GET /path".
        not_before: seconds that the server asks to wait.
        untouched: the server surely did nothing of what was asked, so that a write may be sent again too.
        status: the HTTP status of the answer; 0 where no whole answer came.
    """

    def __init__(self, problem: str, *, not_before: float = 0.0, untouched: bool = False, status: int = 0) -> None:
        """Remember the problem."""
        super().__init__(problem)
        self.problem = problem
        self.not_before = not_before
        self.untouched = untouched
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to go on trying.

    Attributes:
        timeout: seconds without a byte before an attempt counts as lost, and for the whole of a short answer.
        attempts: how often a request is sent at most.
        wait: seconds before the second attempt, doubled each time and jittered; 0 waits only when a server asks.
        total: seconds after which no further attempt begins.
    """

    timeout: float = 30.0
    attempts: int = 6
    wait: float = 1.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer: its HTTP status, and the JSON object in its body if there was one."""

    status: int
    body: dict[str, Any] | None


class RunEnds(Exception):  # noqa: N818 - no error: somebody asked the run to end
    """The run is to end; raised in threads that wait."""


@dataclass(slots=True)
class Stopping:
    """Wakes whoever waits, once the run is to end."""

    event: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float) -> None:
        """Rest for so many seconds.

        Raises:
            RunEnds: the run is to end.
        """
        if self.event.wait(seconds):
            raise RunEnds


class Transport:
    """Sends requests, paced and retried; used by many threads.

    Args:
        patience: how long to go on trying.
        rate: requests a second over all threads, retries included; 0 is no limit.
        logger: told of each attempt that has to be repeated.
        stopping: ends all waiting when the run ends.
        at_once: short requests in flight at a time; what is made of an answer does not count.
        afterwards: what happens when patience is at its end, for the error.
    """

    def __init__(
        self,
        *,
        patience: Patience,
        rate: float,
        logger: logging.Logger,
        stopping: Stopping | None = None,
        at_once: int = 1,
        afterwards: str = "the next run goes on from the last bookmark",
    ) -> None:
        """Begin without a connection."""
        self.patience = patience
        self.stopping = stopping or Stopping()
        self.pace = Pace(rate, wait=self.stopping.wait)
        self._logger = logger
        self._afterwards = afterwards
        self._sessions = threading.local()
        self._slots = threading.BoundedSemaphore(at_once)
        conceal_queries()

    def once(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        data: bytes | None = None,
        may_be_empty: bool = False,
    ) -> Answer:
        """Send a request once and read its answer; for use inside :meth:`retrying`.

        Args:
            method: ``GET`` or ``POST``.
            url: without a query.
            params: of the query; a list becomes a repeated name.
            headers: such as the one with the token.
            data: the body.
            may_be_empty: an answer without a body is one.

        Raises:
            TryAgain: the answer did not come, did not end, or was no JSON.
        """
        with self._slots, self.open(method, url, params=params, headers=headers, data=data) as response:
            body = self._body(response)
        return _answer(response, body, may_be_empty=may_be_empty)

    def retrying(self, label: str, attempt: Callable[[], T]) -> T:
        """Call *attempt* until it raises :class:`TryAgain` no more.

        Raises:
            Outage: patience is at its end.
        """
        patience = self.patience

        def tell(state: RetryCallState) -> None:
            again = _problem(state)
            seconds = state.next_action.sleep if state.next_action else 0.0
            self._logger.warning(
                "%s %s; attempt %d of %d follows in %.1f s",
                label,
                again.problem,
                state.attempt_number + 1,
                patience.attempts,
                seconds,
            )

        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(TryAgain),
                stop=tenacity.stop_after_attempt(patience.attempts) | tenacity.stop_before_delay(patience.total),
                wait=self._wait,
                sleep=self.stopping.wait,
                before_sleep=tell,
                reraise=True,
            )(attempt)
        except TryAgain as e:
            wish = f", which asks to wait {e.not_before:,.0f} s" if e.not_before > patience.total else ""
            msg = (
                f"{label} {e.problem}{wish}; given up after several attempts (retry_attempts is {patience.attempts}, "
                f"retry_seconds {patience.total:g}). Nothing is lost: {self._afterwards}."
            )
            raise Outage(msg) from e

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str | bytes] | None = None,
        data: bytes | None = None,
        follow: bool = False,
    ) -> Iterator[requests.Response]:
        """Send a request once, and give its answer with the body still to be read.

        Args:
            method: ``GET`` or ``POST``.
            url: without a query, or a link as it was given.
            params: of the query.
            headers: such as the one with the token.
            data: the body.
            follow: go where a redirection points; only for requests that carry no token, for it would go there too.

        Raises:
            TryAgain: the connection broke, now or while the body is read in the ``with`` block, or the server asks
                to come again.
        """
        self.pace.keep()
        with _broken_connections():
            response = self._session().request(
                method,
                url,
                params=params,
                headers=headers,
                data=data,
                stream=True,
                timeout=self.patience.timeout,
                allow_redirects=follow,
            )
            with response:
                if response.status_code in AGAIN or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise TryAgain(
                        _status_words(response.status_code),
                        not_before=_retry_after(response),
                        untouched=response.status_code in UNTOUCHED,
                        status=response.status_code,
                    )
                yield response

    def _session(self) -> requests.Session:
        """Give each thread a session of its own, since requests does not promise that they can be shared."""
        session: requests.Session | None = getattr(self._sessions, "session", None)
        if session is None:
            session = self._sessions.session = requests.Session()
            session.auth = _leave_alone
        return session

    def _body(self, response: requests.Response) -> bytes:
        """Read a short body; one that comes drop by drop shall not hold the run up for ever."""
        deadline = time.monotonic() + self.patience.timeout
        body = bytearray()
        # read1() gives what is there; iter_content() would wait for a full chunk, and the deadline with it.
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            body += chunk
            if time.monotonic() > deadline or len(body) > MAX_ANSWER_BYTES:
                msg = f"did not end within {self.patience.timeout:g} s"
                raise TryAgain(msg)
        return bytes(body)

    def _wait(self, state: RetryCallState) -> float:
        """Compute the seconds to wait: growing, jittered, and never less than the server asks for."""
        backoff = min(self.patience.wait * 2 ** (state.attempt_number - 1), LONGEST_WAIT)
        jittered = random.uniform(backoff / 2, backoff)  # noqa: S311 - to spread load, not to keep secrets
        asked = _problem(state).not_before
        return asked + jittered if asked else jittered


def label_of(method: str, url: str) -> str:
    """Name a request for messages: no query, no token."""
    return f"{method} {urlsplit(url).path}"


def _leave_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from adding what stands in the user's .netrc."""
    return request


def _problem(state: RetryCallState) -> TryAgain:
    error = state.outcome.exception() if state.outcome else None
    return error if isinstance(error, TryAgain) else TryAgain(str(error))


@contextmanager
def _broken_connections() -> Iterator[None]:
    try:
        yield
    except requests.exceptions.SSLError as e:
        msg = "met a server whose certificate is not trusted (is there a proxy? set REQUESTS_CA_BUNDLE)"
        raise TryAgain(msg) from e
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as e:
        msg = "was not answered in time"
        raise TryAgain(msg, untouched=_never_connected(e)) from e
    except (requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError) as e:
        msg = "was answered with a body that cannot be unpacked"
        raise TryAgain(msg) from e
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.ChunkedEncodingError,
        urllib3.exceptions.HTTPError,  # met where the body is read past requests
        OSError,
    ) as e:
        msg = "lost its connection, or found none"
        raise TryAgain(msg, untouched=_never_connected(e)) from e


def _never_connected(error: Exception) -> bool:
    """Whether there was no connection at all, so that the server cannot have heard of the request."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, urllib3.exceptions.MaxRetryError) else cause
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)


def _answer(response: requests.Response, body: bytes, *, may_be_empty: bool) -> Answer:
    if may_be_empty and not body.strip():
        return Answer(response.status_code, {})
    try:
        content = _content(body)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return Answer(response.status_code, content)
    if response.status_code < HTTPStatus.MULTIPLE_CHOICES:
        kind = "HTML" if body.lstrip()[:1] == b"<" else "something that is not a JSON object"
        msg = f"was answered with {kind}"
        raise TryAgain(msg)
    return Answer(response.status_code, None)


def _content(body: bytes) -> Any:  # noqa: ANN401 - JSON
    """Parse a body; a whole number of more digits than Python reads counts as infinity, and does not cost the rest."""
    try:
        return json.loads(body)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(body, parse_int=lambda digits: int(digits) if len(digits) < MAX_DIGITS else math.inf)


def _status_words(status: int) -> str:
    return f"was answered with {status} {phrase_of(status)}".rstrip()


def phrase_of(status: int) -> str:
    """Return the words that go with an HTTP status; none where it is not a registered one."""
    return next((known.phrase for known in HTTPStatus if known == status), "")


def _retry_after(response: requests.Response) -> float:
    """Read ``Retry-After``: seconds, or a date that counts from the server's own ``Date``; 0 for none."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d*)?|\.\d+", text, re.ASCII):  # no float() alone: "nan" and "inf" are numbers to it
        return float(text)
    with suppress(ValueError):
        until = parsedate_to_datetime(text)
        now = parsedate_to_datetime(response.headers["Date"]) if "Date" in response.headers else None
        return max(until.timestamp() - (now.timestamp() if now else time.time()), 0.0)
    return 0.0


class _NoQueries(logging.Filter):
    """Cuts queries off the lines that urllib3 writes about each request: they may hold a token or a signature."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                argument.partition("?")[0] if isinstance(argument, str) else argument for argument in record.args
            )
        return True


def conceal_queries() -> None:
    """Make urllib3's debug log fit to be shown; any number of calls has the effect of one."""
    for name in ("urllib3.connectionpool", "urllib3.util.retry", "urllib3.connection", "urllib3.response"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, _NoQueries) for known in logger.filters):
            logger.addFilter(_NoQueries())
