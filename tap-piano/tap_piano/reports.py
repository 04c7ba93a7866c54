"""Piano's Reports API: the export job of the subscription log, from the request to the file on disk.

Facts are those of the project's fact sheet of the Piano API, section 2. The job is scheduled, asked after until it is
finished, its link is fetched and followed at once. The token travels in the query or in a header, by setting; neither
it nor the link, which is signed, stands in a log, an error or a state.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from piano_engage_common.stops import AccessRefused, AnswerRefused, Outage
from piano_engage_common.transport import label_of

from tap_piano.download import Download, LinkDied

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    import requests
    from piano_engage_common.progress import Progress
    from piano_engage_common.transport import Answer, Transport

DEFAULT_URL: Final = "https://reports-api.piano.io/rest"
"""The only host ever seen, whatever the region (fact sheet, 1.1)."""

WAITING: Final = frozenset({"CREATED", "IN_PROGRESS", "REPROCESS", "DUPLICATE"})
FINISHED: Final = "FINISHED"
DUPLICATE: Final = "DUPLICATE"
GONE: Final = "REMOVED"
FAILED: Final = frozenset({"INTERNAL_ERROR", "FAILED"})
"""Words of `job_status` (fact sheet, 2.3); other ones are waited out like the first four."""

RESTARTS: Final = 2
"""How often a job that failed or vanished is scheduled anew."""

LINKS: Final = 5
"""How many links of one job are tried: they die after half an hour."""

WAIT_GROWTH: Final = 1.5
LONGEST_POLL: Final = 30.0
ERROR_TEXT_LENGTH: Final = 200

OLD_SECONDS: Final = 120.0
"""An export that is older than this when the job is accepted was made for somebody else."""


class _Lost(Exception):  # noqa: N818 - what happened
    """The job came to nothing; another one may not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How to ask for an export.

    Attributes:
        url: base, such as ``https://reports-api.piano.io/rest``.
        aid: the application.
        token: its API token.
        token_in: ``"query"`` or ``"header"``.
        wait: seconds after which a job counts as one that never finishes.
        poll: seconds between the first two questions; they grow from there.
    """

    url: str
    aid: str
    token: str
    token_in: str = "query"  # noqa: S105 - a place, no password
    wait: float = 7200.0
    poll: float = 2.0

    def __repr__(self) -> str:
        """Show all but the token."""
        return f"{type(self).__name__}(url={self.url!r}, aid={self.aid!r})"


class ExportJob:
    """Gets one export of the subscription log.

    Args:
        transport: sends the requests.
        options: whom to ask and how long.
        progress: told how far job and download are.
        logger: for one line about each noteworthy thing.

    Attributes:
        export_id: Piano's id of the job; empty before it is scheduled.
        made_at: when Piano made the file, by its own clock; None while that is not known.
    """

    def __init__(
        self, transport: Transport, options: ExportOptions, *, progress: Progress, logger: logging.Logger
    ) -> None:
        """Remember what to ask for; nothing is sent yet."""
        self.export_id = ""
        self.made_at: datetime | None = None
        self._transport = transport
        self._options = options
        self._url = options.url.rstrip("/") + "/export"
        self._progress = progress
        self._logger = logger
        self._percent = 0.0
        self._strange: set[str] = set()
        self._was_duplicate = False

    def probe(self) -> None:
        """Find out with one harmless request whether token and application may use the Reports API.

        Raises:
            AccessRefused: they may not.
            Outage, AnswerRefused: the Reports API is not there.
        """
        answer = self._ask("GET", "/status", export_id="probe")
        if answer.status not in {HTTPStatus.OK, HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR}:
            label = label_of("GET", f"{self._url}/status")
            msg = f"{label} was answered with HTTP {answer.status}. Is reports_url ({self._options.url}) right?"
            raise AnswerRefused(msg)

    def fetch(self, groups: Sequence[str], target: Path) -> None:
        """Have the export made and write its file to *target*.

        Args:
            groups: the ``attribute_groups`` whose columns are wanted.
            target: a file that does not exist yet.

        Raises:
            Outage: the job did not finish in time, failed again and again, or the file could not be had.
            AccessRefused: token and application do not fit, or may not use the Reports API.
            AnswerRefused: an answer cannot be used.
        """
        restarts = 0
        while True:
            try:
                self._schedule(groups)
                self._download(target)
            except _Lost as e:
                if restarts == RESTARTS:
                    msg = f"The export of the subscription log {e}, {restarts + 1} times in a row. Run again later."
                    raise Outage(msg) from e
                restarts += 1
                self._logger.warning("export %s %s: asking for a new one", self.export_id, e)
                self._transport.stopping.wait(self._options.poll)
            else:
                return

    # The job

    def _schedule(self, groups: Sequence[str]) -> None:
        job = self._job("POST", "/schedule/vx/subscriptionLog", attribute_groups=list(groups))
        self.export_id = str(job.get("export_id") or "")
        if not self.export_id:
            msg = "The Reports API accepted an export and gave no export_id. Is reports_url right?"
            raise AnswerRefused(msg)
        self._logger.info("export %s: asked for, %s", self.export_id, _status(job))
        self._was_duplicate = _status(job) == DUPLICATE
        if self._was_duplicate:
            self._logger.info("export %s: Piano hands back one that was asked for lately", self.export_id)
        self._percent = 0.0
        began = time.monotonic()
        with self._progress.steps(f"export {self.export_id}: Piano is making it", lambda: self._percent):
            self._wait(job, began)
        self._logger.info("export %s: finished after %.0f s", self.export_id, time.monotonic() - began)

    def _wait(self, job: dict[str, Any], began: float) -> None:
        """Ask until the job is finished, the first time at once: a duplicate may be."""
        pause = 0.0
        ready = _status(job) != DUPLICATE and self._is_ready(job)
        while not ready:
            waited = time.monotonic() - began
            if waited + pause > self._options.wait:
                msg = (
                    f"Export {self.export_id} did not finish within {self._options.wait:g} s (export_wait); Piano says "
                    f"{_status(job)} at {self._percent:.0f} %. Look at Piano's Console, or raise export_wait; the next "
                    "run asks again."
                )
                raise Outage(msg)
            self._transport.stopping.wait(pause)
            pause = min(max(pause * WAIT_GROWTH, self._options.poll), LONGEST_POLL)
            job = self._job("GET", "/status", export_id=self.export_id)
            with suppress(TypeError, ValueError):
                self._percent = float(job.get("percent_complete") or 0)
            ready = self._is_ready(job)

    def _is_ready(self, job: dict[str, Any]) -> bool:
        status = _status(job)
        if status == FINISHED:
            return True
        if status == DUPLICATE:
            return self._link() is not None  # nobody knows whether such a job ever says FINISHED
        if status in FAILED:
            raise _Lost(f"ended as {status}: {self._shown(job.get('error_text'))}")
        if status == GONE:
            raise _Lost("was removed before it could be had")
        if status not in WAITING and status not in self._strange:
            self._strange.add(status)
            self._logger.warning("export %s: unknown status %r, waiting on", self.export_id, status[:40])
        return False

    def _shown(self, text: object) -> str:
        """Make a message of Piano's fit to be logged."""
        words = " ".join(str(text or "no reason given").split())
        return words.replace(self._options.token, "(token)")[:ERROR_TEXT_LENGTH]

    # The file

    def _download(self, target: Path) -> None:
        """Download, with a new link whenever one died."""
        for number in range(LINKS):
            if number:
                job = self._job("GET", "/status", export_id=self.export_id)
                if not self._is_ready(job):
                    raise _Lost(f"was finished and is {_status(job)} now")
            link = self._link()
            if link is None:
                raise _Lost("is finished, but has no link")
            try:
                self._transport.retrying(f"the download of export {self.export_id}", Download(self, link, target).go)
            except LinkDied:
                self._logger.info("export %s: its link works no more, asking for another", self.export_id)
            else:
                return
        raise _Lost(f"cannot be downloaded: {LINKS} links did not work")

    def _link(self) -> str | None:
        """Ask for the link; None when the job is not finished, which is answered with 400."""
        answer = self._ask("GET", "/download/url", export_id=self.export_id)
        if answer.status == HTTPStatus.BAD_REQUEST:
            return None
        body = _unwrapped(answer.body or {})
        link = body.get("url") or body.get("data")
        if answer.status != HTTPStatus.OK or not isinstance(link, str):
            msg = f"The Reports API was asked for the link of export {self.export_id} and gave none."
            raise AnswerRefused(msg)
        return link

    def tell_of_file(self, response: requests.Response, size: int | None) -> None:
        """Log what is downloaded, and how old it is if it was made for somebody else."""
        amount = f"{size / 1e6:,.1f} MB" if size is not None else "unknown size"
        self._logger.info("export %s: downloading %s", self.export_id, amount)
        self.made_at, now = _moment(response, "Last-Modified"), _moment(response, "Date")
        if not self._was_duplicate or self.made_at is None or now is None:
            return
        age = (now - self.made_at).total_seconds()
        if age > OLD_SECONDS:
            self._logger.warning(
                "export %s: is an earlier one, %.0f minutes old; what changed since comes with the next run",
                self.export_id,
                age / 60,
            )

    @property
    def transport(self) -> Transport:
        """What sends the requests."""
        return self._transport

    @property
    def progress(self) -> Progress:
        """Who is told how far the work is."""
        return self._progress

    # Requests

    def _job(self, method: str, path: str, **params: Any) -> dict[str, Any]:  # noqa: ANN401 - texts and lists of them
        """Ask for a job object, which comes bare or wrapped."""
        answer = self._ask(method, path, **params)
        body = answer.body or {}
        label = label_of(method, f"{self._url}{path}")
        if answer.status != HTTPStatus.OK or body.get("code", 0) not in {0, 200}:
            code = f" and code {body['code']}" if isinstance(body.get("code"), int) else ""
            hint = "Does this export still exist?" if "export_id" in params else "Is aid right?"
            msg = f"{label} was answered with HTTP {answer.status}{code}. {hint}"
            if "export_id" in params and answer.status == HTTPStatus.BAD_REQUEST:
                raise _Lost("is unknown to Piano all of a sudden")
            raise AnswerRefused(msg)
        return _unwrapped(body)

    def _ask(self, method: str, path: str, **params: Any) -> Answer:  # noqa: ANN401 - as above
        """Ask, with token and application.

        Raises:
            AccessRefused: they do not fit, or may not use the Reports API.
        """
        url, options = f"{self._url}{path}", self._options
        params, headers = {"aid": options.aid, **params}, {"Accept": "application/json"}
        if options.token_in == "query":  # noqa: S105 - a place, no password
            params["api_token"] = options.token
        else:
            headers["api_token"] = options.token
        label = label_of(method, url)
        answer = self._transport.retrying(
            label, lambda: self._transport.once(method, url, params=params, headers=headers)
        )
        if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or (answer.body or {}).get("code") == 2:  # noqa: PLR2004 - access denied
            msg = (
                f"{label} was answered with HTTP {answer.status}: access denied. Check api_token and aid, and in "
                "Piano's Console whether the token may use the Reports API; `tap-piano --test` says which."
            )
            raise AccessRefused(msg)
        return answer


def _unwrapped(body: dict[str, Any]) -> dict[str, Any]:
    """Take an answer out of its wrapping, if it has one (fact sheet, 2.1)."""
    for key in ("export", "data"):
        if isinstance(body.get(key), dict):
            return dict(body[key])
    return body


def _status(job: dict[str, Any]) -> str:
    return str(job.get("job_status") or "no status").strip().upper()


def _moment(response: requests.Response, header: str) -> datetime | None:
    """Read a date of the answer's headers; None when it is not there."""
    with suppress(KeyError, ValueError):
        return parsedate_to_datetime(response.headers[header])
    return None
