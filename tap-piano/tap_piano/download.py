"""The file of an export job, from its signed link to the disk; the link stands in no log, error or state."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from piano_engage_common.stops import AnswerRefused
from piano_engage_common.transport import TryAgain

if TYPE_CHECKING:
    from pathlib import Path

    import requests

    from tap_piano.reports import ExportJob

CHUNK_BYTES: Final = 1 << 20
DEAD_LINK: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
NOT_A_FILE: Final = (b"<", b"{", b"[")
"""How pages and messages begin that come in place of the file."""


class LinkDied(Exception):  # noqa: N818 - what happened
    """The link works no more; another one may."""


class Download:
    """One download, gone on with where it broke off if the server can.

    Args:
        job: whose file it is.
        link: signed; never shown.
        target: where the file goes, written under another name until it is complete.
    """

    def __init__(self, job: ExportJob, link: str, target: Path) -> None:
        """Begin with nothing."""
        self._job = job
        self._link = link
        self._target = target
        self._part = target.with_name(f"{target.name}.part")
        self._part.unlink(missing_ok=True)
        self._have = 0
        self._size: int | None = None
        self._tag: str | None = None

    def __repr__(self) -> str:
        """Show all but the link."""
        return f"{type(self).__name__}({self._target.name!r})"

    def go(self) -> None:
        """Download what is missing.

        Raises:
            TryAgain: the connection broke, or what came was not the file.
        """
        headers = {"Accept-Encoding": "identity"}
        if self._have and self._tag:
            headers |= {"Range": f"bytes={self._have}-", "If-Range": self._tag}
        with self._job.transport.open("GET", self._link, headers=headers, follow=True) as response:
            self._check_status(response)
            self._begin(response)
            self._read(response)
        self._check()
        self._part.rename(self._target)

    def _check_status(self, response: requests.Response) -> None:
        if response.status_code in DEAD_LINK:
            raise LinkDied
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            self._have, self._tag = 0, None
            msg = "cannot be gone on with where it broke off"
            raise TryAgain(msg)
        if response.status_code not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            msg = f"The file of export {self._job.export_id} was answered with HTTP {response.status_code}."
            raise AnswerRefused(msg)

    def _begin(self, response: requests.Response) -> None:
        """Note how much there is, and begin anew unless the server goes on at the right place."""
        length = response.headers.get("Content-Length", "")
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            span, _, size = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if span.partition("-")[0] != str(self._have):
                self._have, self._tag = 0, None
                msg = "was gone on with at the wrong place"
                raise TryAgain(msg)
            self._size = int(size) if size.isdecimal() else self._size
            return
        self._have = 0
        self._size = int(length) if length.isdecimal() else None
        ranges = response.headers.get("Accept-Ranges", "") == "bytes"
        tag = response.headers.get("ETag", "")
        self._tag = tag if ranges and tag and not tag.startswith("W/") else None
        self._job.tell_of_file(response, self._size)

    def _read(self, response: requests.Response) -> None:
        size = self._size
        label = f"export {self._job.export_id}: downloading"
        amount = f"{size / 1e6:,.0f} MB" if size else ""
        with (
            self._part.open("r+b" if self._have else "wb") as file,
            self._job.progress.steps(label, lambda: 100 * self._have / size if size else 0.0, size=amount),
        ):
            file.seek(self._have)
            while chunk := response.raw.read(CHUNK_BYTES, decode_content=True):
                file.write(chunk)
                self._have += len(chunk)

    def _check(self) -> None:
        """Make sure that all of it came, and that it is a file."""
        if self._size is not None and self._have != self._size:
            msg = f"ended after {self._have:,} of {self._size:,} bytes"
            raise TryAgain(msg)
        with self._part.open("rb") as file:
            begins = file.read(64).lstrip()
        if begins.startswith(NOT_A_FILE):
            self._have = 0
            msg = "brought a web page or a message in place of the file"
            raise TryAgain(msg)
